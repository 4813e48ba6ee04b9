extension Tensor {
    /// Returns how many rows the first axis has.
    var rows: Int { shape[0] }

    /// Returns rows by their numbers, in that order; the same tensor where these are all of its rows.
    func rows(_ numbers: some RandomAccessCollection<Int>) -> Tensor {
        if numbers.elementsEqual(0..<rows) { return self }
        let length = values.count / rows
        var selected: [Float] = []
        selected.reserveCapacity(length * numbers.count)
        for number in numbers { selected += values[number * length..<(number + 1) * length] }
        return Tensor(shape: [numbers.count] + shape.dropFirst(), values: selected)
    }

    /// Returns the only row so many times.
    func repeated(_ count: Int) -> Tensor {
        rows(Array(repeating: 0, count: count))
    }

    /// Joins tensors along the first axis; the other axes are equal.
    static func joined(_ tensors: [Tensor]) -> Tensor {
        if tensors.count == 1 { return tensors[0] }
        var shape = tensors[0].shape
        shape[0] = tensors.reduce(0) { $0 + $1.rows }
        return Tensor(shape: shape, values: tensors.flatMap(\.values))
    }

    /// Joins tensors of equal rows along the second axis.
    static func joinedChannels(_ tensors: [Tensor]) -> Tensor {
        var shape = tensors[0].shape
        shape[1] = tensors.reduce(0) { $0 + $1.shape[1] }
        var values: [Float] = []
        values.reserveCapacity(shape.reduce(1, *))
        for row in 0..<shape[0] {
            for tensor in tensors {
                let length = tensor.values.count / tensor.rows
                values += tensor.values[row * length..<(row + 1) * length]
            }
        }
        return Tensor(shape: shape, values: values)
    }

    /// Returns the numbers times a factor.
    func scaled(_ factor: Float) -> Tensor {
        factor == 1 ? self : Tensor(shape: shape, values: values.map { $0 * factor })
    }

    /// Adds numbers of the same shape.
    mutating func add(_ other: Tensor) {
        for i in values.indices { values[i] += other.values[i] }
    }

    /// Returns the tensor below so many rows of zeros.
    func below(zeros count: Int) -> Tensor {
        let length = values.count / rows
        return Tensor(
            shape: [count + rows] + shape.dropFirst(),
            values: [Float](repeating: 0, count: count * length) + values)
    }
}
