import Foundation

extension SelfCheck {
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
