import Foundation
import GoldenFiles
import MLXSDCore
import Testing

/// What recordings of single pictures do not show: several pictures, events, AND, guidance that stops, memory.
@Suite struct GenerationTests {
    private func pipeline(
        _ name: String, reduceMemory: Bool = false
    ) throws -> (sd: StableDiffusion, backend: FormulaBackend, recorded: RecordedPicture) {
        let recorded = try RecordedPicture(name)
        let backend = FormulaBackend(try ModelSetInfo(folder: recorded.folder))
        return (try recorded.pipeline(backend, reduceMemory: reduceMemory), backend, recorded)
    }

    /// The i-th of several pictures is that of the seed + i, whatever was made before it.
    @Test(arguments: ["deepcache", "inpainting", "fresh_noise", "batch_1", "control_deepcache"])
    func severalPicturesHaveFollowingSeeds(name: String) async throws {
        let (sd, _, recorded) = try pipeline(name)
        let pictures = try await sd.pictures(
            recorded.prompt, recorded.request, pictures: recorded.pictures, count: 3)
        #expect(pictures.map(\.seed) == (0..<3).map { UInt64((recorded.request.seed ?? 0) + $0) })
        #expect(Set(pictures.map(\.image.bytes)).count == 3)
        for picture in pictures {
            var request = recorded.request
            request.seed = Int(picture.seed)
            let alone = try await sd.picture(recorded.prompt, request, pictures: recorded.pictures)
            #expect(alone.image == picture.image)
            // The completed request makes the same picture.
            let again = try await sd.picture(recorded.prompt, picture.request, pictures: recorded.pictures)
            #expect(again.image == picture.image)
        }
    }

    /// Events hold everything that the ones before them said; the last holds the pictures.
    @Test func eventsAreStates() async throws {
        let (sd, _, recorded) = try pipeline("deepcache")
        var last: GenerationProgress?
        for try await progress in sd.generate(recorded.prompt, recorded.request, count: 2) {
            if let last {
                #expect(progress.fraction >= last.fraction)
                #expect(progress.pictures.count >= last.pictures.count)
            }
            #expect(progress.count == 2 && progress.evaluations == 6)
            if progress.stage == .denoising, progress.evaluation > 0 { #expect(progress.preview?.size == "8x8") }
            last = progress
        }
        #expect(last?.fraction == 1)
        #expect(last?.pictures.count == 2)
        #expect(last?.result?.seed == UInt64((recorded.request.seed ?? 0) + 1))
    }

    /// Decoded previews have the size of the picture, and do not change it.
    @Test func previewsDoNotChangeThePicture() async throws {
        let (sd, _, recorded) = try pipeline("deepcache")
        let plain = try await sd.picture(recorded.prompt, recorded.request)
        let sizes = Collected<String>()
        let pictures = try await sd.pictures(recorded.prompt, recorded.request, previews: .decoded(every: 2)) {
            if let preview = $0.preview, $0.stage == .denoising { await sizes.append(preview.size) }
        }
        #expect(pictures.first?.image == plain.image)
        #expect(await sizes.elements == ["8x8", "64x64", "8x8", "64x64", "8x8", "8x8"])
    }

    /// AND joins prompts: (a AND a :0) guides as a alone; (a AND b) and (b AND a) are one picture.
    @Test func andJoinsPrompts() async throws {
        let (sd, backend, recorded) = try pipeline("batch_1")
        func latents(_ prompt: String) async throws -> [Float] {
            try await sd.picture(prompt, recorded.request).latents.values
        }
        let alone = try await latents("a tent")
        #expect(distance(try await latents("a tent AND a moon :0"), alone) < 1e-5)
        let both = try await latents("a tent AND a moon")
        #expect(distance(both, alone) > 1e-3)
        #expect(distance(try await latents("a moon AND a tent"), both) < 1e-5)
        let before = backend.calls.count
        _ = try await latents("a tent AND a moon AND grass")
        let unets = backend.calls[before...].filter { $0.role == "unet_deep" }
        // Rows of the negative prompt and three prompts, in three full evaluations.
        #expect(unets.map(\.keepAs?.stream) == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3])
    }

    /// From the stop on the prompt runs alone, and deep features of two rows are not reused for one.
    @Test func guidanceStops() async throws {
        let (sd, backend, recorded) = try pipeline("batch_1")
        var request = recorded.request
        request.steps = 6
        request.sampler = "dpmpp_2m"
        request.deepcache = try CachePolicy(parsing: "4:0")
        _ = try await sd.picture("a tent", request, guidanceStop: 3)
        let runs = backend.calls.filter { $0.role.hasPrefix("unet") }.map { call in
            "\(call.role == "unet_deep" ? "full" : "shallow") \(call.keepAs ?? call.deepFeature[0].key)"
        }
        let evaluations = runs.map { $0.contains("stream: 1") ? "prompt" : "row" }
        #expect(evaluations.count { $0 == "prompt" } == 1 + 3)  // full 0; shallow 0, 1, 2
        let full = backend.calls.filter { $0.role == "unet_deep" }.compactMap(\.keepAs)
        #expect(full.map(\.evaluation) == [0, 0, 3, 4])
        let complete = try await sd.picture("a tent", request)
        #expect(complete.fullEvaluations == 2)
        await #expect(throws: DiffusionError.self) { try await sd.picture("a tent", request, guidanceStop: 6) }
    }

    /// Networks come one after the other, and none stays: the peak is the largest one.
    @Test func reducedMemoryHoldsOneStageAtATime() async throws {
        let recorded = try RecordedPicture("sdxl_deepcache")
        let backend = try recorded.backend()
        let sd = try recorded.pipeline(backend, reduceMemory: true)
        let picture = try await sd.picture(recorded.prompt, recorded.request)
        #expect(levels(picture.image, recorded.expectedImage) <= 1)
        #expect(backend.loadedRoles.isEmpty)
        #expect(
            backend.loadHistory == [
                "text_encoder any", "-text_encoder any", "text_encoder_2 any", "-text_encoder_2 any",
                "unet_deep 32x32", "unet_shallow 32x32", "-unet_deep 32x32", "-unet_shallow 32x32",
                "vae_decoder 32x32", "-vae_decoder 32x32",
            ])
    }

    @Test func networksStayOtherwise() async throws {
        let recorded = try RecordedPicture("deepcache")
        let backend = try recorded.backend()
        let sd = try recorded.pipeline(backend)
        try await sd.load()
        let loaded = backend.loadedRoles
        #expect(
            loaded.isSuperset(of: ["text_encoder any", "unet_deep 64x64", "unet_shallow 64x64", "vae_decoder 64x64"]))
        _ = try await sd.picture(recorded.prompt, recorded.request)
        #expect(backend.loadedRoles == loaded)
        await sd.unload()
        #expect(backend.loadedRoles.isEmpty)
    }

    /// A deep feature is dropped when nothing needs it any more: at most as many stay as the plan needs.
    @Test(
        arguments: [
            ("text_to_image", 1), ("deepcache", 1), ("deepcache_forecast", 2), ("batch_1", 2), ("functions", 1),
        ])
    func fewFeaturesAreKept(name: String, most: Int) async throws {
        let (sd, backend, recorded) = try pipeline(name)
        _ = try await sd.picture(recorded.prompt, recorded.request)
        #expect(backend.mostKept == most)
        #expect(backend.kept.isEmpty)
    }

    /// A failed picture leaves neither features nor the turn behind.
    @Test func aFailureLeavesNothing() async throws {
        let recorded = try RecordedPicture("deepcache")
        let backend = try recorded.backend()
        let sd = try recorded.pipeline(backend)
        var request = recorded.request
        request.guidance = 9
        await #expect(throws: DiffusionError.self) { try await sd.picture(recorded.prompt, request) }
        #expect(backend.featureCount == 0)
        backend.rewind()
        _ = try await sd.picture(recorded.prompt, recorded.request)
    }

    /// The table of a kit makes the picture that the scheduler's own makes.
    @Test func tablesOfAKit() async throws {
        let recorded = try RecordedPicture("self_check")
        let sd = try recorded.pipeline(recorded.backend())
        let file = recorded.folder.appendingPathComponent("kit/tables/dpmpp_2m-karras-6-deepcache-3-0.json")
        var request = GenerationRequest(
            prompt: recorded.prompt, negative: recorded.request.negative, seed: recorded.request.seed)
        request.guidance = recorded.request.guidance
        let picture = try await sd.picture(recorded.prompt, request, table: SamplerTable(contentsOf: file))
        #expect(levels(picture.image, recorded.expectedImage) <= 1)
    }

    /// Memory does not grow with the number of pictures. MLXSD_PROOF=1 makes a thousand.
    @Test func memoryDoesNotGrow() async throws {
        let proof = ProcessInfo.processInfo.environment["MLXSD_PROOF"] == "1"
        let recorded = try RecordedPicture("deepcache")
        let backend = try recorded.backend()
        let sd = try recorded.pipeline(backend)
        func make(_ count: Int) async throws {
            for _ in 0..<count {
                backend.rewind()
                _ = try await sd.picture(recorded.prompt, recorded.request)
            }
        }
        try await make(proof ? 100 : 20)
        let before = try residentKilobytes()
        try await make(proof ? 1000 : 40)
        let after = try residentKilobytes()
        // Other tests run beside this one unless it is run alone, as the proof is.
        let growth = after - before
        #expect(growth < (proof ? 2_000 : 300_000), "\(before) kB, then \(after) kB")
    }

    private func residentKilobytes() throws -> Int {
        let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
        let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") })
        return try #require(line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) })
    }
}
