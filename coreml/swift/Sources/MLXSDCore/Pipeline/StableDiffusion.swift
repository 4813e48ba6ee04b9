import Foundation

/// What happens to a request that comes while another one runs.
public enum BusyRule: Sendable {
    /// It waits for its turn, in the order of the requests; cancelled, it leaves at once.
    case waits
    /// It throws one `DiffusionError(.request)`.
    case throwsError
}

/// Stable Diffusion from a model set: prompts to pictures.
///
/// Networks and what they keep between evaluations are shared, so that one picture is made at a time; see `BusyRule`.
/// Use it from any task. Cancelling the task, or leaving the loop over `generate`, ends the work before the next run of a
/// network.
public final class StableDiffusion: Sendable {
    /// What the set holds.
    public let info: ModelSetInfo
    /// What runs its networks.
    public let backend: any NetworkBackend
    /// Whether each network is loaded when its turn comes, and freed after it: slower, with a lower peak of memory.
    public let reduceMemory: Bool
    /// What a request does while another one runs.
    public let whenBusy: BusyRule
    private let encoding: TextEncoding
    private let turns = Turns()

    /// Joins a back end with the set that it runs; throws where tokenizers and text encoders do not match.
    public init(
        backend: any NetworkBackend, info: ModelSetInfo, tokenizers: [CLIPTokenizer], reduceMemory: Bool = false,
        whenBusy: BusyRule = .waits
    ) throws {
        guard tokenizers.count == info.networks.textEncoders.count else {
            throw DiffusionError(
                .files, "there are \(tokenizers.count) tokenizers for \(info.networks.textEncoders.count) text encoders"
            )
        }
        (self.backend, self.info, self.reduceMemory, self.whenBusy) = (backend, info, reduceMemory, whenBusy)
        encoding = TextEncoding(info: info, tokenizers: tokenizers)
    }

    /// Joins a back end with the set of a folder, whose tokenizer files it reads.
    public convenience init(
        backend: any NetworkBackend, info: ModelSetInfo, folder: URL, reduceMemory: Bool = false,
        whenBusy: BusyRule = .waits
    ) throws {
        try self.init(
            backend: backend, info: info, tokenizers: Self.tokenizers(of: info, in: folder), reduceMemory: reduceMemory,
            whenBusy: whenBusy)
    }

    /// Reads a tokenizer for each text encoder.
    public static func tokenizers(of info: ModelSetInfo, in folder: URL) throws -> [CLIPTokenizer] {
        let home = folder.appendingPathComponent(info.tokenizerFolder)
        let vocabulary: Data
        let merges: Data
        do {
            vocabulary = try Data(contentsOf: home.appendingPathComponent("vocab.json"))
            merges = try Data(contentsOf: home.appendingPathComponent("merges.txt"))
        } catch {
            throw DiffusionError(
                .files, "\(home.path) holds no vocab.json and merges.txt that can be read; copy or export the set again"
            )
        }
        let shared = try Vocabulary(vocabulary: vocabulary, merges: merges)
        return try info.tokenizers.map {
            try CLIPTokenizer(vocabulary: shared, start: $0.start, end: $0.end, pad: $0.pad, length: $0.length)
        }
    }

    /// Makes pictures and tells how far they are.
    ///
    /// The last event holds all pictures (`GenerationProgress.result`). Events that come faster than they are read replace
    /// each other; each holds all that the ones before it said. Leaving the loop, or cancelling its task, stops within
    /// one run of a network; a cancelled loop ends **without an error**, so check `Task.isCancelled` after it.
    ///
    /// - Parameters:
    ///   - prompt: what the picture shows; replaces that of the options.
    ///   - options: everything else that decides a picture; defaults are the checkpoint's.
    ///   - pictures: the image, the mask and the control images.
    ///   - count: how many pictures, with the seeds seed, seed + 1, ...
    ///   - table: a sampler table of a kit, in place of the one that the options name.
    ///   - guidanceStop: the evaluation, from 0, from which on the prompt runs alone, unguided; Python has no such option.
    public func generate(
        _ prompt: String, _ options: GenerationRequest = GenerationRequest(), pictures: InputPictures = InputPictures(),
        count: Int = 1, table: SamplerTable? = nil, guidanceStop: Int? = nil, previews: PreviewRule = .linear
    ) -> AsyncThrowingStream<GenerationProgress, any Error> {
        AsyncThrowingStream(bufferingPolicy: .bufferingNewest(1)) { continuation in
            let task = Task {
                do {
                    _ = try await self.pictures(
                        prompt, options, pictures: pictures, count: count, table: table,
                        guidanceStop: guidanceStop, previews: previews
                    ) { continuation.yield($0) }
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    /// Makes a picture; see `generate`.
    public func picture(
        _ prompt: String, _ options: GenerationRequest = GenerationRequest(), pictures: InputPictures = InputPictures(),
        table: SamplerTable? = nil, guidanceStop: Int? = nil
    ) async throws -> GeneratedPicture {
        let results = try await self.pictures(
            prompt, options, pictures: pictures, table: table, guidanceStop: guidanceStop)
        guard let picture = results.first else { throw CancellationError() }
        return picture
    }

    /// Makes pictures with the seeds seed, seed + 1, ...; see `generate`. progress: is awaited after every evaluation.
    public func pictures(
        _ prompt: String, _ options: GenerationRequest = GenerationRequest(), pictures: InputPictures = InputPictures(),
        count: Int = 1, table: SamplerTable? = nil, guidanceStop: Int? = nil, previews: PreviewRule = .none,
        progress: @Sendable (GenerationProgress) async -> Void = { _ in }
    ) async throws -> [GeneratedPicture] {
        var request = options
        request.prompt = prompt
        let plan = try GenerationPlan(
            request, pictures: pictures, count: count, table: table, guidanceStop: guidanceStop, encoding: encoding,
            backend: backend)
        let generation = Generation(
            plan: plan, encoding: encoding, runner: NetworkRunner(backend: backend, info: info, size: plan.size),
            reduceMemory: reduceMemory, previews: previews)
        try await takeTurn()
        defer { turns.release() }
        do {
            return try await generation.run(progress: progress)
        } catch {
            await backend.forget(nil)
            throw error
        }
    }

    /// Loads all networks for pictures of a size, nil for the set's first, so that the first picture does not wait.
    public func load(size: String? = nil) async throws {
        try await takeTurn()
        defer { turns.release() }
        for (role, size) in roles(size) {
            try Task.checkCancellation()
            try await backend.load(role, size: size)
        }
    }

    /// Frees all networks; they are loaded again when they are needed.
    public func unload() async {
        guard (try? await turns.take()) != nil else { return }
        defer { turns.release() }
        for (size, roles) in info.roles {
            for role in roles.keys { await backend.unload(role, size: size) }
        }
        await backend.forget(nil)
    }

    private func takeTurn() async throws {
        switch whenBusy {
        case .waits: try await turns.take()
        case .throwsError:
            guard turns.takeIfFree() else {
                throw DiffusionError(
                    .request,
                    "a picture is being made; wait for it, cancel it, or create StableDiffusion with whenBusy: .waits")
            }
        }
        do {
            try Task.checkCancellation()
        } catch {
            turns.release()
            throw error
        }
    }

    /// Returns the roles that a picture of a size may run, without those of a UNet of another form.
    private func roles(_ size: String?) -> [(role: String, size: String)] {
        let size = size ?? info.sizes.first ?? "any"
        let runner = NetworkRunner(backend: backend, info: info, size: size)
        let full = try? Denoiser.fullRole(runner)
        let others = [Denoiser.shallow, ImageCoding.encoder, ImageCoding.decoder].filter(runner.has)
        let sized = ([full].compactMap { $0 } + others).map { ($0, size) }
        return info.networks.textEncoders.map { ($0.part, "any") } + sized
    }
}
