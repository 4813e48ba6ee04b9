import Foundation

extension SelfCheck {
    /// Joins hidden states (1, tokens, channels) along the channels.
    static func joined(_ parts: [Tensor]) -> Tensor {
        guard parts.count > 1 else { return parts[0] }
        let tokens = parts[0].shape[1]
        let widths = parts.map { $0.shape[2] }
        var values: [Float] = []
        for token in 0..<tokens {
            for (part, width) in zip(parts, widths) { values += part.values[token * width..<(token + 1) * width] }
        }
        return Tensor(shape: [1, tokens, widths.reduce(0, +)], values: values)
    }

    /// Returns (rows, tokens, channels) as (rows, channels, 1, tokens).
    static func channelsFirst(_ states: Tensor) -> Tensor {
        let (rows, tokens, channels) = (states.shape[0], states.shape[1], states.shape[2])
        var values = [Float](repeating: 0, count: states.values.count)
        for row in 0..<rows {
            for token in 0..<tokens {
                for channel in 0..<channels {
                    values[(row * channels + channel) * tokens + token] =
                        states.values[(row * tokens + token) * channels + channel]
                }
            }
        }
        return Tensor(shape: [rows, channels, 1, tokens], values: values)
    }

    /// Returns the largest difference; 1e9 for another count or numbers that are not finite, since JSON has no infinity.
    static func largestDifference(_ a: [Float], _ b: [Float]) -> Double {
        guard a.count == b.count, a.allSatisfy(\.isFinite) else { return 1e9 }
        return Double(zip(a, b).reduce(0) { max($0, abs($1.0 - $1.1)) })
    }

    /// Returns the largest difference over the largest golden number.
    static func distance(_ a: [Float], _ golden: [Float]) -> Double {
        let largest = golden.reduce(Float.leastNormalMagnitude) { max($0, abs($1)) }
        return min(largestDifference(a, golden) / Double(largest), 1e9)
    }

    /// Returns the peak signal-to-noise ratio of pixels in [-1, 1] in decibels, from 0 to 200.
    static func psnr(_ a: [Float], _ golden: [Float]) -> Double {
        guard a.count == golden.count, a.allSatisfy(\.isFinite) else { return 0 }
        let squares = zip(a, golden).reduce(0.0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) }
        return min(max(10 * log10(4 * Double(a.count) / max(squares, 1e-30)), 0), 200)
    }
}
