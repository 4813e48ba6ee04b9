import Foundation

/// The noise of PyTorch's generator on CUDA cards: Philox 4x32-10 (Salmon et al. 2011), a counter for each number.
///
/// A card gives the same up to about 100,000 numbers; beyond that its noise depends on the card.
public struct PhiloxNoise: NoiseGenerator {
    private let key: (low: UInt32, high: UInt32)
    private var calls: UInt32 = 0

    /// Begins the stream of a seed of 64 bits.
    public init(seed: UInt64) {
        key = (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32))
    }

    public mutating func draw(_ count: Int) -> [Float] {
        defer { calls &+= 1 }
        return [Float](unsafeUninitializedCapacity: count) { buffer, filled in
            for i in 0..<count {
                let words = Self.words(calls, 0, UInt32(truncatingIfNeeded: i), 0, key: key)
                let radius = (-2 * log((Double(words.0) + 0.5) * 0x1p-32)).squareRoot()
                let angle = 2 * Double.pi * ((Double(words.1) + 0.5) * 0x1p-32)
                buffer[i] = Float(radius * sin(angle))
            }
            filled = count
        }
    }

    /// Returns the first two of the four random words of a counter.
    static func words(
        _ c0: UInt32, _ c1: UInt32, _ c2: UInt32, _ c3: UInt32, key: (low: UInt32, high: UInt32)
    ) -> (UInt32, UInt32) {
        var (x0, x1, x2, x3) = (c0, c1, c2, c3)
        var (low, high) = key
        for _ in 0..<10 {
            let first = UInt64(x0) * 0xD251_1F53
            let second = UInt64(x2) * 0xCD9E_8D57
            x0 = UInt32(truncatingIfNeeded: second >> 32) ^ x1 ^ low
            x1 = UInt32(truncatingIfNeeded: second)
            x2 = UInt32(truncatingIfNeeded: first >> 32) ^ x3 ^ high
            x3 = UInt32(truncatingIfNeeded: first)
            low &+= 0x9E37_79B9
            high &+= 0xBB67_AE85
        }
        return (x0, x1)
    }
}
