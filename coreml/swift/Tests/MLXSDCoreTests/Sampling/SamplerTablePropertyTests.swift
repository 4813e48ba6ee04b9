import Foundation
import Testing

@testable import MLXSDCore

@Suite struct SamplerTablePropertyTests {
    private static func scheduler(_ fields: [String: JSONValue]) throws -> Scheduler {
        let common: [String: JSONValue] = [
            "beta_start": .number(0.00085), "beta_end": .number(0.012), "beta_schedule": .string("scaled_linear"),
            "steps_offset": .integer(1),
        ]
        return try Scheduler(config: .object(common.merging(fields) { $1 }))
    }

    /// Checkpoints that predict epsilon and v, and one with zero terminal SNR.
    private static func schedulers() throws -> [Scheduler] {
        [
            try scheduler(["_class_name": .string("PNDMScheduler"), "skip_prk_steps": .bool(true)]),
            try scheduler([
                "_class_name": .string("DPMSolverMultistepScheduler"), "prediction_type": .string("v_prediction"),
                "timestep_spacing": .string("trailing"),
            ]),
            try scheduler([
                "_class_name": .string("DDIMScheduler"), "prediction_type": .string("v_prediction"),
                "clip_sample": .bool(false), "rescale_betas_zero_snr": .bool(true),
            ]),
        ]
    }

    private static let policies = ["3:0", "2", "5:1+forecast1", "4:0+forecast2", "at=0,2,3,9", "nonuniform:3", "100"]

    @Test("500 random tables: rows, last level, finite weights and consistent caches")
    func tables() throws {
        var generator = SeededRandom(seed: 18)
        let schedulers = try Self.schedulers()
        var (made, refused) = (0, 0)
        while made < 500 {
            let scheduler = schedulers[Int.random(in: 0..<3, using: &generator)]
            let sampler = Samplers.names.randomElement(using: &generator) ?? "euler"
            let schedule = Schedules.names.randomElement(using: &generator) ?? "linspace"
            let steps = Int.random(in: 1...60, using: &generator)
            let strength = Bool.random(using: &generator) ? Double.random(in: 0.2...1, using: &generator) : nil
            guard
                let table = try? SamplerTable.make(
                    scheduler: scheduler, sampler: sampler, schedule: schedule, steps: steps, strength: strength)
            else {
                refused += 1
                continue
            }
            made += 1
            let place = Comment("\(sampler) \(schedule) \(steps) \(strength ?? 0)")
            let running = strength.map { Int(Double(steps) * $0) } ?? steps
            let rows = ["heun": 2 * running - 1, "edm": 2 * running - 1, "plms": running + (running > 1 ? 1 : 0)]
            #expect(table.rows.count == rows[sampler] ?? running, place)
            #expect(table.stepNumbers.count == table.rows.count, place)
            #expect(table.isFinite && table.levels?.last == NoiseLevel(signal: 1, noise: 0), place)
            #expect(table.rows.last?.endsStep == (sampler != "unipc"), place)
            let levels = table.rows.compactMap(\.level)
            #expect(levels.allSatisfy { abs($0.signal * $0.signal + $0.noise * $0.noise - 1) < 1e-6 }, place)
            #expect((table.start.image == nil) == (strength == nil), place)
            let lengths = table.rows.flatMap { [$0.mix.estimates.count, $0.correction?.estimates.count ?? 0] }
            #expect(lengths.max() == table.history, place)
            #expect(table.fullEvaluations == table.rows.count, place)
            let text = Self.policies.randomElement(using: &generator) ?? "3"
            // A policy may not fit few evaluations.
            guard let cached = try? table.cached(by: CachePolicy(parsing: text)) else { continue }
            try check(cached, "\(place.rawValue) \(text)")
        }
        #expect(refused > 0)
    }

    /// Runs a plan as an app does, and fails where a feature is used that is not kept, or kept without being used.
    private func check(_ table: SamplerTable, _ place: String) throws {
        var kept: Set<Int> = []
        #expect(table.plan.first?.full == true, "\(place)")
        for (evaluation, step) in table.plan.enumerated() {
            #expect(step.full == step.deep.isEmpty, "\(place)")
            if step.full { kept.insert(evaluation) }
            #expect(step.deep.allSatisfy { kept.contains($0.evaluation) }, "\(place) uses a feature that is gone")
            #expect(abs(step.deep.reduce(0) { $0 + $1.weight } - (step.full ? 0 : 1)) < 1e-3, "\(place)")
            #expect(kept.isSuperset(of: step.forget), "\(place)")
            kept.subtract(step.forget)
            for feature in kept {
                let used = table.plan[(evaluation + 1)...].contains { $0.deep.contains { $0.evaluation == feature } }
                #expect(used, "\(place) keeps feature \(feature) that nothing uses")
            }
        }
        #expect(kept.isEmpty, "\(place)")
        let again = try JSONDecoder().decode(SamplerTable.self, from: JSONEncoder().encode(table))
        #expect(again == table, "\(place)")
    }

    @Test("A table that reuses what it has forgotten is refused as a file")
    func damaged() throws {
        let table = try SamplerTable.make(scheduler: Self.schedulers()[0], sampler: "euler", steps: 6)
        var cached = try table.cached(by: CachePolicy(every: 3))
        cached.plan[1] = EvaluationPlan(full: false, deep: cached.plan[1].deep, forget: [0])
        let data = try JSONEncoder().encode(cached)
        #expect(throws: DiffusionError.self) { try JSONDecoder().decode(SamplerTable.self, from: data) }
        let missing = URL(fileURLWithPath: "/nowhere/table.json")
        #expect(throws: DiffusionError.self) { try SamplerTable(contentsOf: missing) }
    }
}
