import Foundation
import GoldenFiles

@testable import MLXSDCore

/// Python's tables, runs and names, read from golden files.
enum SamplingGoldens {
    struct Checkpoint: Decodable {
        let config: JSONValue
        let xl: Bool
    }

    struct Case: Decodable, CustomStringConvertible {
        let checkpoint: String
        let sampler, schedule: String?
        let steps: Int
        let strength: Double?
        let options: SolverOptions?
        let refused: String?
        let runs: Bool?
        /// How far the latents move where weights move by 1e-7 of themselves.
        let sensitivity: Double?

        var description: String {
            "\(checkpoint) \(sampler ?? "-") \(schedule ?? "-") \(steps) \(strength ?? 0) \(options.map { "\($0)" } ?? "")"
        }

        func table(_ scheduler: Scheduler) throws -> SamplerTable {
            try SamplerTable.make(
                scheduler: scheduler, sampler: sampler, schedule: schedule, steps: steps, options: options ?? .init(),
                strength: strength)
        }
    }

    struct Index: Decodable {
        let checkpoints: [String: Checkpoint]
        let cases: [Case]
    }

    /// A case with its numbers.
    struct Golden {
        let entry: Case
        let table: Table?
        let latents: [Float]?
    }

    /// Python's table, as `numbers_of` writes it.
    struct Table {
        struct Row {
            let timestep: Double
            let level: NoiseLevel
            let freshNoise: Double
            let endsStep: Bool
            let clipWeight: Double
            let mix, correction: SamplerTable.Mix?
        }

        let history: EstimateKind
        let noise, image, freshNoise, sigmaData: Double
        let end: NoiseLevel
        let limit, quantile: Double
        let rows: [Row]
    }

    /// Numbers, read one after the other.
    private struct Reader {
        let numbers: [Double]
        var position = 0

        mutating func next() -> Double {
            defer { position += 1 }
            return numbers[position]
        }

        mutating func mix() -> SamplerTable.Mix? {
            let count = Int(next())
            guard count > 0 else { return nil }
            let base = next()
            return SamplerTable.Mix(base: base, estimates: (1..<count).map { _ in next() })
        }

        mutating func table() -> Table {
            let count = Int(next())
            let history = [EstimateKind.denoised, .noise, .prediction][Int(next())]
            let (noise, image, freshNoise, sigmaData) = (next(), next(), next(), next())
            let end = NoiseLevel(signal: next(), noise: next())
            let (limit, quantile) = (next(), next())
            let rows = (0..<count).map { _ in
                Table.Row(
                    timestep: next(), level: NoiseLevel(signal: next(), noise: next()), freshNoise: next(),
                    endsStep: next() == 1, clipWeight: next(), mix: mix(), correction: mix())
            }
            return Table(
                history: history, noise: noise, image: image, freshNoise: freshNoise, sigmaData: sigmaData, end: end,
                limit: limit, quantile: quantile, rows: rows)
        }
    }

    static let latentsOfRun = 24

    /// Read once, because the numbers are many.
    static let shared = Result { try load() }

    private static func load() throws -> (schedulers: [String: Scheduler], cases: [Golden]) {
        let index: Index = try Goldens.json("sampling/index.json")
        let numbers = try Goldens.integers("sampling/tables.f64", as: UInt64.self).map(Double.init(bitPattern:))
        let latents = try Goldens.floats("sampling/latents.f32")
        var reader = Reader(numbers: numbers)
        var used = 0
        let cases = index.cases.map { entry in
            guard entry.refused == nil else { return Golden(entry: entry, table: nil, latents: nil) }
            let table = reader.table()
            guard entry.runs == true else { return Golden(entry: entry, table: table, latents: nil) }
            defer { used += latentsOfRun }
            return Golden(entry: entry, table: table, latents: Array(latents[used..<used + latentsOfRun]))
        }
        let schedulers = try index.checkpoints.mapValues { try Scheduler(config: $0.config, xl: $0.xl) }
        return (schedulers, cases)
    }

    /// "Noise" number k, as Python's `draw`.
    static func draw(_ k: Int) -> [Float] {
        (0..<latentsOfRun).map { Float(2.0.squareRoot() * cos(1.7 * Double($0) + 2.3 * Double(k) + 0.5)) }
    }

    /// Runs a table with the network in closed form of `final_latents`.
    static func finalLatents(_ table: SamplerTable) async throws -> [Float] {
        var draws = 0
        return try await table.run(
            noise: draw(0), image: table.start.image == nil ? nil : draw(100),
            freshNoise: {
                draws += 1
                return draw(draws)
            },
            predict: { latents, evaluation in
                let factor = Float(0.3 * sin(0.01 * table.rows[evaluation].timestep))
                return latents.enumerated().map { i, x in
                    factor * x + Float(cos(0.37 * Double(i) + 0.9 * Double(evaluation)))
                }
            })
    }
}
