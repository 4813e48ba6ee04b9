import Foundation
import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct SamplerRunTests {
    private func table(_ sampler: String, steps: Int, strength: Double? = nil) throws -> SamplerTable {
        let config: [String: JSONValue] = [
            "_class_name": .string("PNDMScheduler"), "beta_start": .number(0.00085), "beta_end": .number(0.012),
            "beta_schedule": .string("scaled_linear"),
        ]
        return try SamplerTable.make(
            scheduler: Scheduler(config: .object(config)), sampler: sampler, steps: steps, strength: strength)
    }

    private let noise: [Float] = (0..<16).map { Float(sin(Double($0) * 2.1)) * 1.4 }

    @Test("A network that knows the image leads every sampler to it")
    func convergence() async throws {
        let image: [Float] = (0..<16).map { Float(cos(Double($0))) }
        for name in Samplers.names where !["tcd", "plms", "ddpm"].contains(name) {
            let table = try table(name, steps: 30)
            let final = try await table.run(
                noise: noise, freshNoise: { noise },
                predict: { latents, evaluation in
                    let level = try #require(table.rows[evaluation].level)
                    return zip(latents, image).map { ($0 - Float(level.signal) * $1) / Float(level.noise) }
                })
            let error = largestDistance(final, image)
            #expect(error < 0.1, "\(name)")
        }
    }

    @Test("Cancelling the task stops before the next evaluation")
    func cancellation() async throws {
        let table = try table("euler", steps: 30)
        let noise = noise
        let task = Task {
            var evaluations = 0
            do {
                _ = try await table.run(
                    noise: noise, freshNoise: { noise },
                    predict: { latents, evaluation in
                        evaluations += 1
                        if evaluation == 4 { withUnsafeCurrentTask { $0?.cancel() } }
                        return latents
                    })
            } catch is CancellationError {
                return evaluations
            }
            return -1
        }
        #expect(try await task.value == 5)
    }

    @Test("Latents that are not finite stop the run at once, with one clear error")
    func notFinite() async throws {
        let table = try table("dpmpp_2m", steps: 8)
        for bad in [Float.nan, .infinity] {
            var evaluations = 0
            do {
                _ = try await table.run(
                    noise: noise, freshNoise: { noise },
                    predict: { latents, evaluation in
                        evaluations += 1
                        return evaluation == 2 ? latents.map { _ in bad } : latents
                    })
                Issue.record("the run went on")
            } catch let error as DiffusionError {
                #expect(error.kind == .network && error.description.contains("after evaluation 3 of 8"))
            }
            #expect(evaluations == 3)
        }
    }

    @Test("What is kept in a blended inpainting is the image at every level and at the end")
    func keep() async throws {
        let table = try table("euler", steps: 10, strength: 0.5)
        let image: [Float] = (0..<16).map { Float($0) / 8 }
        let unit = noise
        var levels: [NoiseLevel] = []
        let final = try await table.run(
            noise: noise, image: image, freshNoise: { noise }, predict: { latents, _ in latents.map { $0 * 0.1 } },
            keep: { latents, signal, noise in
                levels.append(NoiseLevel(signal: signal, noise: noise))
                return latents.indices.map { i in
                    i < 8 ? latents[i] : Float(signal) * image[i] + Float(noise) * unit[i]
                }
            })
        #expect(levels == table.levels)
        #expect(levels.count == 5 && levels.last == NoiseLevel(signal: 1, noise: 0))
        #expect(Array(final[8...]) == Array(image[8...]))
        #expect(Array(final[..<8]) != Array(image[..<8]))
    }

    @Test("Image, noise and prediction of other sizes are refused before work")
    func sizes() async throws {
        let fromNoise = try table("euler", steps: 4)
        let midway = try table("euler", steps: 4, strength: 0.5)
        let noise = noise
        await #expect(throws: DiffusionError.self) {
            try await fromNoise.run(noise: noise, image: noise, freshNoise: { noise }, predict: { x, _ in x })
        }
        await #expect(throws: DiffusionError.self) {
            try await midway.run(noise: noise, freshNoise: { noise }, predict: { x, _ in x })
        }
        await #expect(throws: DiffusionError.self) {
            try await midway.run(noise: noise, image: [1], freshNoise: { noise }, predict: { x, _ in x })
        }
        await #expect(throws: DiffusionError.self) {
            try await fromNoise.run(noise: noise, freshNoise: { noise }, predict: { x, _ in Array(x.dropLast()) })
        }
    }

    @Test("A step on 65,536 numbers takes little time")
    func speed() async throws {
        let count = 65536
        let numbers = (0..<count).map { Float($0 % 251) / 125 - 1 }
        for name in ["euler", "dpmpp_2m", "unipc", "lms"] {
            let table = try table(name, steps: 20)
            let duration = try await ContinuousClock().measure {
                _ = try await table.run(noise: numbers, freshNoise: { numbers }, predict: { _, _ in numbers })
            }
            let microseconds = Double(duration.components.attoseconds) / 1e12 / Double(table.rows.count)
            print("\(name): \(Int(microseconds)) microseconds for a step on \(count) numbers")
            #if !DEBUG
                #expect(microseconds < 5000)  // on an idle machine about 100
            #endif
        }
    }

    @Test("Strength chooses the last int(steps * strength) steps")
    func strength() throws {
        let complete = try table("euler", steps: 10)
        let part = try table("euler", steps: 10, strength: 0.35)
        #expect(part.rows.map(\.timestep) == complete.rows.suffix(3).map(\.timestep))
        #expect(throws: DiffusionError.self) { try table("euler", steps: 10, strength: 0.05) }
        #expect(throws: DiffusionError.self) { try table("euler", steps: 10, strength: 1.5) }
        #expect(throws: DiffusionError.self) { try table("euler", steps: 10, strength: 0) }
    }
}
