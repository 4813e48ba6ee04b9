/// The bytes of an array with strides; bytes that nobody wrote are NaN.
public final class StridedStorage: @unchecked Sendable {
    public let shape: [Int]
    public let strides: [Int]
    public let dtype: String
    public let bytes: UnsafeMutableRawBufferPointer

    /// Reserves an array; padded: rows begin at multiples of 32 numbers.
    public init(shape: [Int], dtype: String, padded: Bool) {
        let layout = padded ? paddedStrides(shape) : contiguousStrides(shape)
        (self.shape, self.dtype, strides) = (shape, dtype, layout.strides)
        bytes = .allocate(byteCount: layout.count * (dtype == "float16" ? 2 : 4), alignment: 64)
        bytes.initializeMemory(as: UInt8.self, repeating: 0xff)
    }

    deinit { bytes.deallocate() }

    /// Returns another array with the same numbers.
    public func copy() -> StridedStorage {
        let copy = StridedStorage(shape: shape, dtype: dtype, padded: strides == paddedStrides(shape).strides)
        copy.bytes.copyMemory(from: UnsafeRawBufferPointer(bytes))
        return copy
    }

    /// The numbers in row-major order.
    public var values: [Float] {
        get {
            [Float](unsafeUninitializedCapacity: shape.reduce(1, *)) { values, count in
                eachRow { index, at, length in
                    switch dtype {
                    case "float16":
                        for i in 0..<length { values[index + i] = Float(pointer(Float16.self)[at + i]) }
                    case "int32":
                        for i in 0..<length { values[index + i] = Float(pointer(Int32.self)[at + i]) }
                    default:
                        for i in 0..<length { values[index + i] = pointer(Float.self)[at + i] }
                    }
                    count = index + length
                }
            }
        }
        set {
            eachRow { index, at, length in
                switch dtype {
                case "float16": for i in 0..<length { pointer(Float16.self)[at + i] = Float16(newValue[index + i]) }
                case "int32": for i in 0..<length { pointer(Int32.self)[at + i] = Int32(newValue[index + i]) }
                default: for i in 0..<length { pointer(Float.self)[at + i] = newValue[index + i] }
                }
            }
        }
    }

    private func pointer<T>(_ type: T.Type) -> UnsafeMutablePointer<T> {
        guard let start = bytes.baseAddress else { fatalError("no numbers") }
        return start.assumingMemoryBound(to: type)
    }

    /// Calls with the first index, the first place and the length of every row; numbers of a row follow each other.
    private func eachRow(_ body: (_ index: Int, _ at: Int, _ length: Int) -> Void) {
        let length = shape.last ?? 1
        for row in 0..<shape.dropLast().reduce(1, *) {
            body(row * length, place(of: row * length, shape: shape, strides: strides), length)
        }
    }

    /// The array as an input of a recorded run.
    public var input: Replay.Input { Replay.Input(shape: shape, dtype: dtype, values: values) }
}
