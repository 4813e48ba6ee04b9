#if canImport(CoreAI)
    import CoreAI
    import MLXSDCore

    // Raw views hold halves as their bits, so that no type is needed that Intel Macs lack.

    /// Writes numbers in row-major order into an array, whose rows may be padded.
    @available(iOS 27.0, macOS 27.0, tvOS 27.0, watchOS 27.0, visionOS 27.0, *)
    func write(_ values: [Float], into array: inout NDArray, _ name: String) throws {
        let dtype = try portType(of: array, name)
        let (shape, strides) = (array.shape, array.strides)
        values.withUnsafeBufferPointer { values in
            guard let source = values.baseAddress else { return }
            let view = array.mutableRawView()
            view.withUnsafeMutableBytes { bytes, _, _ in
                StridedArray.write(source, to: bytes, of: dtype, shape: shape, strides: strides)
            }
        }
    }

    /// Returns the numbers of an array in row-major order.
    @available(iOS 27.0, macOS 27.0, tvOS 27.0, watchOS 27.0, visionOS 27.0, *)
    func tensor(_ array: NDArray, _ name: String) throws -> Tensor {
        let dtype = try portType(of: array, name)
        let (shape, strides) = (array.shape, array.strides)
        let count = shape.reduce(1, *)
        let values = [Float](unsafeUninitializedCapacity: count) { values, written in
            guard let target = values.baseAddress else { return }
            array.rawView().withUnsafeBytes { bytes, _, _ in
                StridedArray.read(bytes, of: dtype, shape: shape, strides: strides, into: target)
            }
            written = count
        }
        return Tensor(shape: shape, values: values)
    }

    /// Returns the type of an array's numbers; throws for one that models of this package do not have.
    @available(iOS 27.0, macOS 27.0, tvOS 27.0, watchOS 27.0, visionOS 27.0, *)
    private func portType(of array: NDArray, _ name: String) throws -> ModelSetInfo.PortType {
        guard let dtype = ModelSetInfo.PortType(rawValue: MLXSDCoreAI.name(of: array.scalarType)) else {
            throw DiffusionError(.network, "\(name) is of a type that is neither float16, float32 nor int32")
        }
        guard array.interleaveLayout == nil else {
            throw DiffusionError(.network, "\(name) has interleaved channels, which this package does not read")
        }
        return dtype
    }

    /// Returns the name in info.json of a type of Core AI.
    @available(iOS 27.0, macOS 27.0, tvOS 27.0, watchOS 27.0, visionOS 27.0, *)
    func name(of type: NDArray.ScalarType) -> String {
        if type == .float16 { return "float16" }
        if type == .float32 { return "float32" }
        return type == .int32 ? "int32" : "another type"
    }
#endif
