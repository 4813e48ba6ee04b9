import Foundation

/// The noise of `torch.randn` with `torch.Generator("cpu").manual_seed(seed)`, float32, up to rounding (4.8e-7).
public struct TorchNoise: NoiseGenerator {
    private var words: MersenneTwister
    private var second: Double?  // of a pair, of which the first has been drawn

    /// Begins the stream of a seed, which counts modulo 2^32.
    public init(seed: UInt64) {
        words = MersenneTwister(seed: UInt32(truncatingIfNeeded: seed))
    }

    public mutating func draw(_ count: Int) -> [Float] {
        count >= 16 ? groups(count) : (0..<count).map { _ in Float(next()) }
    }

    /// Returns noise in groups of 16; the last 16 numbers are drawn anew where they are no full group.
    private mutating func groups(_ count: Int) -> [Float] {
        [Float](unsafeUninitializedCapacity: count) { buffer, filled in
            for i in 0..<count { buffer[i] = uniform24() }
            for start in stride(from: 0, through: count - 16, by: 16) { Self.transform(buffer, from: start) }
            if count % 16 != 0 {
                for i in count - 16..<count { buffer[i] = uniform24() }
                Self.transform(buffer, from: count - 16)
            }
            filled = count
        }
    }

    /// Makes 16 uniform numbers normal: eight radii and eight angles give eight cosines and eight sines (Box and Muller).
    private static func transform(_ values: UnsafeMutableBufferPointer<Float>, from start: Int) {
        let turn = Float(2 * Double.pi)  // Float.pi is rounded towards zero and would be off by 2e-6
        for i in start..<start + 8 {
            let radius = (-2 * logf(1 - values[i])).squareRoot()
            let angle = turn * values[i + 8]
            values[i] = radius * cosf(angle)
            values[i + 8] = radius * sinf(angle)
        }
    }

    /// Returns the next number of a draw of fewer than 16, in float64.
    private mutating func next() -> Double {
        if let value = second {
            second = nil
            return value
        }
        let angle = 2 * Double.pi * uniform53()
        let radius = (-2 * log1p(-uniform53())).squareRoot()
        second = radius * sin(angle)
        return radius * cos(angle)
    }

    private mutating func uniform24() -> Float {
        Float(words.next() & 0xff_ffff) * 0x1p-24
    }

    private mutating func uniform53() -> Double {
        let high = UInt64(words.next())
        let low = UInt64(words.next())
        return Double((high << 32 | low) & (1 << 53 - 1)) * 0x1p-53
    }
}
