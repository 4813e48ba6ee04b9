import Foundation

/// A checkpoint's scheduler config: the noise it was trained with, and the sampler it asks for.
public struct Scheduler: Sendable, Equatable {
    /// The sigmas of a checkpoint that was trained on them instead of on timesteps (Karras et al. 2022).
    public struct EDM: Sendable, Equatable {
        public var sigmaMin: Double
        public var sigmaMax: Double
        /// The standard deviation of the images.
        public var sigmaData: Double
    }

    private enum BetaSchedule: String {
        case linear
        case scaledLinear = "scaled_linear"
        case cosine = "squaredcos_cap_v2"
    }

    static let spacings = ["leading", "linspace", "trailing"]

    /// The config as it was read.
    public let config: JSONValue
    /// Whether Align Your Steps takes SDXL's list.
    public let xl: Bool
    public let className: String
    public let prediction: PredictionType
    public let trainTimesteps: Int
    let zeroSNR: Bool
    let timestepSpacing: String?
    /// "karras", "exponential" or "beta", used instead of a spacing.
    let sigmaSchedule: String?
    let stepsOffset: Int
    let setAlphaToOne: Bool?
    let finalSigmaZero: Bool
    let lowerOrderFinal, eulerAtFinal: Bool
    /// Of PLMS: skip_prk_steps is false.
    let rungeKuttaStart: Bool
    /// Timesteps that LCM and TCD were distilled on.
    let originalInferenceSteps: Int
    let timestepScaling: Double
    let clip: SamplerTable.Clip?
    /// Of DDPM: variance_type is "fixed_large".
    let largeVariance: Bool
    public let edm: EDM?
    /// The sampler that the config's class means; nil if there is a `problem`.
    public let sampler: String?
    /// The options of that sampler.
    public let options: SolverOptions
    /// Why the sampler that the config asks for is not available.
    public let problem: String?
    /// alpha-bar of each timestep; with zero terminal SNR the last is 2^-24, so that its sigma is finite.
    public let alphasCumprod: [Double]
    /// Sigma of each timestep, rising, rounded to Float as in training.
    let trainSigmas: [Double]
    /// Its logarithm, rounded likewise.
    let logTrainSigmas: [Double]

    /// Reads the `scheduler` of an info.json, a diffusers config.
    ///
    /// - Parameters:
    ///   - source: the file, for messages.
    ///   - xl: whether the networks are of SDXL, which decides the list of Align Your Steps.
    ///
    /// Throws `DiffusionError(.files)` for a field that no sampler could honour. A field that only the config's own
    /// class reads becomes the `problem` instead, because the user may choose another sampler.
    public init(config json: JSONValue, source: String = "info.json: scheduler", xl: Bool = false) throws {
        guard case .object(let values) = json else {
            throw DiffusionError(.files, "\(source): a scheduler's config is needed, not \(json.shown)")
        }
        self.config = json
        self.xl = xl
        var config = ConfigFields(values, source: source)
        let name = values["_class_name"]?.string ?? "PNDMScheduler"
        className = name
        edm =
            name.hasPrefix("EDM")
            ? EDM(
                sigmaMin: try config.number("sigma_min", 0.002), sigmaMax: try config.number("sigma_max", 80),
                sigmaData: try config.number("sigma_data", 0.5)) : nil
        let type = try config.only("prediction_type", ["epsilon", "v_prediction", "sample"])
        prediction = edm != nil && type == "epsilon" ? .edm : PredictionType(rawValue: type ?? "") ?? .epsilon
        let betas = config.take("trained_betas")
        let trainedBetas = betas == .null ? nil : betas.list.compactMap(\.number).map(Float.init)
        trainTimesteps = try config.integer("num_train_timesteps", 1000)
        let betaStart = try config.number("beta_start", 0.0001)
        let betaEnd = try config.number("beta_end", 0.02)
        let shape = try config.only("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
        let betaSchedule = BetaSchedule(rawValue: shape ?? "") ?? .linear
        zeroSNR = config.flag("rescale_betas_zero_snr", false)
        timestepSpacing = try config.only("timestep_spacing", [nil] + Self.spacings)
        stepsOffset = try config.integer("steps_offset", 0)
        let alphaToOne = config.take("set_alpha_to_one")
        setAlphaToOne = alphaToOne == .null ? nil : alphaToOne.isTrue
        finalSigmaZero = try config.only("final_sigmas_type", ["zero", "sigma_min"]) == "zero"
        lowerOrderFinal = config.flag("lower_order_final", name != "DPMSolverSinglestepScheduler")
        eulerAtFinal = config.flag("euler_at_final", false)
        rungeKuttaStart = !config.flag("skip_prk_steps", name != "PNDMScheduler")
        originalInferenceSteps = try config.integer("original_inference_steps", 50)
        timestepScaling = try config.number("timestep_scaling", 10)
        clip = Self.clip(config.unread, className: name)
        largeVariance = values["variance_type"]?.string == "fixed_large"
        var meaning: (shape: String?, sampler: String?, options: SolverOptions) = (nil, nil, SolverOptions())
        var reason: String?
        do {
            meaning.shape = try Self.sigmaSchedule(&config, edm: edm != nil)
            let own = try SchedulerClasses.sampler(&config, className: name)
            (meaning.sampler, meaning.options) = own
        } catch let error as DiffusionError {
            reason = error.description
        }
        (sigmaSchedule, sampler, options, problem) = (meaning.shape, meaning.sampler, meaning.options, reason)
        guard trainTimesteps > 1, trainedBetas == nil || trainedBetas?.count == trainTimesteps else {
            throw DiffusionError(
                .files,
                "\(source): num_train_timesteps = \(trainTimesteps) does not fit the betas; export the set again")
        }
        let trained = trainedBetas ?? Self.betas(betaSchedule, count: trainTimesteps, start: betaStart, end: betaEnd)
        let alphas = Self.alphasCumprod(betas: trained, zeroSNR: zeroSNR)
        alphasCumprod = alphas
        let sigmas = alphas.map { alpha in
            let alpha = Float(alpha)
            return Double(((1 - alpha) / alpha).squareRoot())
        }
        trainSigmas = sigmas
        logTrainSigmas = sigmas.map { Double(Float(log($0))) }
    }

    /// The standard deviation of the images; while sampling, latents are divided by it.
    var sigmaData: Double { edm?.sigmaData ?? 1 }

    /// Align Your Steps for this kind of network: timesteps, for EDM checkpoints sigmas (Sabour et al. 2024, table 3).
    var alignYourSteps: [Double] {
        if edm != nil { return [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002] }
        if xl { return [999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0] }
        return [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0]
    }

    /// Returns the timestep, perhaps fractional, that the network is called with at a sigma.
    func timestep(sigma: Double) -> Double {
        if let edm { return log(sigma * edm.sigmaData) / 4 }
        return Arrays.index(of: log(sigma), in: logTrainSigmas)
    }

    /// Returns the exact alpha-bar of a whole timestep; throws where training has no such timestep.
    func alphaCumprod(_ timestep: Int) throws -> Double {
        guard (0..<trainTimesteps).contains(timestep) else {
            throw DiffusionError(
                .request, "this schedule needs the timestep \(timestep), of 0 to \(trainTimesteps - 1); choose another")
        }
        return zeroSNR && timestep == trainTimesteps - 1 ? 0 : alphasCumprod[timestep]
    }

    // ------------------------------------------------------------------------------------------------ betas

    private static func betas(_ schedule: BetaSchedule, count: Int, start: Double, end: Double) -> [Float] {
        switch schedule {
        case .linear: return Arrays.linspace(start, end, count).map(Float.init)
        case .scaledLinear:
            let roots: [Float] = Arrays.linspace(start.squareRoot(), end.squareRoot(), count).map { Float($0) }
            return roots.map { $0 * $0 }
        case .cosine:  // Nichol and Dhariwal 2021, eq. 17
            let alphas: [Double] = (0...count).map { i in
                let angle: Double = (Double(i) / Double(count) + 0.008) / 1.008 * Double.pi / 2
                return cos(angle) * cos(angle)
            }
            return zip(alphas, alphas.dropFirst()).map { before, after in Float(min(1 - after / before, 0.999)) }
        }
    }

    /// Returns alpha-bar from betas in Float, as in training.
    private static func alphasCumprod(betas: [Float], zeroSNR: Bool) -> [Double] {
        var alphas = products(betas.map { 1 - $0 })
        if zeroSNR {  // Lin et al. 2023, algorithm 1, by way of betas in Float
            let root = alphas.map { $0.squareRoot() }
            let (first, last) = (root[0], root[root.count - 1])
            let shifted = root.map { root in
                let moved = (root - last) * (first / (first - last))
                return moved * moved
            }
            let ratios: [Float] = zip(shifted.dropFirst(), shifted).map { $0 / $1 }
            let betas: [Float] = ([shifted[0]] + ratios).map { 1 - $0 }
            alphas = products(betas.map { 1 - $0 })
            alphas[alphas.count - 1] = 0x1p-24
        }
        return alphas.map(Double.init)
    }

    /// Returns running products, multiplied in Double and rounded at each timestep, which is what PyTorch does.
    private static func products(_ alphas: [Float]) -> [Float] {
        var product = 1.0
        return alphas.map { alpha in
            product *= Double(alpha)
            return Float(product)
        }
    }

    // ------------------------------------------------------------------------------------------------ config

    /// Returns how DDIM and DDPM clip estimates; other classes do so only if the config says it.
    private static func clip(_ values: [String: JSONValue], className: String) -> SamplerTable.Clip? {
        if values["thresholding"]?.isTrue ?? false {
            return SamplerTable.Clip(
                limit: values["sample_max_value"]?.number ?? 1,
                quantile: values["dynamic_thresholding_ratio"]?.number ?? 0.995)
        }
        if values["clip_sample"]?.isTrue ?? SchedulerClasses.clipping.contains(className) {
            return SamplerTable.Clip(limit: values["clip_sample_range"]?.number ?? 1)
        }
        return nil
    }

    private static func sigmaSchedule(_ config: inout ConfigFields, edm: Bool) throws -> String? {
        if edm { return try config.only("sigma_schedule", ["karras", "exponential"]) }
        let shapes = ["karras", "exponential", "beta"].filter { config.flag("use_\($0)_sigmas", false) }
        if shapes.count > 1 {
            throw DiffusionError(
                .files, "\(config.source): use_\(shapes[0])_sigmas and use_\(shapes[1])_sigmas exclude each other")
        }
        return shapes.first
    }
}

extension Scheduler: Codable {
    /// Reads a diffusers config; `xl` is false then (`init(config:source:xl:)` chooses).
    public init(from decoder: any Decoder) throws {
        try self.init(config: JSONValue(from: decoder), source: "scheduler")
    }

    /// Writes the config as it was read.
    public func encode(to encoder: any Encoder) throws {
        try config.encode(to: encoder)
    }
}
