import Foundation

/// Solvers that combine the network's outputs of several steps, and the corrector that raises any solver's order.
enum MultistepSolvers {
    typealias Draft = TableDraft

    // Linear multistep extrapolates no further than this: 20 times an error of float16 is 0.01 of the latents'
    // deviation. Steps that are long by themselves, as the first from sigma 4096 of zero terminal SNR, do not count.
    private static let largestError = 20.0
    private static let largestGrowth = 100.0

    /// Tabulates DPM-Solver++(2M) (Lu et al. 2022, algorithm 2).
    static func dpmpp2M(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        multistep(steps, orders(steps, options.order ?? 2, scheduler), kind: options.kind ?? "midpoint")
    }

    /// Tabulates DPM-Solver++(3M) as published: its quadratic term has half the weight of the exact integral.
    static func dpmpp3M(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        multistep(steps, orders(steps, 3, scheduler), kind: options.kind ?? "midpoint", curvature: 0.5)
    }

    /// Tabulates SDE-DPM-Solver++(2M) (Lu et al. 2022, section 5): 2M on the reverse diffusion, with its noise.
    static func dpmpp2MSDE(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        let orders = orders(steps, options.order ?? 2, scheduler)
        var draft = multistep(steps, orders, kind: options.kind ?? "midpoint", sde: true)
        for (i, step) in steps.steps.enumerated() {
            // exp(lambda at the start - lambda at the end)
            let decay = step.end.noise * step.start.signal / (step.end.signal * step.start.noise)
            draft.rows[i].freshNoise = step.end.noise * max(1 - decay * decay, 0).squareRoot()
        }
        return draft
    }

    /// Tabulates multistep DPM-Solver (Lu et al. 2022a): 2M and 3M for estimates of the noise.
    ///
    /// Its formula divides by the last noise level, so its grid ends at the lowest of training instead of at zero.
    static func dpm2M(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        multistep(
            steps, orders(steps, options.order ?? 2, scheduler), .noise, kind: options.kind ?? "midpoint",
            curvature: 0.5)
    }

    /// Tabulates DEIS in log rho (Zhang and Chen 2023, eq. 15): the exact integral of a polynomial in the noise.
    static func deis(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        multistep(steps, orders(steps, options.order ?? 2, scheduler, eulerAtZero: false), .noise)
    }

    /// Tabulates UniP (Zhao et al. 2023, algorithm 2); `corrected` adds UniC, which makes it UniPC.
    static func unipc(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        let (highest, count) = (options.order ?? 2, steps.count)
        var orders = steps.indices.map { min(highest, $0 + 1, scheduler.lowerOrderFinal ? count - $0 : highest) }
        if steps.last.end.noise == 0 { orders[count - 1] = 1 }
        return multistep(steps, orders, kind: options.kind ?? "bh2")
    }

    /// Tabulates linear multistep: the exact integral over sigma of a polynomial in the noise.
    ///
    /// A step that is far longer than those before it, as the last one to sigma = 0 is in hundreds of steps,
    /// extrapolates with weights of thousands, by which the rounding of the output would grow. It is of a lower order.
    static func lms(_ steps: SamplingSteps, _ scheduler: Scheduler, _ options: SolverOptions) throws -> Draft {
        var draft = Draft(rows: [], history: .noise)
        for (i, step) in steps.steps.enumerated() {
            let (start, end) = (step.start, step.end)
            var weights: [Double] = []
            for order in (1...min(options.order ?? 4, i + 1)).reversed() {
                let offsets = steps.newestStarts(i, order: order).map { $0.sigma - start.sigma }
                let moments = (1...order).map { power in
                    end.signal * pow(end.sigma - start.sigma, Double(power)) / Double(power)
                }
                weights = Quadrature.weights(at: offsets, moments)
                // Of the next latents, for an error of 1 in each estimate of the noise.
                let error = weights.reduce(0) { $0 + abs($1) }
                if error <= largestError || error <= largestGrowth * abs(weights.reduce(0, +)) { break }
            }
            draft.rows.append(Draft.Row(step, end.signal / start.signal, weights))
        }
        return draft
    }

    /// Adds UniC (Zhao et al. 2023, algorithm 1) to a table with one row a step; the order rises by one.
    ///
    /// Each step is computed a second time once the estimate at its end is known.
    static func corrected(_ draft: Draft, _ steps: SamplingSteps, _ options: SolverOptions) -> Draft {
        let kind = options.kind == "bh1" ? "bh1" : "bh2"
        var corrected = draft
        for i in steps.indices {
            corrected.rows[i].endsStep = false
            guard i > 0 else { continue }
            let order = draft.rows[i - 1].mix.estimates.count
            let nodes = steps.newestStarts(i, order: order + 1)
            corrected.rows[i].correction = Quadrature.exponential(
                nodes[1], nodes[0], nodes, history: draft.history, kind: order == 1 ? kind : "heun")
        }
        return corrected
    }

    /// Returns each step's order: lower while the history is short, and at the end where diffusers lowers it.
    private static func orders(
        _ steps: SamplingSteps, _ highest: Int, _ scheduler: Scheduler, eulerAtZero: Bool = true
    ) -> [Int] {
        let few = scheduler.lowerOrderFinal && steps.total < 15
        var orders = steps.indices.map { min(highest, $0 + 1) }
        let last = orders.count - 1
        if few, last > 0 { orders[last - 1] = min(orders[last - 1], 2) }
        if few || (eulerAtZero && (steps.last.end.noise == 0 || scheduler.eulerAtFinal)) { orders[last] = 1 }
        return orders
    }

    /// Returns a table whose step i integrates a polynomial through the last orders[i] estimates.
    private static func multistep(
        _ steps: SamplingSteps, _ orders: [Int], _ history: EstimateKind = .denoised, kind: String = "heun",
        curvature: Double = 1, sde: Bool = false
    ) -> Draft {
        let rows = zip(steps.indices, orders).map { i, order in
            let step = steps[i]
            let mix = Quadrature.exponential(
                step.start, step.end, steps.newestStarts(i, order: order), history: history, kind: kind,
                curvature: curvature, sde: sde)
            return Draft.Row(timestep: step.timestep, level: step.start, mix: mix)
        }
        return Draft(rows: rows, history: history)
    }
}
