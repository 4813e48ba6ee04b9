import Foundation

extension SamplerTable {
    /// The number of steps where nobody names one.
    public static let defaultSteps = 25

    /// Makes the table of a run from a checkpoint's scheduler.
    ///
    /// - Parameters:
    ///   - sampler: by our name or another program's; nil is the checkpoint's own.
    ///   - schedule: likewise, or "timesteps=..." or "sigmas=...".
    ///   - steps: of the whole schedule; nil is 25, or as many as a list has.
    ///   - strength: above 0, to 1: the run begins midway and does the last int(steps * strength) steps on an image
    ///     with noise, as in diffusers; nil begins with noise alone.
    ///
    /// Throws `DiffusionError(.request)` for what does not exist or does not fit together.
    public static func make(
        scheduler: Scheduler, sampler: String? = nil, schedule: String? = nil, steps: Int? = nil,
        options: SolverOptions = SolverOptions(), strength: Double? = nil
    ) throws -> SamplerTable {
        let named = try SamplerNames.canonical(sampler: sampler, schedule: schedule, kind: options.kind)
        var options = options
        options.kind = named.kind
        let choice = try Samplers.choose(scheduler, sampler: named.sampler, schedule: named.schedule, options: options)
        let listed = Schedules.stepCount(choice.schedule)
        if let listed, let steps, steps != listed {
            throw DiffusionError(
                .request, "the schedule given is of \(listed) steps, not \(steps); leave the steps out")
        }
        let count = steps ?? listed ?? defaultSteps
        guard let strength else { return try make(scheduler, choice, steps: count) }
        guard strength > 0, strength <= 1, count > 0 else {
            throw DiffusionError(.request, "strength must be above 0, to 1, not \(strength)")
        }
        let running = Int(Double(count) * strength)
        guard running >= 1 else {
            let least = (1000 / Double(count)).rounded(.up) / 1000
            throw DiffusionError(
                .request,
                "strength \(strength) leaves none of \(count) steps; give \(least) or more, or more steps")
        }
        return try make(scheduler, choice, steps: count, begin: count - running)
    }

    /// Makes the table of a choice; with `begin` the run leaves out that many first steps and starts from an image.
    public static func make(
        _ scheduler: Scheduler, _ choice: Samplers.Choice, steps count: Int, begin: Int? = nil
    ) throws -> SamplerTable {
        guard (1...scheduler.trainTimesteps).contains(count) else {
            throw DiffusionError(.request, "steps must be from 1 to \(scheduler.trainTimesteps), not \(count)")
        }
        if let begin, !(0..<count).contains(begin) {
            throw DiffusionError(
                .request, "the step to begin at must be from 0 to \(count - 1) where there are \(count), not \(begin)")
        }
        let method = try Samplers.named(choice.sampler)
        let grid = try method.grid(scheduler, count, choice.schedule, choice.options.rho ?? Schedules.rho)
        guard zip(grid.steps, grid.steps.dropFirst()).allSatisfy({ $0.start != $1.start }) else {
            throw DiffusionError(
                .request,
                "\(count) steps are too many for \(method.name) on \(choice.schedule): some would coincide")
        }
        let steps = SamplingSteps(steps: Array(grid.steps[(begin ?? 0)...]), total: grid.steps.count)
        let first = steps[0].start
        if scheduler.prediction == .epsilon, first.signal == 0 {
            throw DiffusionError(
                .request,
                "\(method.name) starts at zero signal here (rescale_betas_zero_snr), where epsilon says nothing about "
                    + "the image; choose another sampler or a v-prediction checkpoint")
        }
        var draft = try method.solver(steps, scheduler, choice.options)
        if choice.options.corrector ?? (method.corrector == .byDefault) {
            guard first.signal != 0 else {
                throw DiffusionError(
                    .request, "the corrector cannot start at zero signal (rescale_betas_zero_snr); use it with euler")
            }
            draft = MultistepSolvers.corrected(draft, steps, choice.options)
        }
        let table = SamplerTable(
            draft, scheduler, choice, steps: count, from: begin == nil ? nil : first, gridScale: grid.noiseScale)
        guard table.isFinite else {
            throw DiffusionError(
                .request,
                "\(method.name) on \(choice.schedule) has no finite weights in \(count) steps; choose another schedule")
        }
        return table
    }

    private init(
        _ draft: TableDraft, _ scheduler: Scheduler, _ choice: Samplers.Choice, steps: Int,
        from level: NoiseLevel?, gridScale: Double
    ) {
        let prediction = scheduler.prediction
        (sampler, schedule, options) = (choice.sampler, choice.schedule, choice.options)
        self.steps = steps
        self.end = NoiseLevel(signal: 1, noise: 0)
        sigmaData = scheduler.sigmaData
        clip = draft.clip
        rows = draft.rows.map { row in
            Row(
                timestep: row.timestep, level: row.level, estimate: prediction.estimate(draft.history, row.level),
                denoised: prediction.estimate(.denoised, row.level), correction: row.correction, mix: row.mix,
                freshNoise: row.freshNoise, endsStep: row.endsStep, clipWeight: row.clipWeight)
        }
        history = rows.flatMap { [$0.mix, $0.correction].compactMap { $0?.estimates.count } }.max() ?? 1
        plan = EvaluationPlan.allFull(rows.count)
        start = Start(noise: draft.noiseScale * gridScale, freshNoise: draft.churnScale)
        if let level {
            start.noise = draft.noiseScale * level.noise
            start.image = draft.noiseScale * level.signal / sigmaData
        }
    }

    /// Whether every number of the table is finite.
    var isFinite: Bool {
        var numbers: [Double] = [start.noise, start.freshNoise, start.image ?? 0]
        for row in rows {
            let estimate = row.estimate
            numbers += [row.timestep, estimate.latents / estimate.divisor, estimate.prediction / estimate.divisor]
            numbers += [row.freshNoise, row.clipWeight]
            numbers += [row.mix.base] + row.mix.estimates
            if let correction = row.correction { numbers += [correction.base] + correction.estimates }
        }
        return numbers.allSatisfy(\.isFinite)
    }
}
