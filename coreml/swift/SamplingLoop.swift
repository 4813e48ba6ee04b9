// The sampler tables of a kit that `python -m coreml --kit` writes, and the one loop that runs all of them. Copy this
// file into an app; it needs Foundation alone.
//
//     let table = try SamplerTable(contentsOf: kit.appendingPathComponent("tables/dpmpp_2m-karras-25.json"))
//     let latents = try table.run(noise: normal(count), freshNoise: { normal(count) }) { latents, timestep, deep in
//         // run the UNet, guide; return the prediction and the deep feature
//     }

import Foundation

/// A sampler, a schedule, a number of steps and a cache policy as numbers.
public struct SamplerTable: Decodable {
    /// base * the latents at the start of the step + the sum of estimates[j] * the j-th latest estimate.
    public struct Mix: Decodable {
        public let base: Float
        public let estimates: [Float]
    }

    public struct Estimate: Decodable {
        public let latents: Float
        public let prediction: Float
    }

    public struct Start: Decodable {
        public let noise: Float
        public let freshNoise: Float
    }

    /// One evaluation of the UNet.
    public struct Row: Decodable {
        public let timestep: Double
        /// Whether the whole UNet runs; otherwise its outer levels run around the features of `deep`.
        public let full: Bool
        /// Pairs of an earlier full evaluation and the weight of its deep feature.
        public let deep: [[Double]]
        /// Evaluations whose deep features no later row uses.
        public let forget: [Int]
        public let estimate: Estimate
        public let correction: Mix?
        public let mix: Mix
        public let freshNoise: Float
        public let endsStep: Bool
    }

    public let start: Start
    /// How many estimates are kept.
    public let history: Int
    public let rows: [Row]

    public init(contentsOf file: URL) throws {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        self = try decoder.decode(SamplerTable.self, from: Data(contentsOf: file))
    }

    /// Returns the final latents.
    ///
    /// - Parameters:
    ///   - noise: unit noise, the first of the generator.
    ///   - freshNoise: draws the next of the same size.
    ///   - evaluate: the guided prediction for latents at a timestep, and the deep feature where the whole UNet ran.
    ///     Where `deep` is empty the whole UNet runs, else its outer levels around the sum of weight * feature.
    public func run<Feature>(
        noise: [Float], freshNoise: () -> [Float],
        evaluate: (_ latents: [Float], _ timestep: Double, _ deep: [(weight: Float, feature: Feature)]) throws -> (
            prediction: [Float], feature: Feature?
        )
    ) rethrows -> [Float] {
        var x = SamplerTable.sum(start.noise, noise, [])
        if start.freshNoise != 0 {
            x = SamplerTable.sum(1, x, [(start.freshNoise, freshNoise())])
        }
        var base = x
        var estimates: [[Float]] = []
        var features: [Int: Feature] = [:]
        for (evaluation, row) in rows.enumerated() {
            let deep = row.deep.compactMap { pair in
                features[Int(pair[0])].map { (weight: Float(pair[1]), feature: $0) }
            }
            let (prediction, feature) = try evaluate(x, row.timestep, deep)
            if row.full {
                features[evaluation] = feature
            }
            for old in row.forget {
                features[old] = nil
            }
            let estimate = SamplerTable.sum(row.estimate.latents, x, [(row.estimate.prediction, prediction)])
            estimates = Array(([estimate] + estimates).prefix(history))
            if let correction = row.correction {
                base = SamplerTable.sum(correction.base, base, Array(zip(correction.estimates, estimates)))
            }
            x = SamplerTable.sum(row.mix.base, base, Array(zip(row.mix.estimates, estimates)))
            if row.freshNoise != 0 {
                x = SamplerTable.sum(1, x, [(row.freshNoise, freshNoise())])
            }
            if row.endsStep {
                base = x
            }
        }
        return x
    }

    /// weight * array + the sum of weights * arrays.
    private static func sum(_ weight: Float, _ array: [Float], _ terms: [(Float, [Float])]) -> [Float] {
        var total = array
        for i in total.indices {
            total[i] *= weight
        }
        for (weight, term) in terms where weight != 0 {
            for i in total.indices {
                total[i] += weight * term[i]
            }
        }
        return total
    }
}
