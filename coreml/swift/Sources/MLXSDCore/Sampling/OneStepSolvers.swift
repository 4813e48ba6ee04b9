import Foundation

/// Solvers whose steps use nothing of earlier steps.
enum OneStepSolvers {
    typealias Draft = TableDraft

    /// Tabulates Euler's method in sigma, which is also DDIM, DPM-Solver-1 and DEIS of order 1.
    static func euler(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        withNoise(steps, steps.indices.map { _ in 0 })
    }

    /// Tabulates DDIM (Song et al. 2021, eq. 12 and 16), without fresh noise unless `eta` is above 0.
    ///
    /// Clipping changes the image's share of the next latents only: the noise stays the one that was predicted.
    static func ddim(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        var draft = withNoise(steps, steps.steps.map { posterior($0, eta: options.eta ?? 0) })
        for i in draft.rows.indices { draft.rows[i].clipWeight = -draft.rows[i].level.signal * draft.rows[i].mix.base }
        draft.clip = scheduler.clip
        return draft
    }

    /// Tabulates ancestral sampling (Ho et al. 2020, eq. 7): the posterior's mean, which is that of DDIM with eta 1.
    ///
    /// The variance is the posterior's too; for "fixed_large" it is the forward step's, except in the last step.
    static func ddpm(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        var draft = withNoise(steps, steps.steps.map { posterior($0, eta: 1) })
        if scheduler.largeVariance {
            for (i, step) in steps.steps.enumerated() {
                let ratio = step.start.signal / step.end.signal
                draft.rows[i].freshNoise = step.timestep > 0 ? (1 - ratio * ratio).squareRoot() : 0
            }
        }
        draft.clip = scheduler.clip
        return draft
    }

    /// Tabulates Euler to a lower level, then fresh noise up to the step's end.
    static func eulerAncestral(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws
        -> Draft
    {
        withNoise(steps, steps.steps.map { posterior($0, eta: options.eta ?? 1) })
    }

    /// Returns `eta` times the standard deviation of the posterior q(x_end | x_start, image).
    private static func posterior(_ step: SamplingStep, eta: Double) -> Double {
        let ratio = step.start.signal / step.end.signal
        return eta * step.end.noise / step.start.noise * max(1 - ratio * ratio, 0).squareRoot()
    }

    /// Returns a table of Euler steps, each to a level so much lower that its fresh noise leads to the step's end.
    private static func withNoise(_ steps: SamplingSteps, _ noises: [Double]) -> Draft {
        Draft(
            rows: zip(steps.steps, noises).map { step, fresh in
                let lower = NoiseLevel(
                    signal: step.end.signal, noise: (step.end.noise * step.end.noise - fresh * fresh).squareRoot())
                let (base, image) = Quadrature.drift(step.start, lower)
                return Draft.Row(step, base, [image], freshNoise: fresh)
            })
    }

    /// Tabulates latent consistency (Luo et al. 2023, algorithm 3): to the image, then fresh noise to the step's end.
    static func lcm(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        let variance = 0.25  // of the consistency function's boundary condition (eq. 9), whatever the images are
        return Draft(
            rows: steps.steps.map { step in
                let t = step.timestep * scheduler.timestepScaling
                let skip = variance / (t * t + variance)
                let out = t / (t * t + variance).squareRoot()
                return Draft.Row(step, step.end.signal * skip, [step.end.signal * out], freshNoise: step.end.noise)
            })
    }

    /// Tabulates trajectory consistency (Zheng et al. 2024, algorithm 4).
    ///
    /// A step goes to (1 - gamma) of the timestep at which it ends; fresh noise brings it up to its end.
    static func tcd(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        let gamma = options.gamma ?? 0.3
        return Draft(
            rows: try steps.indices.map { i in
                let step = steps[i]
                let endTimestep = i + 1 < steps.count ? steps[i + 1].timestep : 0
                let lower = NoiseLevel(
                    alphaCumprod: try scheduler.alphaCumprod(Int(((1 - gamma) * endTimestep).rounded(.down))))
                let (base, image) = Quadrature.drift(step.start, lower)
                let scale = step.end.signal / lower.signal
                let fresh = max(1 - scale * scale, 0).squareRoot()
                return Draft.Row(step, base * scale, [image * scale], freshNoise: fresh)
            })
    }

    /// Tabulates Heun's method in sigma; a step that ends at zero is Euler's.
    static func heun(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        try edm(steps, scheduler, SolverOptions(order: 2))
    }

    /// Tabulates stochastic Heun, or Euler for order 1 (Karras et al. 2022, algorithm 2).
    ///
    /// As published, churn comes first and the network is called at the higher level it leads to.
    static func edm(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        let sigmas = steps.steps.map { $0.start.sigma * (1 + churn($0.start.sigma, steps.total, scheduler, options)) }
        let churns = zip(steps.steps, sigmas).map { step, sigma in
            (options.sNoise ?? 1) * (sigma * sigma - step.start.sigma * step.start.sigma).squareRoot()
        }
        var rows: [Draft.Row] = []
        for i in steps.indices {
            var step = steps[i]
            let (end, sigma, last) = (step.end, sigmas[i], i == steps.count - 1)
            if sigma > step.start.sigma {
                (step.timestep, step.start) = (scheduler.timestep(sigma: sigma), NoiseLevel(sigma: sigma))
            }
            let delta = end.sigma - sigma
            // If the next step churns, this one ends at the level after that churn, in the scale of that level.
            let signal = last ? end.signal : 1 / (1 + sigmas[i + 1] * sigmas[i + 1]).squareRoot()
            let fresh = last ? 0 : signal * churns[i + 1]
            if options.order == 1 || end.noise == 0 {
                rows.append(Draft.Row(step, signal / step.start.signal, [signal * delta], freshNoise: fresh))
                continue
            }
            let endTimestep = last ? scheduler.timestep(sigma: end.sigma) : steps[i + 1].timestep
            rows.append(
                Draft.Row(step, end.signal / step.start.signal, [end.signal * delta], endsStep: false))
            let half = signal * delta / 2
            rows.append(
                Draft.Row(
                    timestep: endTimestep, level: end,
                    mix: SamplerTable.Mix(base: signal / step.start.signal, estimates: [half, half]),
                    freshNoise: fresh))
        }
        let signal = rows[0].level.signal
        return Draft(
            rows: rows, history: .noise, noiseScale: signal / steps[0].start.signal, churnScale: signal * churns[0])
    }

    /// Returns by what fraction the step that starts at `sigma` raises it: gamma_i of Karras et al.
    private static func churn(
        _ sigma: Double, _ total: Int, _ scheduler: Scheduler, _ options: SolverOptions
    ) -> Double {
        let scaled = sigma * scheduler.sigmaData
        guard (options.sTMin ?? 0) <= scaled, scaled <= options.sTMax ?? .infinity else { return 0 }
        return min((options.sChurn ?? 0) / Double(total), 2.0.squareRoot() - 1)
    }

    /// Tabulates DPM-Solver++(2S), or (3S) for order 3 (Lu et al. 2022, algorithm 1): steps in groups.
    ///
    /// Every step is one evaluation; the last of a group starts over from where the group began, and is of full order.
    /// The groups are those of the whole grid; if a run begins within a group, what is left of it is a smaller group.
    static func dpmpp2S(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        let gridOrders = groups(
            steps.total, order: options.order ?? 2,
            lowerAtEnd: scheduler.lowerOrderFinal || steps.last.end.noise == 0)
        var orders = gridOrders.suffix(steps.count).enumerated().map { min($1, $0 + 1) }
        if steps.last.end.noise == 0 { orders[orders.count - 1] = 1 }
        let kind = options.kind ?? "midpoint"
        return Draft(
            rows: steps.indices.map { i in
                let nodes = steps.newestStarts(i, order: orders[i])
                let first = nodes[nodes.count - 1]
                var mix: SamplerTable.Mix
                if orders[i] == 3, kind == "midpoint" {  // the slope over the whole group
                    mix = Quadrature.exponential(first, steps[i].end, [nodes[0], first])
                    mix.estimates.insert(0, at: 1)  // the estimate between is not used
                } else {
                    mix = Quadrature.exponential(first, steps[i].end, nodes, kind: kind)
                }
                return Draft.Row(
                    timestep: steps[i].timestep, level: steps[i].start, mix: mix,
                    endsStep: i + 1 == orders.count || orders[i + 1] == 1)
            })
    }

    /// Returns the order of each step: 1, 2, ... `order`, again and again; a shorter group at the end.
    private static func groups(_ steps: Int, order: Int, lowerAtEnd: Bool) -> [Int] {
        let group = Array(1...order)
        if steps % order != 0 || !lowerAtEnd {
            return (0..<(steps / order)).flatMap { _ in group } + group.prefix(steps % order)
        }
        let last = order == 3 ? [1, 2, 1] : Array(repeating: 1, count: order)
        return (0..<(steps / order - 1)).flatMap { _ in group } + last
    }
}
