import Foundation

extension SamplerTable: Codable {
    static let format = "mlx-sd sampler table"
    static let version = 1

    /// Reads a table of a kit, with its DeepCache columns.
    ///
    /// Throws `DiffusionError(.files)` for a file that is missing, no table, of a newer version or inconsistent.
    public init(contentsOf file: URL) throws {
        let name = file.lastPathComponent
        guard let data = try? Data(contentsOf: file) else {
            throw DiffusionError(.files, "\(name): there is no such file; export the kit again (--kit)")
        }
        do {
            self = try JSONDecoder().decode(SamplerTable.self, from: data)
        } catch let error as DiffusionError {
            throw DiffusionError(.files, "\(name): \(error.description)")
        } catch {
            throw DiffusionError(.files, "\(name) is no sampler table, or a damaged one; export the kit again (--kit)")
        }
    }

    enum CodingKeys: String, CodingKey {
        case format, version, sampler, schedule, steps, options, deepcache, start, history, rows, end, clip
        case sigmaData = "sigma_data"
    }

    private enum RowKeys: String, CodingKey {
        case timestep, full, deep, forget, estimate, correction, mix, level, denoised
        case freshNoise = "fresh_noise"
        case endsStep = "ends_step"
        case clipWeight = "clip_weight"
    }

    /// A row and its plan, as JSON joins them.
    private struct Line: Codable {
        var row: Row
        var plan: EvaluationPlan

        init(_ row: Row, _ plan: EvaluationPlan) {
            (self.row, self.plan) = (row, plan)
        }

        init(from decoder: any Decoder) throws {
            let values = try decoder.container(keyedBy: RowKeys.self)
            row = Row(
                timestep: try values.decode(Double.self, forKey: .timestep),
                level: try values.decodeIfPresent(NoiseLevel.self, forKey: .level),
                estimate: try values.decode(Estimate.self, forKey: .estimate),
                denoised: try values.decodeIfPresent(Estimate.self, forKey: .denoised),
                correction: try values.decodeIfPresent(Mix.self, forKey: .correction),
                mix: try values.decode(Mix.self, forKey: .mix),
                freshNoise: try values.decode(Double.self, forKey: .freshNoise),
                endsStep: try values.decode(Bool.self, forKey: .endsStep),
                clipWeight: try values.decodeIfPresent(Double.self, forKey: .clipWeight) ?? 0)
            let deep = try values.decode([[Double]].self, forKey: .deep)
            guard deep.allSatisfy({ $0.count == 2 && Int(exactly: $0[0]) != nil }) else {
                throw DiffusionError(.files, "deep must hold pairs of an evaluation and a weight; export the kit again")
            }
            plan = EvaluationPlan(
                full: try values.decode(Bool.self, forKey: .full),
                deep: deep.map { EvaluationPlan.Reused(evaluation: Int($0[0]), weight: Float($0[1])) },
                forget: try values.decode([Int].self, forKey: .forget))
        }

        func encode(to encoder: any Encoder) throws {
            var values = encoder.container(keyedBy: RowKeys.self)
            try values.encode(row.timestep, forKey: .timestep)
            try values.encode(plan.full, forKey: .full)
            try values.encode(plan.deep.map { [Double($0.evaluation), Double($0.weight)] }, forKey: .deep)
            try values.encode(plan.forget, forKey: .forget)
            try values.encode(row.estimate, forKey: .estimate)
            try values.encode(row.correction, forKey: .correction)
            try values.encode(row.mix, forKey: .mix)
            try values.encode(row.freshNoise, forKey: .freshNoise)
            try values.encode(row.endsStep, forKey: .endsStep)
            try values.encodeIfPresent(row.level, forKey: .level)
            try values.encodeIfPresent(row.denoised, forKey: .denoised)
            if row.clipWeight != 0 { try values.encode(row.clipWeight, forKey: .clipWeight) }
        }
    }

    /// Reads the JSON of a kit's table; throws `DiffusionError(.files)` where its numbers contradict each other.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        guard try values.decodeIfPresent(String.self, forKey: .format) == Self.format else {
            throw DiffusionError(.files, "this is no sampler table; export the kit again (--kit)")
        }
        let version = try values.decode(Int.self, forKey: .version)
        guard version == Self.version else {
            throw DiffusionError(
                .files, "the sampler table is of version \(version), not \(Self.version); update this package")
        }
        sampler = try values.decode(String.self, forKey: .sampler)
        schedule = try values.decode(String.self, forKey: .schedule)
        steps = try values.decode(Int.self, forKey: .steps)
        options = try values.decode(SolverOptions.self, forKey: .options)
        deepcache = try values.decodeIfPresent(String.self, forKey: .deepcache)
        start = try values.decode(Start.self, forKey: .start)
        history = try values.decode(Int.self, forKey: .history)
        let lines = try values.decode([Line].self, forKey: .rows)
        (rows, plan) = (lines.map(\.row), lines.map(\.plan))
        end = try values.decodeIfPresent(NoiseLevel.self, forKey: .end)
        sigmaData = try values.decodeIfPresent(Double.self, forKey: .sigmaData) ?? 1
        clip = try values.decodeIfPresent(Clip.self, forKey: .clip)
        try check()
    }

    /// Writes the table as a kit has it, with the levels where they are known.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(Self.format, forKey: .format)
        try values.encode(Self.version, forKey: .version)
        try values.encode(sampler, forKey: .sampler)
        try values.encode(schedule, forKey: .schedule)
        try values.encode(steps, forKey: .steps)
        try values.encode(options, forKey: .options)
        try values.encode(deepcache, forKey: .deepcache)
        try values.encode(start, forKey: .start)
        try values.encode(history, forKey: .history)
        try values.encode(zip(rows, plan).map { Line($0, $1) }, forKey: .rows)
        try values.encodeIfPresent(end, forKey: .end)
        if sigmaData != 1 { try values.encode(sigmaData, forKey: .sigmaData) }
        try values.encodeIfPresent(clip, forKey: .clip)
    }

    /// Throws where the table could not be run: no rows, weights beyond its history, features that are not kept.
    private func check() throws {
        let mixes = rows.flatMap { [$0.mix, $0.correction].compactMap { $0 } }
        guard !rows.isEmpty, history >= 1, mixes.allSatisfy({ $0.estimates.count <= history }), isFinite else {
            throw DiffusionError(.files, "the rows of this sampler table contradict its history; export the kit again")
        }
        var kept: Set<Int> = []
        for (evaluation, step) in plan.enumerated() {
            if step.full { kept.insert(evaluation) }
            guard step.full == step.deep.isEmpty, step.deep.allSatisfy({ kept.contains($0.evaluation) }),
                kept.isSuperset(of: step.forget)
            else {
                throw DiffusionError(
                    .files,
                    "evaluation \(evaluation) of this sampler table reuses features that nothing keeps; export the "
                        + "kit again")
            }
            kept.subtract(step.forget)
        }
    }

    /// Returns a table of a kit with the levels that its file does not hold, computed from the scheduler of its set.
    ///
    /// Throws `DiffusionError(.files)` where the table is of another checkpoint.
    public func withLevels(of scheduler: Scheduler) throws -> SamplerTable {
        let choice = Samplers.Choice(sampler: sampler, schedule: schedule, options: options)
        var table = try SamplerTable.make(scheduler, choice, steps: steps)
        guard table.rows.count == rows.count,
            zip(table.rows, rows).allSatisfy({
                let weight = $0.estimate.prediction / $0.estimate.divisor
                return abs(weight - $1.estimate.prediction) <= 1e-5 * max(1, abs(weight))
                    && abs($0.mix.base - $1.mix.base) <= 1e-5
            })
        else {
            throw DiffusionError(
                .files, "this sampler table is of another checkpoint's scheduler; export the kit again")
        }
        (table.plan, table.deepcache) = (plan, deepcache)
        return table
    }
}
