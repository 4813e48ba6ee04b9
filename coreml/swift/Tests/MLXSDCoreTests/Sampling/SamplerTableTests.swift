import Foundation
import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct SamplerTableTests {
    /// The distance of numbers from Python's, over the largest of the vector that they are of.
    private struct Distance {
        var worst = 0.0
        var place = ""

        mutating func add(_ ours: [Double], _ theirs: [Double], least: Double = 0, _ place: @autoclosure () -> String) {
            let scale = max(theirs.map(abs).max() ?? 0, least, 1e-30)
            let distance = largestDistance(ours, theirs)
            let error = distance.isFinite ? distance / scale : .infinity
            if error > worst { (worst, self.place) = (error, place()) }
        }
    }

    private func compare(_ ours: SamplerTable, _ theirs: SamplingGoldens.Table, _ name: String, _ far: inout Distance) {
        guard ours.rows.count == theirs.rows.count else {
            Issue.record("\(name): \(ours.rows.count) rows instead of \(theirs.rows.count)")
            return
        }
        #expect((ours.start.image == nil) == theirs.image.isNaN, "\(name)")
        #expect((ours.clip == nil) == theirs.limit.isNaN, "\(name)")
        #expect((ours.clip?.quantile == nil) == theirs.quantile.isNaN, "\(name)")
        #expect(ours.rows.map(\.endsStep) == theirs.rows.map(\.endsStep), "\(name)")
        #expect(ours.rows.map { $0.correction == nil } == theirs.rows.map { $0.correction == nil }, "\(name)")
        let start = [ours.start.noise, ours.start.freshNoise, ours.start.image ?? 0, ours.sigmaData]
        let image = theirs.image.isNaN ? 0 : theirs.image
        far.add(start, [theirs.noise, theirs.freshNoise, image, theirs.sigmaData], "\(name) start")
        far.add(
            [ours.clip?.limit ?? 0, ours.clip?.quantile ?? 0],
            [theirs.limit.isNaN ? 0 : theirs.limit, theirs.quantile.isNaN ? 0 : theirs.quantile], "\(name) clip")
        let end = ours.end ?? NoiseLevel(signal: .nan, noise: .nan)
        far.add([end.signal, end.noise], [theirs.end.signal, theirs.end.noise], "\(name) end")
        for (i, (our, their)) in zip(ours.rows, theirs.rows).enumerated() {
            // Timesteps count in whole ones; those of EDM checkpoints are logarithms.
            far.add([our.timestep], [their.timestep], least: 1, "\(name) timestep \(i)")
            let level = our.level ?? NoiseLevel(signal: 0, noise: 0)
            far.add([level.signal], [their.level.signal], "\(name) signal \(i)")
            far.add([level.noise], [their.level.noise], "\(name) noise \(i)")
            far.add([our.freshNoise], [their.freshNoise], least: 1e-6, "\(name) fresh noise \(i)")
            far.add([our.clipWeight], [their.clipWeight], "\(name) clip weight \(i)")
            for (mix, golden) in [(our.mix, their.mix), (our.correction, their.correction)] {
                let numbers = { (mix: SamplerTable.Mix?) in mix.map { [$0.base] + $0.estimates } ?? [] }
                far.add(numbers(mix), numbers(golden), "\(name) weights \(i)")
            }
        }
    }

    @Test("Tables equal Python's for every sampler, schedule and number of steps; what it refuses is refused")
    func tables() throws {
        let (schedulers, cases) = try SamplingGoldens.shared.get()
        var far = Distance()
        var compared = 0
        for golden in cases {
            let scheduler = try #require(schedulers[golden.entry.checkpoint])
            guard let theirs = golden.table else {
                #expect(throws: DiffusionError.self, "\(golden.entry)") { try golden.entry.table(scheduler) }
                continue
            }
            do {
                compare(try golden.entry.table(scheduler), theirs, "\(golden.entry)", &far)
                compared += 1
            } catch {
                Issue.record("\(golden.entry): \(error)")
            }
        }
        print("\(compared) tables, worst \(far.worst): \(far.place)")
        #expect(compared > 5000)
        #expect(far.worst <= 1e-6, "\(far.place)")
    }

    @Test("From the same noise and the same network every table leads to Python's latents")
    func runs() async throws {
        let (schedulers, cases) = try SamplingGoldens.shared.get()
        var (worst, place, compared, exceptions) = (0.0, "", 0, 0)
        for golden in cases {
            guard let theirs = golden.latents, let scheduler = schedulers[golden.entry.checkpoint] else { continue }
            let ours = try await SamplingGoldens.finalLatents(try golden.entry.table(scheduler))
            let largest = theirs.map(abs).max() ?? 0
            let error = Double(largestDistance(ours, theirs)) / Double(largest)
            // A few tables extrapolate so far that Python's own latents differ from processor to processor.
            if !(error <= 5e-6) {
                exceptions += 1
                #expect(error <= golden.entry.sensitivity ?? 0, "\(golden.entry)")
            } else if error > worst {
                (worst, place) = (error, "\(golden.entry)")
            }
            compared += 1
        }
        print("\(compared) runs, worst \(worst): \(place); \(exceptions) beyond 5e-6")
        #expect(compared > 5000)
        #expect(exceptions <= 3)
    }

    private struct ConfigCase: Decodable {
        let config: JSONValue
        let refused, sampler: String?
        let options: SolverOptions?
        let sigmaSchedule: String?
        let alphasCumprod: [Double]?

        private enum CodingKeys: String, CodingKey {
            case config, refused, sampler, options
            case sigmaSchedule = "sigma_schedule"
            case alphasCumprod = "alphas_cumprod"
        }
    }

    @Test("Scheduler configs mean the sampler and the noise that they mean in Python")
    func configs() throws {
        for golden in try Goldens.json("sampling/configs.json", as: [ConfigCase].self) {
            guard golden.refused == nil else {
                #expect(throws: DiffusionError.self, "\(golden.config.shown)") { try Scheduler(config: golden.config) }
                continue
            }
            let scheduler = try Scheduler(config: golden.config)
            #expect(scheduler.sampler == golden.sampler, "\(golden.config.shown)")
            #expect((scheduler.problem == nil) == (golden.sampler != nil))
            #expect(scheduler.options == golden.options, "\(golden.config.shown)")
            #expect(scheduler.sigmaSchedule == golden.sigmaSchedule, "\(golden.config.shown)")
            let alphas = [0, 100, 500, 998, 999].map { scheduler.alphasCumprod[$0] }
            #expect(alphas == golden.alphasCumprod, "\(golden.config.shown)")
        }
    }

    private struct NameCase: Decodable {
        let arguments: [String?]
        let choice: [String?]?
        let refused: String?
    }

    @Test("Names of other programs mean what they mean in Python")
    func names() throws {
        for golden in try Goldens.json("sampling/names.json", as: [NameCase].self) {
            let (sampler, schedule, kind) = (golden.arguments[0], golden.arguments[1], golden.arguments[2])
            let ours = Result { try SamplerNames.canonical(sampler: sampler, schedule: schedule, kind: kind) }
            switch (ours, golden.choice) {
            case (.success(let choice), .some(let expected)):
                #expect([choice.sampler, choice.schedule, choice.kind] == expected, "\(golden.arguments)")
            case (.failure(let error), nil): #expect(error is DiffusionError)
            default: Issue.record("\(golden.arguments): \(ours), Python \(golden.refused ?? "takes it")")
            }
        }
    }

    private struct KitCase: Decodable {
        let checkpoint: String
        let table: JSONValue
    }

    @Test("A kit's table equals the one made from its scheduler, and gains its levels")
    func kitTables() throws {
        let (schedulers, _) = try SamplingGoldens.shared.get()
        for golden in try Goldens.json("sampling/kit.json", as: [KitCase].self) {
            let scheduler = try #require(schedulers[golden.checkpoint])
            let kit = try golden.table.decoded(as: SamplerTable.self)
            let full = try kit.withLevels(of: scheduler)
            #expect(full.levels?.count == kit.rows.count && kit.levels == nil)
            #expect(full.plan == kit.plan && full.deepcache == kit.deepcache)
            let policy = try kit.deepcache.map(CachePolicy.init(parsing:))
            #expect(try full.cached(by: policy).plan == (policy == nil ? full.plan : kit.plan))
            for (ours, theirs) in zip(full.rows, kit.rows) {
                let latents = ours.estimate.latents / ours.estimate.divisor
                #expect(abs(latents - theirs.estimate.latents) <= 1e-6 * max(1, abs(latents)))
                #expect(ours.mix.estimates.count == theirs.mix.estimates.count)
            }
            let written = try JSONDecoder().decode(SamplerTable.self, from: JSONEncoder().encode(full))
            #expect(written == full)
        }
    }
}
