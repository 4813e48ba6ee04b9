import Foundation
import GoldenFiles
import MLXSDCore
import Testing

/// A recording refuses whatever differs from it, and says which call and which input it is.
@Suite struct RecordedBackendTests {
    private func error(_ body: () async throws -> some Sendable) async -> String {
        do {
            _ = try await body()
        } catch let error as DiffusionError {
            return error.description
        } catch {
            return "another error: \(error)"
        }
        return "none"
    }

    private func error(_ name: String, change: (inout GenerationRequest) -> Void) async throws -> String {
        let recorded = try RecordedPicture(name)
        var request = recorded.request
        change(&request)
        let sd = try recorded.pipeline(recorded.backend())
        return await error { try await sd.picture(request.prompt ?? "", request, pictures: recorded.pictures) }
    }

    @Test func anotherSeed() async throws {
        let text = try await error("text_to_image") { $0.seed = 43 }
        #expect(text.contains("run 1 of unet_deep") && text.contains("sample is"))
    }

    @Test func swappedPrompts() async throws {
        let text = try await error("text_to_image") { swap(&$0.prompt, &$0.negative) }
        #expect(text.contains("run 1 of unet_deep") && text.contains("encoder_hidden_states is"))
    }

    @Test func anotherPrompt() async throws {
        let text = try await error("text_to_image") { $0.prompt = "a blue tent" }
        #expect(text.contains("of text_encoder") && text.contains("input_ids is"))
    }

    @Test func moreGuidance() async throws {
        let text = try await error("text_to_image") { $0.guidance = 7.6 }
        #expect(text.contains("run 2 of unet_deep") && text.contains("sample is"))
    }

    @Test func anotherInterval() async throws {
        let text = try await error("deepcache") { $0.deepcache = try? CachePolicy(parsing: "2:0") }
        #expect(text.contains("run 2 of unet_deep"))
    }

    @Test func moreSteps() async throws {
        let text = try await error("text_to_image") { $0.steps = 7 }
        #expect(text.contains("run 2 of unet_deep"))
    }

    @Test func anotherStrengthOfControl() async throws {
        let text = try await error("control") { $0.controls[0].scale = 0.7 }
        #expect(text.contains("additional_residual_"))
    }

    @Test func leftOutControl() async throws {
        let recorded = try RecordedPicture("control")
        var request = recorded.request
        request.controls = []
        let sd = try recorded.pipeline(recorded.backend())
        let text = await error { try await sd.picture(recorded.prompt, request) }
        #expect(text.contains("additional_residual_") && text.contains("left out, and was not zero"))
    }

    /// A feature of an earlier full evaluation in the place of the latest is another input.
    @Test func staleFeature() async throws {
        let recorded = try RecordedPicture("deepcache")
        let backend = try recorded.backend(tolerance: .infinity)
        let sd = try recorded.pipeline(StaleFeatures(backend: backend))
        _ = try await sd.picture(recorded.prompt, recorded.request)
        #expect(backend.largestDistance > 1e-4)
        let strict = try recorded.pipeline(StaleFeatures(backend: recorded.backend()))
        let text = await error { try await strict.picture(recorded.prompt, recorded.request) }
        #expect(text.contains("of unet_shallow") && text.contains("deep_feature is"))
    }

    @Test func aRunTooMany() async throws {
        let recorded = try RecordedPicture("text_to_image")
        let backend = try recorded.backend()
        let sd = try recorded.pipeline(backend)
        _ = try await sd.picture(recorded.prompt, recorded.request)
        let text = await error { try await sd.picture(recorded.prompt, recorded.request) }
        #expect(text.contains("is one too many: the recording has 6"))
        backend.rewind()
        #expect(backend.callCount == 0)
        _ = try await sd.picture(recorded.prompt, recorded.request)
        #expect(backend.callCount == backend.recordedCount)
    }

    @Test func wrongCalls() async throws {
        let recorded = try RecordedPicture("text_to_image")
        let backend = try recorded.backend()
        let image = Tensor(shape: [1, 4, 8, 8], values: Array(repeating: 0, count: 256))
        func run(_ role: String, _ size: String, _ inputs: [String: Tensor]) async -> String {
            await error { try await backend.run(role, size: size, inputs: inputs, deepFeature: [], keepAs: nil) }
        }
        #expect(await run("vae_decoder", "128x128", ["z": image]).contains("no network for vae_decoder at 128x128"))
        #expect(await run("vae_decoder", "64x64", ["latents": image]).contains("has no input latents"))
        #expect(await run("vae_decoder", "64x64", [:]).contains("z is missing"))
        let flat = Tensor(shape: [256], values: image.values)
        #expect(await run("vae_decoder", "64x64", ["z": flat]).contains("z has the shape [256], not [1, 4, 8, 8]"))
        #expect(backend.callCount == 0)
    }

    @Test func aFeatureThatIsNotKept() async throws {
        let recorded = try RecordedPicture("deepcache")
        let backend = try recorded.backend()
        let feature = WeightedFeature(key: FeatureKey(evaluation: 5, stream: 1), weight: 1)
        let text = await error {
            try await backend.run(
                "unet_shallow", size: "64x64", inputs: [:], deepFeature: [feature], keepAs: nil)
        }
        #expect(text.contains("the deep feature of evaluation 5, stream 1, which is not kept"))
    }

    @Test func aFolderWithoutARecording() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let info = try RecordedPicture("text_to_image").folder.appendingPathComponent("info.json")
        try FileManager.default.copyItem(at: info, to: folder.appendingPathComponent("info.json"))
        #expect(throws: DiffusionError.self) { try RecordedBackend(folder: folder) }
    }
}

/// Keeps the first deep feature for ever.
private struct StaleFeatures: NetworkBackend {
    let backend: RecordedBackend

    func has(_ role: String, size: String) -> Bool { backend.has(role, size: size) }
    func load(_ role: String, size: String) async throws { try await backend.load(role, size: size) }
    func unload(_ role: String, size: String) async { await backend.unload(role, size: size) }
    func forget(_ keys: [FeatureKey]?) async { if keys == nil { await backend.forget(nil) } }

    func run(
        _ role: String, size: String, inputs: [String: Tensor], deepFeature: [WeightedFeature], keepAs: FeatureKey?
    ) async throws -> [String: Tensor] {
        let first = deepFeature.map {
            WeightedFeature(key: FeatureKey(evaluation: 0, stream: $0.key.stream), weight: $0.weight)
        }
        return try await backend.run(role, size: size, inputs: inputs, deepFeature: first, keepAs: keepAs)
    }
}
