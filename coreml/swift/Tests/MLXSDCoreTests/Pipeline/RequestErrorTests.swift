import Foundation
import GoldenFiles
import MLXSDCore
import Testing

/// What does not fit the model set is one clear error before any network runs.
@Suite struct RequestErrorTests {
    struct Mistake: Sendable, CustomTestStringConvertible {
        let set: String
        let words: String
        var count = 1
        var change: @Sendable (inout GenerationRequest, inout InputPictures) -> Void
        var testDescription: String { words }
    }

    static let mistakes = [
        Mistake(set: "text_to_image", words: "pictures of 64 x 64 and no other size, not of 128 x 64") { r, _ in
            r.width = 128
        },
        Mistake(set: "functions", words: "pictures of 64 x 64, 64 x 128 and no other") { r, _ in r.width = 256 },
        Mistake(set: "text_to_image", words: "a mask is of an image") { _, p in p.mask = white },
        Mistake(set: "text_to_image", words: "give an image too") { r, _ in r.strength = 0.5 },
        Mistake(set: "image_to_image", words: "strength") { r, _ in r.strength = 1.5 },
        Mistake(set: "image_to_image", words: "nothing of the image would be kept") { _, p in p.mask = white },
        Mistake(set: "inpainting_network", words: "give an image and a mask") { _, p in p = InputPictures() },
        Mistake(set: "text_to_image", words: "holds no control network") { r, p in
            r.controls = [ControlRequest(model: "Edges", image: "")]
            p.controls = [white]
        },
        Mistake(set: "controls", words: "it has Depth, Edges") { r, _ in r.controls[0].model = "Canny" },
        Mistake(set: "controls", words: "1 control images for 2 control networks") { _, p in p.controls.removeLast() },
        Mistake(set: "control", words: "acts at none of 5 evaluations") { r, _ in
            (r.controls[0].start, r.controls[0].end) = (0.1, 0.2)
        },
        Mistake(set: "control", words: "is not the shape of a picture of 64 x 64") { _, p in p.controls = [wide] },
        Mistake(set: "sd2v", words: "UNet is whole") { r, _ in r.deepcache = try? CachePolicy(parsing: "3:0") },
        Mistake(set: "text_to_image", words: "no DeepCache branch 1") { r, _ in
            r.deepcache = try? CachePolicy(parsing: "3:1")
        },
        Mistake(set: "text_to_image", words: "leave tgate out") { r, _ in r.tgate = try? TGate(parsing: "3") },
        Mistake(set: "text_to_image", words: "prompt_2 and negative_2 are for SDXL") { r, _ in r.prompt2 = "a" },
        Mistake(set: "text_to_image", words: "the prompt fills 2 chunks of 75 tokens") { r, _ in
            r.prompt = String(repeating: "a tent ", count: 60)
        },
        Mistake(set: "text_to_image", words: "the negative prompt fills 2 chunks") { r, _ in
            r.negative = String(repeating: "a tent ", count: 60)
        },
        Mistake(set: "text_to_image", words: "[from:to:when]") { r, _ in r.prompt = "a [red:blue:0.5] tent" },
        Mistake(set: "text_to_image", words: "seed") { r, _ in r.seed = -5 },
        Mistake(set: "text_to_image", words: "seeds are from 0", count: 3) { r, _ in r.seed = Int(UInt32.max) - 1 },
        Mistake(set: "text_to_image", words: "the number of pictures", count: 0) { _, _ in },
        Mistake(set: "text_to_image", words: "steps") { r, _ in r.steps = 0 },
        Mistake(set: "text_to_image", words: "sampler") { r, _ in r.sampler = "eulerr" },
        Mistake(set: "text_to_image", words: "guess mode is of control networks") { r, _ in r.guessMode = true },
        Mistake(set: "inpainting", words: "hard edges") { r, _ in r.maskBlur = 4 },
    ]

    static let white = solid(64, 64)
    static let wide = solid(96, 32)

    static func solid(_ width: Int, _ height: Int) -> RGBImage {
        guard
            let image = try? RGBImage(
                width: width, height: height, bytes: Array(repeating: 255, count: 3 * width * height))
        else { fatalError("the sides fit") }
        return image
    }

    @Test(arguments: mistakes) func isOneErrorBeforeTheFirstNetwork(_ mistake: Mistake) async throws {
        let recorded = try RecordedPicture(mistake.set)
        var request = recorded.request
        var pictures = recorded.pictures
        mistake.change(&request, &pictures)
        let backend = FormulaBackend(try ModelSetInfo(folder: recorded.folder))
        let sd = try recorded.pipeline(backend)
        do {
            _ = try await sd.pictures(request.prompt ?? "", request, pictures: pictures, count: mistake.count)
            Issue.record("no error")
        } catch let error as DiffusionError {
            let word = mistake.words.components(separatedBy: ";")[0]
            #expect(error.description.contains(word))
            #expect(error.kind == .request)
            #expect(!error.description.contains("\n"))
        }
        #expect(backend.calls.isEmpty)
        // The turn was never taken, so the next picture is made.
        _ = try await sd.picture(recorded.prompt, recorded.request, pictures: recorded.pictures)
    }

    /// A set that lacks the network of a role says which.
    @Test(arguments: ["vae_decoder", "vae_encoder", "unet_shallow", "control_shallow:Edges"])
    func missingRole(role: String) async throws {
        let name =
            role.hasPrefix("control") ? "control_deepcache" : role == "vae_encoder" ? "image_to_image" : "deepcache"
        let recorded = try RecordedPicture(name)
        let sd = try recorded.pipeline(
            Without(backend: FormulaBackend(ModelSetInfo(folder: recorded.folder)), role: role))
        do {
            _ = try await sd.picture(recorded.prompt, recorded.request, pictures: recorded.pictures)
            Issue.record("no error")
        } catch let error as DiffusionError {
            let words = role == "vae_decoder" ? "VAE decoder" : role == "vae_encoder" ? "VAE encoder" : role
            #expect(error.kind == .files)
            #expect(error.description.contains(words))
        }
    }

    @Test func aTokenizerForEachEncoder() throws {
        let recorded = try RecordedPicture("sdxl")
        let info = try ModelSetInfo(folder: recorded.folder)
        #expect(throws: DiffusionError.self) {
            try StableDiffusion(backend: FormulaBackend(info), info: info, tokenizers: [])
        }
    }

    @Test func aFolderWithoutATokenizer() throws {
        let recorded = try RecordedPicture("sdxl")
        let info = try ModelSetInfo(folder: recorded.folder)
        #expect(throws: DiffusionError.self) {
            try StableDiffusion(
                backend: FormulaBackend(info), info: info, folder: FileManager.default.temporaryDirectory)
        }
    }
}

/// Networks without those of a role.
private struct Without: NetworkBackend {
    let backend: FormulaBackend
    let role: String

    func has(_ role: String, size: String) -> Bool { role != self.role && backend.has(role, size: size) }
    func load(_ role: String, size: String) async throws {}
    func unload(_ role: String, size: String) async {}
    func forget(_ keys: [FeatureKey]?) async { await backend.forget(keys) }

    func run(
        _ role: String, size: String, inputs: [String: Tensor], deepFeature: [WeightedFeature], keepAs: FeatureKey?
    ) async throws -> [String: Tensor] {
        try await backend.run(role, size: size, inputs: inputs, deepFeature: deepFeature, keepAs: keepAs)
    }
}
