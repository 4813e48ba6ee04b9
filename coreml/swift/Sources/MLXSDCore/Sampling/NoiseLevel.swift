import Foundation

/// A noise level: latents there are signal * image + noise * unit Gaussian noise.
///
/// They are alpha_t and sigma_t of the papers; signal² + noise² = 1, so that the network takes latents as they are.
public struct NoiseLevel: Codable, Sendable, Equatable {
    /// Weight of the image.
    public var signal: Double
    /// Weight of the noise.
    public var noise: Double

    /// Joins the two weights.
    public init(signal: Double, noise: Double) {
        self.signal = signal
        self.noise = noise
    }

    /// Makes the level at which signal² is alpha-bar of Ho et al. (2020).
    public init(alphaCumprod: Double) {
        self.init(signal: alphaCumprod.squareRoot(), noise: (1 - alphaCumprod).squareRoot())
    }

    /// Makes the level of k-diffusion's sigma at which signal² + noise² = 1.
    public init(sigma: Double) {
        let signal = 1 / (1 + sigma * sigma).squareRoot()
        self.init(signal: signal, noise: sigma * signal)
    }

    /// The sigma of k-diffusion and of Karras et al. (2022): noise / signal.
    public var sigma: Double { noise / signal }

    /// Lambda of Lu et al. (2022): half the logarithm of the signal-to-noise ratio.
    public var logSNR: Double { log(signal / noise) }
}

/// One step: the network is called with `timestep` on latents of level `start`; the step leads to level `end`.
struct SamplingStep: Sendable, Equatable {
    var timestep: Double
    var start: NoiseLevel
    var end: NoiseLevel
}

/// The steps of a run: the last ones of a grid of `total` steps.
struct SamplingSteps: Sendable {
    var steps: [SamplingStep]
    var total: Int

    var count: Int { steps.count }
    var indices: Range<Int> { steps.indices }
    subscript(_ index: Int) -> SamplingStep { steps[index] }

    /// The last step; a run has at least one.
    var last: SamplingStep { steps[steps.count - 1] }

    /// The levels at which the `order` steps up to `index` start, the newest first.
    func newestStarts(_ index: Int, order: Int) -> [NoiseLevel] {
        steps[(index + 1 - order)...index].reversed().map(\.start)
    }
}

/// All steps of a schedule, and the factor that turns unit noise into the first latents.
struct SamplingGrid: Sendable {
    var steps: [SamplingStep]
    var noiseScale = 1.0
}
