import Foundation

/// Grids: for each family of samplers, the steps that a schedule gives: timestep, start level and end level.
///
/// The families differ, as they do in diffusers, in whether timesteps are whole and in where the last step ends.
enum Grids {
    /// Returns the grid of DDIM and PLMS: whole timesteps.
    ///
    /// On even spacings each step ends trainTimesteps / steps below its start, wherever the next begins.
    /// `alphaToOne`, if the checkpoint does not set it: the last step ends without noise.
    static func ddim(_ scheduler: Scheduler, _ steps: Int, _ schedule: String, alphaToOne: Bool) throws
        -> SamplingGrid
    {
        let toOne = scheduler.setAlphaToOne ?? alphaToOne
        let final = NoiseLevel(alphaCumprod: toOne ? 1 : scheduler.alphasCumprod[0])
        let timesteps = wholeTimesteps(scheduler, steps, schedule)
        let even = (Scheduler.spacings + ["sgm_uniform", "diffusers_sgm_uniform"]).contains(schedule)
        let stride = scheduler.trainTimesteps / steps
        let ends = even ? timesteps.map { $0 - stride } : timesteps.dropFirst() + [-1]
        return SamplingGrid(
            steps: try zip(timesteps, ends).map { timestep, end in
                SamplingStep(
                    timestep: Double(timestep),
                    start: NoiseLevel(alphaCumprod: try scheduler.alphaCumprod(timestep)),
                    end: end >= 0 ? NoiseLevel(alphaCumprod: try scheduler.alphaCumprod(end)) : final)
            })
    }

    /// Returns the grid of DDPM: whole timesteps, each step ending where the next begins, the last without noise.
    static func ddpm(_ scheduler: Scheduler, _ steps: Int, _ schedule: String) throws -> SamplingGrid {
        try atTimesteps(scheduler, wholeTimesteps(scheduler, steps, schedule), final: 1)
    }

    /// Returns the grid of LCM and TCD: some of the timesteps that the network was distilled on.
    ///
    /// The last step ends without noise or, if not `alphaToOne`, at the first timestep of training.
    static func distilled(_ scheduler: Scheduler, _ steps: Int, _ schedule: String, alphaToOne: Bool) throws
        -> SamplingGrid
    {
        var timesteps: [Int]
        if let list = Schedules.userList(schedule) {
            timesteps = list.numbers.map { Int($0) }
        } else {
            let count = scheduler.originalInferenceSteps
            guard steps <= count else {
                throw DiffusionError(.request, "a distilled network takes 1 to \(count) steps, not \(steps)")
            }
            let trained = (1...count).reversed().map { $0 * (scheduler.trainTimesteps / count) - 1 }
            timesteps = Arrays.linspace(0, Double(count), steps, endpoint: false).map { trained[Int($0)] }
        }
        return try atTimesteps(scheduler, timesteps, final: alphaToOne ? 1 : scheduler.alphasCumprod[0])
    }

    /// Returns the timesteps of a schedule in whole numbers, "sgm_uniform" as diffusers has it ("trailing").
    private static func wholeTimesteps(_ scheduler: Scheduler, _ steps: Int, _ schedule: String) -> [Int] {
        let spacing = schedule == "sgm_uniform" ? "trailing" : schedule
        return Schedules.timesteps(scheduler, steps, spacing).map { Int($0.roundedToEven) }
    }

    private static func atTimesteps(_ scheduler: Scheduler, _ timesteps: [Int], final: Double) throws -> SamplingGrid {
        let levels = try (timesteps.map(scheduler.alphaCumprod) + [final]).map(NoiseLevel.init(alphaCumprod:))
        return SamplingGrid(
            steps: timesteps.indices.map {
                SamplingStep(timestep: Double(timesteps[$0]), start: levels[$0], end: levels[$0 + 1])
            })
    }

    /// Returns the grid of the Euler family: fractional timesteps, each step ending where the next begins.
    ///
    /// The last step ends at the checkpoint's final sigma, or if `toZero` at 0, in k-diffusion's scale.
    static func kDiffusion(
        _ scheduler: Scheduler, _ steps: Int, _ schedule: String, rho: Double, toZero: Bool = false
    ) throws -> SamplingGrid {
        if let own = scheduler.edm { return edm(scheduler, own, steps, schedule, rho: rho) }
        let shape = Schedules.shape(schedule)
        let named = Schedules.names.contains(schedule) && shape == nil
        let spacing = named ? schedule : scheduler.timestepSpacing ?? "linspace"
        let final: Double? = toZero || scheduler.finalSigmaZero ? 0 : nil
        var list: [SamplingStep]
        if let shape {
            var (high, low) = (scheduler.trainSigmas[scheduler.trainTimesteps - 1], scheduler.trainSigmas[0])
            if Schedules.diffusers.contains(schedule) {
                let spaced = Schedules.sigmas(
                    scheduler, at: Schedules.timesteps(scheduler, steps, spacing), spacing)
                (high, low) = (spaced[0], spaced[spaced.count - 1])
            }
            let sigmas = Schedules.shapedSigmas(shape, low: low, high: high, steps: steps, rho: rho)
            list = chain(scheduler, sigmas.map(scheduler.timestep(sigma:)), sigmas, final)
        } else {
            list = atSchedule(scheduler, steps, schedule, rounding: { $0 }, final)
        }
        let last = list.count - 1
        list[last].end = NoiseLevel(signal: 1, noise: list[last].end.sigma)
        // diffusers starts at unit variance on "leading", and elsewhere leaves the image's share of the variance out.
        let unit = (Scheduler.spacings.contains(spacing) ? spacing : scheduler.timestepSpacing) == "leading"
        return SamplingGrid(steps: list, noiseScale: unit ? 1 : list[0].start.noise)
    }

    /// Returns the grid of the DPM-Solver family: as `kDiffusion`, but whole timesteps, spaced as for one step more.
    ///
    /// The last step ends at the checkpoint's final sigma, or if `neverToZero` at the lowest of training.
    static func dpmSolver(
        _ scheduler: Scheduler, _ steps: Int, _ schedule: String, rho: Double, neverToZero: Bool = false
    ) throws -> SamplingGrid {
        if let own = scheduler.edm { return edm(scheduler, own, steps, schedule, rho: rho) }
        let final: Double? = scheduler.finalSigmaZero && !neverToZero ? 0 : nil
        if let shape = Schedules.shape(schedule) {
            let (low, high) = (scheduler.trainSigmas[0], scheduler.trainSigmas[scheduler.trainTimesteps - 1])
            let sigmas = Schedules.shapedSigmas(shape, low: low, high: high, steps: steps, rho: rho)
            let truncated = ["diffusers_exponential", "diffusers_beta"].contains(schedule)
            let timesteps = sigmas.map { sigma in
                let timestep = scheduler.timestep(sigma: sigma)
                return truncated ? timestep.rounded(.down) : timestep.roundedToEven
            }
            return SamplingGrid(steps: chain(scheduler, timesteps, sigmas, final))
        }
        return SamplingGrid(
            steps: atSchedule(scheduler, steps, schedule, rounding: \.roundedToEven, final, oneMore: true))
    }

    /// Returns the grid of an EDM checkpoint: levels of images divided by sigma_data, which the last step undoes.
    private static func edm(
        _ scheduler: Scheduler, _ edm: Scheduler.EDM, _ steps: Int, _ schedule: String, rho: Double
    ) -> SamplingGrid {
        let final = scheduler.finalSigmaZero ? 0 : edm.sigmaMin
        var sigmas: [Double]
        if let list = Schedules.userList(schedule) {
            sigmas = list.numbers
        } else if schedule == "ays" {
            // The published list may begin above the sigmas that this network was trained on.
            let published = scheduler.alignYourSteps
            let first = Arrays.index(of: -log(edm.sigmaMax), in: published.map { -log($0) })
            sigmas = Schedules.logLinear(published, steps, first: first) + [final]
        } else {
            let shape = Schedules.shape(schedule) ?? "karras"
            sigmas = Schedules.shapedSigmas(shape, low: edm.sigmaMin, high: edm.sigmaMax, steps: steps, rho: rho)
            sigmas.append(final)
        }
        let scaled = sigmas.map { $0 / edm.sigmaData }
        let starts = Array(scaled.dropLast())
        var list = chain(scheduler, starts.map(scheduler.timestep(sigma:)), starts, scaled[scaled.count - 1])
        list[list.count - 1].end = NoiseLevel(signal: edm.sigmaData, noise: sigmas[sigmas.count - 1])
        let scale =
            (edm.sigmaMax * edm.sigmaMax + 1).squareRoot()
            / (sigmas[0] * sigmas[0] + edm.sigmaData * edm.sigmaData).squareRoot()
        return SamplingGrid(steps: list, noiseScale: scale)
    }

    /// Returns the steps of a spacing or of a user's list; the network is called with timesteps after `rounding`.
    ///
    /// `oneMore`: even spacings are those of one step more, without its last.
    private static func atSchedule(
        _ scheduler: Scheduler, _ steps: Int, _ schedule: String, rounding: (Double) -> Double, _ final: Double?,
        oneMore: Bool = false
    ) -> [SamplingStep] {
        if let list = Schedules.userList(schedule), list.kind == "sigmas" {
            let sigmas = Array(list.numbers.dropLast())
            let timesteps = sigmas.map { rounding(scheduler.timestep(sigma: $0)) }
            return chain(scheduler, timesteps, sigmas, list.numbers[sigmas.count])
        }
        let extra = oneMore && ["leading", "linspace"].contains(schedule) ? 1 : 0
        var timesteps = Array(Schedules.timesteps(scheduler, steps + extra, schedule).prefix(steps))
        let fractional = Schedules.fractional.contains(schedule)
        if !fractional, schedule != "ays" { timesteps = timesteps.map(rounding) }
        let sigmas = Schedules.sigmas(scheduler, at: timesteps, schedule)
        return chain(scheduler, timesteps.map { fractional ? $0.roundedToEven : rounding($0) }, sigmas, final)
    }

    /// Returns the steps from each sigma to the next; the last to `final`, or for nil to the lowest of training.
    private static func chain(
        _ scheduler: Scheduler, _ timesteps: [Double], _ sigmas: [Double], _ final: Double?
    ) -> [SamplingStep] {
        let levels = (sigmas + [final ?? scheduler.trainSigmas[0]]).map(NoiseLevel.init(sigma:))
        return timesteps.indices.map {
            SamplingStep(timestep: timesteps[$0], start: levels[$0], end: levels[$0 + 1])
        }
    }
}
