import Foundation
import GoldenFiles
import MLXSDKit
import StandInReplay
import Testing

/// Pictures that apps make: folders opened by name, through the back ends and what stands in for Apple's frameworks.
@Suite struct KitTests {
    struct Expected: Decodable {
        let evaluations: Int
        let image: Inputs.File
    }

    struct Inputs: Decodable {
        struct File: Decodable {
            let file: String
            let width: Int
            let height: Int
            let channels: Int
        }

        let image: File?
        let mask: File?
        let controls: [File]

        enum CodingKeys: String, CodingKey {
            case mask, controls
            case image = "init_image"
        }
    }

    /// A recorded picture as an app would ask for it.
    struct Request {
        let folder: URL
        var request: GenerationRequest
        let pictures: InputPictures
        let expected: RGBImage
        let evaluations: Int

        init(_ name: String) throws {
            let folder = try Goldens.url("recordings/\(name)")
            self.folder = folder
            func data(_ file: String) throws -> Data { try Data(contentsOf: folder.appendingPathComponent(file)) }
            func picture(_ file: Inputs.File) throws -> RGBImage {
                var bytes = [UInt8](try data(file.file))
                if file.channels == 1 { bytes = bytes.flatMap { [$0, $0, $0] } }
                return try RGBImage(width: file.width, height: file.height, bytes: bytes)
            }
            let decoder = JSONDecoder()
            var fields = try #require(
                try JSONSerialization.jsonObject(with: data("request.json")) as? [String: Any])
            let controls = fields.removeValue(forKey: "controls") as? [[String: Any]] ?? []
            request = try decoder.decode(
                GenerationRequest.self, from: JSONSerialization.data(withJSONObject: fields))
            request.controls = controls.map {
                ControlRequest(model: $0["model"] as? String ?? "", image: "", scale: $0["scale"] as? Double ?? 1)
            }
            let inputs = try decoder.decode(Inputs.self, from: data("inputs.json"))
            pictures = InputPictures(
                image: try inputs.image.map(picture), mask: try inputs.mask.map(picture),
                controls: try inputs.controls.map(picture))
            let content = try decoder.decode(Expected.self, from: data("expected.json"))
            evaluations = content.evaluations
            expected = try picture(content.image)
        }

        var prompt: String { request.prompt ?? "" }
    }

    static func levels(_ picture: RGBImage, _ expected: RGBImage) -> Int {
        guard picture.size == expected.size else { return 256 }
        return zip(picture.bytes, expected.bytes).map { abs(Int($0) - Int($1)) }.max() ?? 0
    }

    static let names = BackendReplayTests.coreML + BackendReplayTests.coreAI

    /// A folder and a prompt are enough: the picture is Python's, within one level.
    @Test(arguments: names, [false, true])
    func folderToPicture(name: String, reduceMemory: Bool) async throws {
        let recorded = try Request(name)
        let sd = try await StableDiffusion(folder: recorded.folder, reduceMemory: reduceMemory)
        var last: GenerationProgress?
        for try await progress in sd.generate(recorded.prompt, recorded.request, pictures: recorded.pictures) {
            last = progress
        }
        let picture = try #require(last?.result)
        #expect(picture.evaluations == recorded.evaluations)
        #expect(Self.levels(picture.image, recorded.expected) <= 1)
    }

    @Test func aFolderThatIsNotOurs() async throws {
        let folder = FileManager.default.temporaryDirectory
        await #expect(throws: DiffusionError.self) { try await StableDiffusion(folder: folder) }
        #expect(throws: DiffusionError.self) { try StableDiffusionPipeline(resourcesAt: folder) }
    }

    // MARK: - Apple's names

    static func first(_ images: [PlatformImage?]) throws -> RGBImage {
        let present = images.compactMap { $0 }
        return try RGBImage(platformImage: #require(present.first))
    }

    static func configuration(_ recorded: Request) -> StableDiffusionPipeline.Configuration {
        var configuration = StableDiffusionPipeline.Configuration(prompt: recorded.prompt)
        configuration.negativePrompt = recorded.request.negative ?? ""
        configuration.stepCount = recorded.request.steps ?? 0
        configuration.seed = UInt32(recorded.request.seed ?? 0)
        configuration.guidanceScale = Float(recorded.request.guidance ?? 7.5)
        configuration.schedulerType = .dpmSolverMultistepScheduler  // the embedded checkpoint's own
        configuration.startingImage = recorded.pictures.image?.platformImage
        if let strength = recorded.request.strength { configuration.strength = Float(strength) }
        configuration.controlNetInputs = recorded.pictures.controls.compactMap(\.platformImage)
        configuration.options.deepcache = recorded.request.deepcache
        return configuration
    }

    /// Runs blocking work on a thread of its own.
    static func onThread<Value: Sendable>(_ work: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            Thread { continuation.resume(with: Result(catching: work)) }.start()
        }
    }

    @Test(arguments: ["text_to_image", "deepcache", "image_to_image"])
    func applesNamesMakeTheSamePicture(name: String) async throws {
        let recorded = try Request(name)
        let images = try await Self.onThread {
            let pipeline = try StableDiffusionPipeline(
                resourcesAt: recorded.folder, controlNet: [], configuration: .cpuAndGPU, disableSafety: true,
                reduceMemory: false)
            try pipeline.loadResources()
            var steps: [Int] = []
            let images = try pipeline.generateImages(configuration: Self.configuration(recorded)) { progress in
                steps.append(progress.step)
                #expect(progress.stepCount == recorded.evaluations)
                #expect(progress.prompt == recorded.prompt)
                #expect(progress.currentLatentSamples.count == 1)
                #expect(progress.currentImages.count == 1)
                return true
            }
            #expect(steps == Array(0..<recorded.evaluations))
            pipeline.unloadResources()
            return images
        }
        let image = try Self.first(images)
        #expect(images.count == 1)
        #expect(Self.levels(image, recorded.expected) <= 1)
    }

    @Test func applesNamesWithoutBlocking() async throws {
        let recorded = try Request("deepcache")
        let pipeline = try StableDiffusionPipeline(resourcesAt: recorded.folder)
        let images = try await pipeline.images(configuration: Self.configuration(recorded))
        let image = try Self.first(images)
        #expect(Self.levels(image, recorded.expected) <= 1)
    }

    /// A handler that returns false is not asked again, and there are no pictures.
    @Test func aHandlerStops() async throws {
        let recorded = try Request("text_to_image")
        let pipeline = try StableDiffusionPipeline(resourcesAt: recorded.folder)
        let calls = try await Self.onThread {
            var calls = 0
            let images = try pipeline.generateImages(configuration: Self.configuration(recorded)) { progress in
                calls += 1
                return progress.step < 1
            }
            #expect(images.isEmpty)
            return calls
        }
        #expect(calls == 2)
        let stopped = try await pipeline.images(configuration: Self.configuration(recorded)) { $0.step < 2 }
        #expect(stopped.isEmpty)
    }

    @Test func errorsReachTheCaller() async throws {
        let recorded = try Request("text_to_image")
        let pipeline = try StableDiffusionPipeline(resourcesAt: recorded.folder, controlNet: ["Canny"])
        var configuration = Self.configuration(recorded)
        let wrong = configuration
        await #expect(throws: DiffusionError.self) {
            try await Self.onThread { try pipeline.generateImages(configuration: wrong) }
        }
        configuration.schedulerType = .discreteFlowScheduler
        let flow = configuration
        await #expect(throws: DiffusionError.self) { try await pipeline.images(configuration: flow) }
    }

    /// An image with strength 1 is not begun with, as in Apple's package.
    @Test func anImageCountsBelowStrengthOne() async throws {
        let recorded = try Request("text_to_image")
        let pipeline = try StableDiffusionPipeline(resourcesAt: recorded.folder)
        var configuration = Self.configuration(recorded)
        configuration.startingImage = recorded.expected.platformImage
        let images = try await pipeline.images(configuration: configuration)
        #expect(Self.levels(try Self.first(images), recorded.expected) <= 1)
    }
}
