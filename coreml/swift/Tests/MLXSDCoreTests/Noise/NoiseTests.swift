import Foundation
import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct NoiseTests {
    struct Stream: Decodable {
        let source: NoiseSource
        let seed: String
        let counts: [Int]
        let offset: Int
        let kept: Int
        let sum: Double
    }

    /// Draws a stream's numbers; returns the worst difference to Python's and how many numbers are not equal.
    private func compare(_ stream: Stream, _ goldens: [Float]) throws -> (worst: Float, unequal: Int) {
        var generator = try stream.source.generator(seed: try #require(UInt64(stream.seed)))
        let values = stream.counts.flatMap { generator.draw($0) }
        #expect(values.count == stream.counts.reduce(0, +))
        let sum = values.reduce(0) { $0 + Double($1) }
        #expect(abs(sum - stream.sum) < 1e-7 * Double(values.count))
        let ends = values.prefix(stream.kept) + values.suffix(stream.kept)
        let expected = goldens[stream.offset..<stream.offset + 2 * stream.kept]
        return (largestDistance(ends, expected), zip(ends, expected).count { $0 != $1 })
    }

    @Test(arguments: [(NoiseSource.numpy, Float(0)), (.torch, 4.8e-7), (.cuda, 4.8e-7)])
    func isPythons(_ source: NoiseSource, _ tolerance: Float) throws {
        let goldens = try Goldens.floats("noise/noise.f32")
        let streams = try Goldens.json("noise/noise.json", as: [Stream].self).filter { $0.source == source }
        #expect(streams.count == (source == .cuda ? 90 : 50))
        var total = (worst: Float(0), unequal: 0)
        for stream in streams {
            let difference = try compare(stream, goldens)
            #expect(difference.worst <= tolerance, "seed \(stream.seed), \(stream.counts): \(difference)")
            total = (max(total.worst, difference.worst), total.unequal + difference.unequal)
        }
        #expect(total.unequal == 0 || source == .torch, "\(source): \(total)")
    }

    @Test(arguments: [
        (NoiseSource.numpy, UInt64(42), [0.49671415, -0.1382643, 0.64768854, 1.52302986] as [Float]),
        (.torch, 0, [-1.12583983, -1.15236020, -0.25057858, -0.43387881]),
        (.torch, 42, [1.92691529, 1.48728406, 0.90071720, -2.10552096]),
        (.cuda, 0, [-0.92466259, -0.42534415, -2.6438457, 0.14518388]),
    ])
    func beginsAsPublished(_ source: NoiseSource, _ seed: UInt64, _ expected: [Float]) throws {
        var generator = try source.generator(seed: seed)
        let values = generator.draw(4 * 64 * 64)
        for (value, number) in zip(values, expected) { #expect(abs(value - number) < 1e-6) }
    }

    @Test func fewTorchNumbersArePairsInFullPrecision() throws {
        var generator = try NoiseSource.torch.generator(seed: 42)
        let expected: [Float] = [0.33669037, 0.12880941, 0.23446237, 0.23033303]
        for (value, number) in zip(generator.draw(4), expected) { #expect(abs(value - number) < 1e-6) }
    }

    @Test func numPyRefusesSeedsBeyondItsOwn() throws {
        #expect(throws: DiffusionError.self) { try NoiseSource.numpy.generator(seed: 1 << 32) }
        var wrapped = try NoiseSource.torch.generator(seed: 1 << 32 | 7)
        var plain = try NoiseSource.torch.generator(seed: 7)
        #expect(wrapped.draw(40) == plain.draw(40))
        var low = try NoiseSource.cuda.generator(seed: 7)
        var high = try NoiseSource.cuda.generator(seed: 1 << 32 | 7)
        #expect(low.draw(40) != high.draw(40))
    }

    @Test(arguments: NoiseSource.allCases)
    func isNormal(_ source: NoiseSource) throws {
        var generator = try source.generator(seed: 3)
        let values = generator.draw(65536).map(Double.init)
        let count = Double(values.count)
        let mean = values.reduce(0, +) / count
        let variance = values.reduce(0) { $0 + $1 * $1 } / count
        let fourth = values.reduce(0) { $0 + $1 * $1 * $1 * $1 } / count
        #expect(abs(mean) < 4 / count.squareRoot())
        #expect(abs(variance - 1) < 4 * (2 / count).squareRoot())
        #expect(abs(fourth - 3) < 4 * (96 / count).squareRoot())
    }

    @Test func oneDrawOfNumPyIsManySmallOnes() throws {
        var random = SeededRandom(seed: 4)
        for seed in 0..<20 as Range<UInt64> {
            var all = try NoiseSource.numpy.generator(seed: seed)
            var pieces = try NoiseSource.numpy.generator(seed: seed)
            let counts = (0..<10).map { _ in Int.random(in: 0...60, using: &random) }
            #expect(all.draw(counts.reduce(0, +)) == counts.flatMap { pieces.draw($0) })
        }
    }
}
