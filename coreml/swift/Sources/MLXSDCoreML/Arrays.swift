#if canImport(CoreML)
    import CoreML
    import Foundation
    import MLXSDCore

    /// Returns the type of Core ML for a type of info.json.
    func dataType(_ dtype: ModelSetInfo.PortType) -> MLMultiArrayDataType {
        switch dtype {
        case .float16: return .float16
        case .float32: return .float32
        case .int32: return .int32
        }
    }

    /// Returns the name in info.json of a type of Core ML.
    func name(of type: MLMultiArrayDataType) -> String {
        switch type {
        case .float16: return "float16"
        case .float32: return "float32"
        case .int32: return "int32"
        default: return "another type"
        }
    }

    /// Returns a Core ML array of numbers that are given in row-major order.
    func array(_ values: [Float], _ port: ModelSetInfo.Port) throws -> MLMultiArray {
        let array = try MLMultiArray(
            shape: port.shape.map { NSNumber(value: $0) }, dataType: dataType(port.dtype))
        values.withUnsafeBufferPointer { values in
            guard let source = values.baseAddress else { return }
            array.withUnsafeMutableBytes { bytes, strides in
                guard let start = bytes.baseAddress else { return }
                switch port.dtype {
                case .float16:
                    let target = start.assumingMemoryBound(to: UInt16.self)
                    StridedArray.write(source, shape: port.shape, strides: strides, halves: target)
                case .float32:
                    let target = start.assumingMemoryBound(to: Float.self)
                    StridedArray.write(source, shape: port.shape, strides: strides, floats: target)
                case .int32:
                    let target = start.assumingMemoryBound(to: Int32.self)
                    StridedArray.write(source, shape: port.shape, strides: strides, integers: target)
                }
            }
        }
        return array
    }

    /// Returns the numbers of a Core ML array in row-major order.
    func tensor(_ array: MLMultiArray, _ name: String) throws -> Tensor {
        let shape = array.shape.map(\.intValue)
        let strides = array.strides.map(\.intValue)
        let type = array.dataType
        guard [.float16, .float32, .int32].contains(type) else {
            throw DiffusionError(.network, "\(name) is of a type that is neither float16, float32 nor int32")
        }
        let count = shape.reduce(1, *)
        let values = [Float](unsafeUninitializedCapacity: count) { values, written in
            array.withUnsafeBytes { bytes in
                guard let target = values.baseAddress, let start = bytes.baseAddress else { return }
                switch type {
                case .float16:
                    let source = start.assumingMemoryBound(to: UInt16.self)
                    StridedArray.read(halves: source, shape: shape, strides: strides, into: target)
                case .int32:
                    let source = start.assumingMemoryBound(to: Int32.self)
                    StridedArray.read(integers: source, shape: shape, strides: strides, into: target)
                default:
                    let source = start.assumingMemoryBound(to: Float.self)
                    StridedArray.read(floats: source, shape: shape, strides: strides, into: target)
                }
                written = count
            }
        }
        return Tensor(shape: shape, values: values)
    }
#endif
