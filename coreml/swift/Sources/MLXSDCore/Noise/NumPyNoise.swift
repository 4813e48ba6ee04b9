import Foundation

/// The noise of NumPy's `RandomState(seed).standard_normal`, rounded to float32: the polar method of Marsaglia.
public struct NumPyNoise: NoiseGenerator {
    private var words: MersenneTwister
    private var second: Double?  // of a pair, of which the first has been drawn

    /// Begins the stream of a seed.
    public init(seed: UInt32) {
        words = MersenneTwister(seed: seed)
    }

    public mutating func draw(_ count: Int) -> [Float] {
        [Float](unsafeUninitializedCapacity: count) { buffer, filled in
            for i in 0..<count { buffer[i] = Float(next()) }
            filled = count
        }
    }

    /// Returns the next number in full precision.
    public mutating func next() -> Double {
        if let value = second {
            second = nil
            return value
        }
        while true {
            let x = 2 * uniform() - 1
            let y = 2 * uniform() - 1
            let square = x * x + y * y
            if square < 1, square != 0 {
                let factor = (-2 * log(square) / square).squareRoot()
                second = factor * x
                return factor * y
            }
        }
    }

    /// Returns the next number in [0, 1), of 53 bits.
    private mutating func uniform() -> Double {
        let high = words.next() >> 5
        let low = words.next() >> 6
        return (Double(high) * 67_108_864 + Double(low)) * 0x1p-53
    }
}
