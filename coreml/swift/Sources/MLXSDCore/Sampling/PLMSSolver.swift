/// Pseudo linear multistep: PNDM, the sampler of the first Stable Diffusion checkpoints.
enum PLMSSolver {
    typealias Draft = TableDraft

    /// Adams-Bashforth weights of orders 1 to 4, newest first.
    private static let adams: [[Double]] = [
        [1], [3.0 / 2, -1.0 / 2], [23.0 / 12, -16.0 / 12, 5.0 / 12], [55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24],
    ]

    /// Tabulates pseudo linear multistep (Liu et al. 2022, eq. 12 and 13), of raw predictions as in diffusers.
    ///
    /// It starts with Heun's method (n + 1 evaluations for n steps), or where skip_prk_steps is false and there are
    /// at least 4 steps, with three steps of Runge-Kutta (n + 9). Throws for networks that predict the sample.
    static func plms(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        guard scheduler.prediction != .sample else {
            throw DiffusionError(
                .request, "plms takes networks that predict epsilon or v, not the sample; use ddim or dpmpp_2m")
        }
        let stride = scheduler.trainTimesteps / steps.total
        var rows: [Draft.Row] = []
        var averaged: [Int] = []  // indices of the rows whose predictions the multistep average is of
        var begin = 0
        if scheduler.rungeKuttaStart, steps.count >= 4 {
            (rows, averaged, begin) = (try rungeKutta(steps, scheduler, stride), [0, 4, 8], 3)
        } else if steps.count > 1 {
            (rows, averaged, begin) = (try heun(steps, scheduler, stride), [0], 1)
        }
        for step in steps.steps[begin...] {
            averaged.append(rows.count)
            let (base, prediction) = ddim(scheduler, step.start, step.end)
            let adams = adams[min(averaged.count, 4) - 1]
            let oldest = averaged[averaged.count - adams.count]
            var weights = [Double](repeating: 0, count: rows.count - oldest + 1)
            for (index, weight) in zip(averaged.reversed(), adams) { weights[rows.count - index] = prediction * weight }
            rows.append(Draft.Row(step, base, weights))
        }
        return Draft(rows: rows, history: .prediction)
    }

    /// Returns the two rows of a first step by Heun's method.
    private static func heun(_ steps: SamplingSteps, _ scheduler: Scheduler, _ stride: Int) throws -> [Draft.Row] {
        let (first, second) = (steps[0], steps[1])
        let euler = ddim(scheduler, first.start, first.end)
        // From one stride above this timestep, which on uneven spacings is not where the first step began.
        let above = NoiseLevel(alphaCumprod: try scheduler.alphaCumprod(Int(second.timestep) + stride))
        let (base, prediction) = ddim(scheduler, above, second.start)
        return [
            Draft.Row(first, euler.base, [euler.prediction], endsStep: false),
            Draft.Row(second, base, [prediction / 2, prediction / 2]),
        ]
    }

    /// Returns the twelve rows of three first steps by the classical Runge-Kutta method.
    private static func rungeKutta(_ steps: SamplingSteps, _ scheduler: Scheduler, _ stride: Int) throws
        -> [Draft.Row]
    {
        let half = stride / 2
        return try (0..<3).flatMap { i in
            let (step, next) = (steps[i], steps[i + 1])
            let middle = NoiseLevel(alphaCumprod: try scheduler.alphaCumprod(Int(next.timestep) + half))
            let below = NoiseLevel(alphaCumprod: try scheduler.alphaCumprod(Int(step.timestep) - half))
            let start = step.start
            let between = next.timestep + Double(half)
            let stages = [(step.timestep, start, below), (between, middle, middle), (between, middle, next.start)]
            var rows = stages.map { timestep, level, end in
                let (base, prediction) = ddim(scheduler, start, end)
                return Draft.Row(
                    timestep: timestep, level: level, mix: SamplerTable.Mix(base: base, estimates: [prediction]),
                    endsStep: false)
            }
            let (base, prediction) = ddim(scheduler, start, next.start)
            let weights = [prediction / 6, prediction / 3, prediction / 3, prediction / 6]
            rows.append(Draft.Row(next, base, weights))
            return rows
        }
    }

    /// Returns the weights of the latents and of the raw prediction in a step of DDIM.
    private static func ddim(_ scheduler: Scheduler, _ start: NoiseLevel, _ end: NoiseLevel)
        -> (base: Double, prediction: Double)
    {
        if scheduler.prediction == .velocity {
            return (
                end.signal * start.signal + end.noise * start.noise,
                end.noise * start.signal - end.signal * start.noise
            )
        }
        return (end.signal / start.signal, end.noise - start.noise * end.signal / start.signal)
    }
}
