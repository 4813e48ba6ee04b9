import Foundation
import GoldenFiles
import MLXSDCore
import Testing

@Suite struct PipelineTests {
    static let coreML = [
        "text_to_image", "deepcache", "image_to_image", "inpainting", "inpainting_deepcache", "self_check",
        "deepcache_forecast", "deepcache_nonuniform", "fresh_noise", "two_evaluations", "unguided", "no_negative",
        "inpainting_network", "batch_1", "functions", "halves", "sdxl", "sdxl_deepcache", "sd2v", "control",
        "control_deepcache", "control_guess", "controls", "controls_deepcache", "control_unused",
    ]
    static let coreAI = ["core_ai", "core_ai_deepcache", "core_ai_forecast", "core_ai_refresh", "core_ai_control"]

    /// Every input of every network is within 1e-4 of Python's, the estimates and latents too, pixels within one level.
    @Test(arguments: coreML + coreAI)
    func makesPythonsPicture(name: String) async throws {
        let recorded = try RecordedPicture(name)
        let backend = try recorded.backend()
        let sd = try recorded.pipeline(backend)
        let estimates = Collected<[Float]>()
        let pictures = try await sd.pictures(recorded.prompt, recorded.request, pictures: recorded.pictures) {
            if $0.stage == .denoising, let estimate = $0.estimate { await estimates.append(estimate.values) }
        }
        let picture = try #require(pictures.first)
        #expect(pictures.count == 1)
        #expect(picture.evaluations == recorded.expected.evaluations)
        #expect(picture.fullEvaluations == recorded.expected.full)
        let seen = await estimates.elements
        #expect(seen.count == recorded.expected.estimates.count)
        for (estimate, numbers) in zip(seen, recorded.expected.estimates) {
            #expect(try distance(estimate, recorded.numbers(numbers)) < 1e-4)
        }
        #expect(picture.latents.shape == recorded.expected.latents.shape)
        #expect(try distance(picture.latents.values, recorded.numbers(recorded.expected.latents)) < 1e-4)
        #expect(levels(picture.image, recorded.expectedImage) <= 1)
        #expect(backend.largestDistance < 1e-4)
        #expect(backend.featureCount == 0)
    }

    /// Networks run as often as in Python: no evaluation is doubled, none is left out.
    @Test(arguments: ["text_to_image", "deepcache", "batch_1", "functions", "controls_deepcache", "sdxl_deepcache"])
    func runsAsManyNetworks(name: String) async throws {
        let recorded = try RecordedPicture(name)
        let backend = try recorded.backend()
        _ = try await recorded.pipeline(backend).picture(recorded.prompt, recorded.request, pictures: recorded.pictures)
        #expect(backend.callCount == backend.recordedCount)
    }
}
