/// Copies numbers between row-major order and arrays with strides, whose rows may be padded.
public enum StridedArray {
    /// Calls with the first row-major index, the first place and the place's step of every row of the last axis.
    ///
    /// strides: in numbers, one for each axis. A shape without axes is one number.
    @inlinable
    public static func forEachRow(
        shape: [Int], strides: [Int], _ body: (_ index: Int, _ place: Int, _ step: Int) throws -> Void
    ) rethrows {
        let length = shape.last ?? 1
        let step = strides.last ?? 1
        let rows = shape.dropLast().reduce(1, *)
        var position = [Int](repeating: 0, count: max(shape.count - 1, 0))
        var place = 0
        for row in 0..<rows {
            try body(row * length, place, step)
            var axis = position.count - 1
            while axis >= 0 {
                position[axis] += 1
                place += strides[axis]
                if position[axis] < shape[axis] { break }
                place -= strides[axis] * shape[axis]
                position[axis] = 0
                axis -= 1
            }
        }
    }

    /// Writes numbers in row-major order into an array of a type; halves are rounded, integers are whole already.
    public static func write(
        _ values: UnsafePointer<Float>, to array: UnsafeMutableRawPointer, of type: ModelSetInfo.PortType,
        shape: [Int], strides: [Int]
    ) {
        switch type {
        case .float16: write(values, to: array, shape, strides, HalfFloat.bits)
        case .float32: write(values, to: array, shape, strides) { $0 }
        case .int32: write(values, to: array, shape, strides) { Int32($0) }
        }
    }

    /// Reads an array of a type into numbers in row-major order.
    public static func read(
        _ array: UnsafeRawPointer, of type: ModelSetInfo.PortType, shape: [Int], strides: [Int],
        into values: UnsafeMutablePointer<Float>
    ) {
        switch type {
        case .float16: read(array, shape, strides, into: values, HalfFloat.float)
        case .float32: read(array, shape, strides, into: values) { $0 }
        case .int32: read(array, shape, strides, into: values) { (number: Int32) in Float(number) }
        }
    }

    @inline(__always)
    private static func write<Number>(
        _ values: UnsafePointer<Float>, to array: UnsafeMutableRawPointer, _ shape: [Int], _ strides: [Int],
        _ convert: (Float) -> Number
    ) {
        let target = array.assumingMemoryBound(to: Number.self)
        let length = shape.last ?? 1
        forEachRow(shape: shape, strides: strides) { index, place, step in
            for i in 0..<length { target[place + i * step] = convert(values[index + i]) }
        }
    }

    @inline(__always)
    private static func read<Number>(
        _ array: UnsafeRawPointer, _ shape: [Int], _ strides: [Int], into values: UnsafeMutablePointer<Float>,
        _ convert: (Number) -> Float
    ) {
        let source = array.assumingMemoryBound(to: Number.self)
        let length = shape.last ?? 1
        forEachRow(shape: shape, strides: strides) { index, place, step in
            for i in 0..<length { values[index + i] = convert(source[place + i * step]) }
        }
    }
}
