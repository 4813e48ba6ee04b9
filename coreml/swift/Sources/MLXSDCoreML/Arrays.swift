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
                StridedArray.write(source, to: start, of: port.dtype, shape: port.shape, strides: strides)
            }
        }
        return array
    }

    /// Returns the numbers of a Core ML array in row-major order.
    func tensor(_ array: MLMultiArray, _ name: String) throws -> Tensor {
        let shape = array.shape.map(\.intValue)
        let strides = array.strides.map(\.intValue)
        guard let dtype = ModelSetInfo.PortType(rawValue: MLXSDCoreML.name(of: array.dataType)) else {
            throw DiffusionError(.network, "\(name) is of a type that is neither float16, float32 nor int32")
        }
        let count = shape.reduce(1, *)
        let values = [Float](unsafeUninitializedCapacity: count) { values, written in
            array.withUnsafeBytes { bytes in
                guard let target = values.baseAddress, let start = bytes.baseAddress else { return }
                StridedArray.read(start, of: dtype, shape: shape, strides: strides, into: target)
                written = count
            }
        }
        return Tensor(shape: shape, values: values)
    }
#endif
