/// Float32 numbers in row-major order, with a shape.
public struct Tensor: Sendable, Equatable {
    public let shape: [Int]
    public var values: [Float]

    /// Joins numbers and their shape; as many numbers as the shape says.
    public init(shape: [Int], values: [Float]) {
        precondition(shape.reduce(1, *) == values.count, "\(values.count) numbers are not of the shape \(shape)")
        self.shape = shape
        self.values = values
    }
}
