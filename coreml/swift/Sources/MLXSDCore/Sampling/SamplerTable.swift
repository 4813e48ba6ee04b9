import Foundation

/// What a network was trained to predict.
public enum PredictionType: String, Codable, Sendable, CaseIterable {
    /// The noise.
    case epsilon
    /// signal * noise - noise weight * image (Salimans and Ho 2022).
    case velocity = "v_prediction"
    /// The negative of that (Karras et al. 2022, table 1).
    case edm
    /// The image.
    case sample
}

/// What the weights of a sampler's table are of.
public enum EstimateKind: String, Codable, Sendable {
    case denoised, noise, prediction
}

/// A run of a sampler as numbers, known before the first evaluation: one row for each evaluation of the network.
///
/// `run` runs every table. A table is made from a checkpoint's scheduler (`make`) or read from a kit's file.
public struct SamplerTable: Sendable, Equatable {
    /// Weights of a combination: base * latents at the step's start + sum of estimates[j] * estimate j, newest first.
    public struct Mix: Codable, Sendable, Equatable {
        public var base: Double
        public var estimates: [Double]

        /// Joins the weights.
        public init(base: Double, estimates: [Double]) {
            self.base = base
            self.estimates = estimates
        }
    }

    /// An estimate: (latents * x + prediction * the network's output) / divisor.
    ///
    /// The divisor is apart so that numbers are rounded where Python rounds them; tables of a kit have none.
    public struct Estimate: Codable, Sendable, Equatable {
        public var latents: Double
        public var prediction: Double
        public var divisor: Double

        private enum CodingKeys: String, CodingKey { case latents, prediction, divisor }

        /// Joins the weights.
        public init(latents: Double, prediction: Double, divisor: Double = 1) {
            self.latents = latents
            self.prediction = prediction
            self.divisor = divisor
        }

        /// Reads the weights; a divisor that is not there is 1.
        public init(from decoder: any Decoder) throws {
            let values = try decoder.container(keyedBy: CodingKeys.self)
            latents = try values.decode(Double.self, forKey: .latents)
            prediction = try values.decode(Double.self, forKey: .prediction)
            divisor = try values.decodeIfPresent(Double.self, forKey: .divisor) ?? 1
        }
    }

    /// One evaluation of the network, and the combination that gives the next latents.
    public struct Row: Sendable, Equatable {
        /// The timestep that the network is called with; perhaps fractional.
        public var timestep: Double
        /// The level of the latents that it is called on; nil in tables of a kit.
        public var level: NoiseLevel?
        /// The estimate that goes into the history.
        public var estimate: Estimate
        /// The estimate of the clean image; nil where the table does not say it.
        public var denoised: Estimate?
        /// Replaces the base before `mix` uses it.
        public var correction: Mix?
        /// Gives the next latents.
        public var mix: Mix
        /// Weight of new unit noise in the next latents.
        public var freshNoise = 0.0
        /// Whether the next latents are the base of the rows that follow.
        public var endsStep = true
        /// Weight of (image before clipping - image after it) in the next latents.
        public var clipWeight = 0.0
    }

    /// The first latents: noise * unit noise + image * image + freshNoise * another unit noise.
    public struct Start: Codable, Sendable, Equatable {
        public var noise = 1.0
        public var freshNoise = 0.0
        /// Nil for a run that starts from noise alone.
        public var image: Double?

        private enum CodingKeys: String, CodingKey {
            case noise, image
            case freshNoise = "fresh_noise"
        }
    }

    /// How estimates of the image are limited: to [-limit, limit], or by dynamic thresholding.
    ///
    /// The latter (Saharia et al. 2022, sec. 2.3) limits a picture to the `quantile` of its absolute values, itself
    /// clipped to [1, limit], and divides by that.
    public struct Clip: Codable, Sendable, Equatable {
        public var limit: Double
        public var quantile: Double?
    }

    /// Our name of the sampler.
    public var sampler: String
    /// Our name of the schedule, or "timesteps=..." or "sigmas=...".
    public var schedule: String
    /// The number of steps of the whole schedule; a run that begins midway has fewer.
    public var steps: Int
    /// The options of the sampler, completed.
    public var options: SolverOptions
    /// The policy behind `plan`, as text; nil where every evaluation is full.
    public var deepcache: String?
    public var start: Start
    /// How many estimates the rows look back on at most.
    public var history: Int
    public var rows: [Row]
    /// Which evaluations run the whole UNet, and what the others reuse; as many as there are rows.
    public var plan: [EvaluationPlan]
    /// The level of the final latents; nil in tables of a kit.
    public var end: NoiseLevel?
    /// The standard deviation of the images; levels of rows are of images divided by it.
    public var sigmaData = 1.0
    /// Limits of the estimates, for checkpoints trained on pixels.
    public var clip: Clip?

    /// Returns the log-SNR of each evaluation; signal and noise count as at least 1e-4. Empty without levels.
    public var logSNR: [Double] {
        rows.compactMap(\.level).map {
            NoiseLevel(signal: max($0.signal, 1e-4), noise: max($0.noise, 1e-4)).logSNR
        }
    }

    /// Returns the level of the latents after each row, for images as the VAE has them; nil without levels.
    public var levels: [NoiseLevel]? {
        guard let end else { return nil }
        let inner = rows.dropFirst().compactMap(\.level).map {
            NoiseLevel(signal: $0.signal / sigmaData, noise: $0.noise)
        }
        return inner.count == rows.count - 1 ? inner + [end] : nil
    }

    /// Returns the number of the step that each evaluation is of, counted from 1; Heun's two are of one step.
    public var stepNumbers: [Int] {
        var number = 1
        return rows.map { row in
            defer { if row.endsStep { number += 1 } }
            return number
        }
    }

    /// Returns how many evaluations run the whole UNet.
    public var fullEvaluations: Int { plan.count { $0.full } }

    /// Returns the table with the evaluations that a policy makes full; nil makes all of them full.
    ///
    /// Throws `DiffusionError` where the policy does not fit the number of evaluations, or levels are missing.
    public func cached(by policy: CachePolicy?, restarts: Set<Int> = []) throws -> SamplerTable {
        var table = self
        (table.deepcache, table.plan) = (policy?.description, EvaluationPlan.allFull(rows.count))
        guard let policy else { return table }
        let logSNR = logSNR
        guard logSNR.count == rows.count else {
            throw DiffusionError(
                .files, "this sampler table holds no noise levels; make it from the model set's scheduler instead")
        }
        table.plan = try policy.plan(logSNR: logSNR, restarts: restarts)
        return table
    }
}
