import Foundation
import MLXSDCore

/// Stable Diffusion under the names of Apple's package, so that an app switches by changing an import.
///
/// Its calls block their thread, as Apple's do: call them outside of the main thread and of Swift tasks. `images` is the
/// same without blocking, and `pipeline` is the modern face.
public struct StableDiffusionPipeline: Sendable {
    /// A request.
    public typealias Configuration = PipelineConfiguration
    /// How far a request is.
    public typealias Progress = PipelineProgress

    /// The modern face of the same model set.
    public let pipeline: StableDiffusion
    private let controlNet: [String]

    /// Opens a folder that `python -m coreml` wrote; nothing is loaded yet.
    ///
    /// - Parameters:
    ///   - baseURL: the folder.
    ///   - controlNet: names of control networks of the set, each of which sees one of `controlNetInputs`.
    ///   - configuration: the processors of all networks; nil is what suits the set.
    ///   - disableSafety: accepted and ignored, for model sets have no safety network.
    ///   - reduceMemory: load each network when its turn comes, and free it after it.
    public init(
        resourcesAt baseURL: URL, controlNet: [String] = [], configuration: ComputeUnits? = nil,
        disableSafety: Bool = false, reduceMemory: Bool = false
    ) throws {
        self.init(
            pipeline: try StableDiffusion(
                opening: baseURL, units: configuration, reduceMemory: reduceMemory, whenBusy: .waits),
            controlNet: controlNet)
    }

    /// Gives a pipeline Apple's names.
    public init(pipeline: StableDiffusion, controlNet: [String] = []) {
        (self.pipeline, self.controlNet) = (pipeline, controlNet)
    }

    /// Loads all networks.
    public func loadResources() throws {
        try Blocking.run { [pipeline] in try await pipeline.load() }
    }

    /// Frees all networks.
    public func unloadResources() {
        try? Blocking.run { [pipeline] in await pipeline.unload() }
    }

    /// Makes pictures; blocks until they are there.
    ///
    /// progressHandler: is called on this thread after each evaluation; false stops and returns no pictures.
    public func generateImages(
        configuration: Configuration, progressHandler: (Progress) -> Bool = { _ in true }
    ) throws -> [PlatformImage?] {
        let exchange = Exchange<GenerationProgress, [GeneratedPicture]>()
        let task = Task.detached(priority: .userInitiated) {
            do {
                let pictures = try await makePictures(configuration) { await exchange.report($0) }
                exchange.finish(.success(pictures))
            } catch {
                exchange.finish(.failure(error))
            }
        }
        var isStopped = false
        while let progress = exchange.next() {
            if !isStopped, progress.stage == .denoising {
                isStopped = progress.evaluation > 0 && !progressHandler(PipelineProgress(progress, configuration, self))
                if isStopped { task.cancel() }
            }
            exchange.goOn()
        }
        do {
            return try exchange.result().map(\.image.platformImage)
        } catch is CancellationError where isStopped {
            return []
        }
    }

    /// Makes pictures without blocking a thread; progressHandler: as of `generateImages`, on no particular thread.
    public func images(
        configuration: Configuration, progressHandler: @escaping @Sendable (Progress) -> Bool = { _ in true }
    ) async throws -> [PlatformImage?] {
        let isStopped = Locked(false)
        do {
            return try await withThrowingTaskGroup(of: [GeneratedPicture].self) { group in
                group.addTask {
                    try await makePictures(configuration) { progress in
                        guard progress.stage == .denoising, progress.evaluation > 0, !isStopped.withLock({ $0 })
                        else { return }
                        if !progressHandler(PipelineProgress(progress, configuration, self)) {
                            isStopped.withLock { $0 = true }
                            withUnsafeCurrentTask { $0?.cancel() }
                        }
                    }
                }
                return try await group.next()?.map(\.image.platformImage) ?? []
            }
        } catch is CancellationError where isStopped.withLock({ $0 }) {
            return []
        }
    }

    private func makePictures(
        _ configuration: Configuration, progress: @Sendable (GenerationProgress) async -> Void
    ) async throws -> [GeneratedPicture] {
        try await pipeline.pictures(
            configuration.prompt, configuration.request(controlNet: controlNet), pictures: configuration.pictures(),
            count: configuration.imageCount, previews: configuration.previews, progress: progress)
    }
}

/// How far a request is, in Apple's names.
public struct PipelineProgress: Sendable {
    /// What makes the pictures.
    public let pipeline: StableDiffusionPipeline
    /// Of the request.
    public let prompt: String
    /// The evaluation that is done, from 0, over all pictures.
    public let step: Int
    /// All evaluations of all pictures.
    public let stepCount: Int
    /// The estimate of the clean latents of the picture that is being made, (1, channels, height, width).
    public let currentLatentSamples: [Tensor]
    /// A preview of it, of one pixel for each latent unless the configuration has them decoded.
    public let currentImages: [PlatformImage?]
    /// The request.
    public let configuration: PipelineConfiguration
    /// False: model sets have no safety network.
    public let isSafetyEnabled = false

    init(_ progress: GenerationProgress, _ configuration: PipelineConfiguration, _ pipeline: StableDiffusionPipeline) {
        self.pipeline = pipeline
        self.configuration = configuration
        prompt = configuration.prompt
        step = progress.picture * progress.evaluations + progress.evaluation - 1
        stepCount = progress.count * progress.evaluations
        currentLatentSamples = progress.estimate.map { [$0] } ?? []
        currentImages = progress.preview.map { [$0.platformImage] } ?? []
    }
}
