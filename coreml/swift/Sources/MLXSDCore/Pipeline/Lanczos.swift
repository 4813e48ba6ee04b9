import Foundation

/// Resizing of 8-bit pictures with Lanczos of three lobes, with the roundings of Pillow: rows first, then columns.
///
/// Pillow begins with the columns where that is less work, so that a picture whose height shrinks more than its width may
/// differ by a few levels at sharp edges.
enum Lanczos {
    private static let support = 3.0
    private static let bits = 22  // of the fixed-point weights

    /// The pixels that make one new pixel, and their weights in 22 bits.
    private struct Window {
        let first: Int
        let weights: [Int]
    }

    /// Returns a picture of `channels` interleaved channels at another size; sizes are (width, height).
    static func resize(
        _ source: [UInt8], from: (width: Int, height: Int), to: (width: Int, height: Int), channels: Int
    ) -> [UInt8] {
        let columns = windows(from.width, to.width)
        var narrow = [UInt8](repeating: 0, count: to.width * from.height * channels)
        if from.width == to.width {
            narrow = source
        } else {
            for y in 0..<from.height {
                for (x, window) in columns.enumerated() {
                    for channel in 0..<channels {
                        let start = (y * from.width + window.first) * channels + channel
                        let place = (y * to.width + x) * channels + channel
                        narrow[place] = sum(source, window, start: start, stride: channels)
                    }
                }
            }
        }
        if from.height == to.height { return narrow }
        let rows = windows(from.height, to.height)
        let stride = to.width * channels
        var result = [UInt8](repeating: 0, count: to.height * stride)
        for (y, window) in rows.enumerated() {
            for i in 0..<stride {
                result[y * stride + i] = sum(narrow, window, start: window.first * stride + i, stride: stride)
            }
        }
        return result
    }

    private static func sum(_ source: [UInt8], _ window: Window, start: Int, stride: Int) -> UInt8 {
        var total = 1 << (bits - 1)
        var place = start
        for weight in window.weights {
            total += weight * Int(source[place])
            place += stride
        }
        return UInt8(min(max(total >> bits, 0), 255))
    }

    private static func windows(_ length: Int, _ newLength: Int) -> [Window] {
        let scale = Double(length) / Double(newLength)
        let filterScale = max(scale, 1)
        let reach = support * filterScale
        return (0..<newLength).map { i in
            let center = (Double(i) + 0.5) * scale
            let first = max(Int(center - reach + 0.5), 0)
            let last = min(Int(center + reach + 0.5), length)
            let weights = (first..<last).map { kernel((Double($0) - center + 0.5) / filterScale) }
            let total = weights.reduce(0, +)
            return Window(
                first: first,
                weights: weights.map { weight in
                    let scaled = weight / total * Double(1 << bits)
                    return Int(scaled < 0 ? scaled - 0.5 : scaled + 0.5)
                })
        }
    }

    private static func kernel(_ x: Double) -> Double {
        abs(x) < support ? sinc(x) * sinc(x / support) : 0
    }

    private static func sinc(_ x: Double) -> Double {
        x == 0 ? 1 : sin(x * .pi) / (x * .pi)
    }
}
