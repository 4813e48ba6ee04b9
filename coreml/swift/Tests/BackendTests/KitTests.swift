import Foundation
import GoldenFiles
import MLXSDKit
import StandInReplay
import Testing

/// Pictures that apps make: folders opened by name, through the back ends and what stands in for Apple's frameworks.
@Suite struct KitTests {
    static let names = BackendReplayTests.coreML + BackendReplayTests.coreAI

    /// A folder and a prompt are enough: the picture is Python's, within one level.
    @Test(arguments: names, [false, true])
    func folderToPicture(name: String, reduceMemory: Bool) async throws {
        let recorded = try RecordedPicture(name)
        let sd = try await StableDiffusion(folder: recorded.folder, reduceMemory: reduceMemory)
        var last: GenerationProgress?
        for try await progress in sd.generate(recorded.prompt, recorded.request, pictures: recorded.pictures) {
            last = progress
        }
        let picture = try #require(last?.result)
        #expect(picture.evaluations == recorded.expected.evaluations)
        #expect(try distance(picture.latents.values, recorded.numbers(recorded.expected.latents)) < 1e-4)
        #expect(levels(picture.image, recorded.expectedImage) <= 1)
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

    static func configuration(_ recorded: RecordedPicture) -> StableDiffusionPipeline.Configuration {
        var configuration = StableDiffusionPipeline.Configuration(prompt: recorded.prompt)
        configuration.negativePrompt = recorded.request.negative ?? ""
        configuration.stepCount = recorded.request.steps ?? 0
        configuration.seed = UInt32(recorded.request.seed ?? 0)
        configuration.guidanceScale = Float(recorded.request.guidance ?? 3)  // 3: the embedded checkpoint's own
        configuration.schedulerType = .dpmSolverMultistepScheduler
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
        let recorded = try RecordedPicture(name)
        let images = try await Self.onThread {
            let pipeline = try StableDiffusionPipeline(
                resourcesAt: recorded.folder, controlNet: [], configuration: .cpuAndGPU, disableSafety: true,
                reduceMemory: false)
            try pipeline.loadResources()
            var steps: [Int] = []
            let images = try pipeline.generateImages(configuration: Self.configuration(recorded)) { progress in
                steps.append(progress.step)
                #expect(progress.stepCount == recorded.expected.evaluations)
                #expect(progress.prompt == recorded.prompt)
                #expect(progress.currentLatentSamples.count == 1)
                #expect(progress.currentImages.count == 1)
                return true
            }
            #expect(steps == Array(0..<recorded.expected.evaluations))
            pipeline.unloadResources()
            return images
        }
        let image = try Self.first(images)
        #expect(images.count == 1)
        #expect(levels(image, recorded.expectedImage) <= 1)
    }

    @Test func applesNamesWithoutBlocking() async throws {
        let recorded = try RecordedPicture("deepcache")
        let pipeline = try StableDiffusionPipeline(resourcesAt: recorded.folder)
        let images = try await pipeline.images(configuration: Self.configuration(recorded))
        let image = try Self.first(images)
        #expect(levels(image, recorded.expectedImage) <= 1)
    }

    /// A handler that returns false is not asked again, and there are no pictures.
    @Test func aHandlerStops() async throws {
        let recorded = try RecordedPicture("text_to_image")
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
        let recorded = try RecordedPicture("text_to_image")
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
        let recorded = try RecordedPicture("text_to_image")
        let pipeline = try StableDiffusionPipeline(resourcesAt: recorded.folder)
        var configuration = Self.configuration(recorded)
        configuration.startingImage = recorded.expectedImage.platformImage
        let images = try await pipeline.images(configuration: configuration)
        #expect(levels(try Self.first(images), recorded.expectedImage) <= 1)
    }
}
