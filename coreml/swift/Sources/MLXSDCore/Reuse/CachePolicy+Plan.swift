import Foundation

extension CachePolicy {
    /// Returns what each evaluation runs and reuses.
    ///
    /// - Parameters:
    ///   - logSNR: of every evaluation, `SamplerTable.logSNR`.
    ///   - restarts: evaluations that are full beside those of the policy, and drop what was kept: from there on the
    ///     batch has another size, or another control network acts.
    ///
    /// Throws `DiffusionError(.request)` where the policy does not fit the number of evaluations.
    public func plan(logSNR: [Double], restarts: Set<Int> = []) throws -> [EvaluationPlan] {
        let full = try Set(fullEvaluations(of: logSNR.count)).union(restarts)
        var past: [(logSNR: Double, evaluation: Int)] = []  // the latest full evaluations
        let reused = logSNR.indices.map { evaluation -> [EvaluationPlan.Reused] in
            if restarts.contains(evaluation) { past = [] }
            let level = logSNR[evaluation]
            guard full.contains(evaluation) else { return Self.extrapolated(past, to: level) }
            // Of two evaluations at one noise level (Heun's) the later replaces the earlier.
            past = (past.filter { abs($0.logSNR - level) > 5e-7 } + [(level, evaluation)]).suffix(1 + forecast)
            return []
        }
        return EvaluationPlan.of(reused)
    }

    /// Returns the evaluations, of `evaluations` in all, that are full; 0 is the first of them.
    func fullEvaluations(of evaluations: Int) throws -> [Int] {
        switch rule {
        case .every(let interval): return Array(stride(from: 0, to: evaluations, by: interval))
        case .at(let listed): return listed.filter { $0 < evaluations }
        case .firstAlone: return Array(0..<min(evaluations, 1))
        case .nonUniform(let interval, let centre, let power):
            return try Self.nonUniform(evaluations, interval: interval, centre: centre, power: power)
        }
    }

    /// Returns the weights of the polynomial through all of `past` at a log-SNR, rounded to Float; the newest first.
    ///
    /// Lagrange's form. It reaches no further than half of the distance between the last two and stays there: beyond,
    /// it was seen to overshoot.
    private static func extrapolated(_ past: [(logSNR: Double, evaluation: Int)], to logSNR: Double)
        -> [EvaluationPlan.Reused]
    {
        guard let last = past.last else { return [] }
        if past.count == 1 { return [EvaluationPlan.Reused(evaluation: last.evaluation, weight: 1)] }
        let reach = 0.5 * abs(last.logSNR - past[past.count - 2].logSNR)
        let x = min(max(logSNR, last.logSNR - reach), last.logSNR + reach)
        let weights = past.map { entry in
            past.reduce(1.0) { weight, other in
                other.logSNR == entry.logSNR ? weight : weight * (x - other.logSNR) / (entry.logSNR - other.logSNR)
            }
        }
        return zip(past, weights).map { EvaluationPlan.Reused(evaluation: $0.evaluation, weight: Float($1)) }
            .filter { $0.weight != 0 }.reversed()
    }

    /// Returns ceil(T/N) evaluations of T: c + int(l**p), l evenly spaced from (-c)**(1/p) to (T - c)**(1/p).
    ///
    /// Where rounding makes some of them equal, the power is lowered by 0.02 until none are, as in the authors' code.
    private static func nonUniform(_ evaluations: Int, interval: Int, centre: Int?, power first: Double) throws -> [Int]
    {
        let centre = centre ?? evaluations * 3 / 10
        guard centre < evaluations else {
            throw DiffusionError(
                .request,
                "there is no evaluation \(centre) of \(evaluations) to be nonuniform DeepCache's centre")
        }
        let count = (evaluations + interval - 1) / interval
        var power = first
        while power > 1 {
            let start = Complex(real: Double(-centre), imaginary: 0).power(1 / power)
            let end = pow(Double(evaluations - centre), 1 / power)
            // NumPy divides complex numbers by way of the reciprocal, and real ones at once.
            let share = 1 / Double(count)
            let step =
                centre == 0
                ? Complex(real: end / Double(count), imaginary: 0)
                : Complex(real: (end - start.real) * share, imaginary: -start.imaginary * share)
            let offsets = (0...count).map { i in
                // Below the centre the root is complex; the authors' code drops the imaginary part.
                let point =
                    i == count
                    ? Complex(real: end, imaginary: 0)
                    : Complex(
                        real: Double(i) * step.real + start.real,
                        imaginary: Double(i) * step.imaginary + start.imaginary)
                // Without a centre all is real.
                return Int(centre == 0 ? pow(point.real, power) : point.elementPower(power).real)
            }
            let inner = Array(Set(offsets)).sorted().dropFirst().dropLast()
            let full = [0] + inner.map { $0 + centre }
            if full.count == count { return full }
            power -= 0.02
        }
        throw DiffusionError(
            .request,
            "no \(count) of \(evaluations) evaluations are spread around \(centre) by a power of at most \(first); "
                + "choose another centre or a larger interval")
    }
}
