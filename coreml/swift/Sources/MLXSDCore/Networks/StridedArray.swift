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

    /// Copies an array of halves into numbers in row-major order.
    public static func read(
        halves: UnsafePointer<UInt16>, shape: [Int], strides: [Int], into values: UnsafeMutablePointer<Float>
    ) {
        let length = shape.last ?? 1
        forEachRow(shape: shape, strides: strides) { index, place, step in
            for i in 0..<length { values[index + i] = HalfFloat.float(halves[place + i * step]) }
        }
    }

    /// Copies an array of numbers into row-major order.
    public static func read(
        floats: UnsafePointer<Float>, shape: [Int], strides: [Int], into values: UnsafeMutablePointer<Float>
    ) {
        let length = shape.last ?? 1
        forEachRow(shape: shape, strides: strides) { index, place, step in
            for i in 0..<length { values[index + i] = floats[place + i * step] }
        }
    }

    /// Rounds numbers in row-major order into an array of halves.
    public static func write(
        _ values: UnsafePointer<Float>, shape: [Int], strides: [Int], halves: UnsafeMutablePointer<UInt16>
    ) {
        let length = shape.last ?? 1
        forEachRow(shape: shape, strides: strides) { index, place, step in
            for i in 0..<length { halves[place + i * step] = HalfFloat.bits(values[index + i]) }
        }
    }

    /// Copies numbers in row-major order into an array of numbers.
    public static func write(
        _ values: UnsafePointer<Float>, shape: [Int], strides: [Int], floats: UnsafeMutablePointer<Float>
    ) {
        let length = shape.last ?? 1
        forEachRow(shape: shape, strides: strides) { index, place, step in
            for i in 0..<length { floats[place + i * step] = values[index + i] }
        }
    }

    /// Copies whole numbers, stored as floats in row-major order, into an array of int32.
    public static func write(
        _ values: UnsafePointer<Float>, shape: [Int], strides: [Int], integers: UnsafeMutablePointer<Int32>
    ) {
        let length = shape.last ?? 1
        forEachRow(shape: shape, strides: strides) { index, place, step in
            for i in 0..<length { integers[place + i * step] = Int32(values[index + i]) }
        }
    }

    /// Copies an array of int32 into floats in row-major order.
    public static func read(
        integers: UnsafePointer<Int32>, shape: [Int], strides: [Int], into values: UnsafeMutablePointer<Float>
    ) {
        let length = shape.last ?? 1
        forEachRow(shape: shape, strides: strides) { index, place, step in
            for i in 0..<length { values[index + i] = Float(integers[place + i * step]) }
        }
    }
}
