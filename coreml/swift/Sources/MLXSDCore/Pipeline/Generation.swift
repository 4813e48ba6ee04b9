import Foundation

/// One run of the pipeline: from a checked plan to its pictures, with one network after the other.
struct Generation: Sendable {
    let plan: GenerationPlan
    let encoding: TextEncoding
    let runner: NetworkRunner
    let reduceMemory: Bool
    let previews: PreviewRule

    private var coding: ImageCoding { ImageCoding(runner: runner) }
    private var isXL: Bool { encoding.pools }

    /// The pictures that all share: the image and its masked form, encoded, and what control networks see.
    private struct Prepared {
        var image: ImageCoding.Posterior?
        var masked: ImageCoding.Posterior?
        var controls: ControlNetworks?
    }

    /// What one picture begins with.
    private struct Start {
        var noise: [Float]
        var image: [Float]?
        var channels: Tensor?
    }

    /// Makes the pictures one after the other; progress: is told every evaluation and every picture.
    func run(progress: (GenerationProgress) async -> Void) async throws -> [GeneratedPicture] {
        let clock = ContinuousClock()
        var state = GenerationProgress(evaluations: plan.table.rows.count, count: plan.seeds.count)
        await runner.backend.forget(nil)
        await progress(state)
        let begin = clock.now
        let conditions = try await encoding.conditions(of: plan, runner: runner, reduceMemory: reduceMemory)
        let prepared = try await prepare()
        state.encodeSeconds = (clock.now - begin).seconds
        for (i, seed) in plan.seeds.enumerated() {
            state.picture = i
            state.evaluation = 0
            let picture = try await make(seed, conditions, prepared, &state, progress)
            state.pictures.append(picture)
            state.stage = .finished
            await progress(state)
        }
        return state.pictures
    }

    private func prepare() async throws -> Prepared {
        var prepared = Prepared()
        if let image = plan.image {
            let pixels = image.tensor { Float($0) / 127.5 - 1 }
            try await runner.backend.load(ImageCoding.encoder, size: runner.size)
            if plan.showsMask, let mask = plan.mask {
                prepared.masked = try await coding.posterior(of: mask.hiding(pixels))
            }
            if plan.beginsMidway || !plan.showsMask { prepared.image = try await coding.posterior(of: pixels) }
            if reduceMemory { await runner.backend.unload(ImageCoding.encoder, size: runner.size) }
        }
        let acting = plan.controls.filter { $0.scale != 0 }
        if !acting.isEmpty {
            var controls = ControlNetworks(
                networks: acting, runner: runner, evaluations: plan.table.rows.count,
                isGuessing: plan.request.guessMode == true)
            if plan.table.plan.contains(where: { !$0.full }) {
                try await controls.embedImages(reduceMemory: reduceMemory)
            }
            prepared.controls = controls
        }
        return prepared
    }

    private func make(
        _ seed: UInt64, _ conditions: Conditions, _ prepared: Prepared, _ state: inout GenerationProgress,
        _ progress: (GenerationProgress) async -> Void
    ) async throws -> GeneratedPicture {
        let clock = ContinuousClock()
        var generator = try plan.noise.generator(seed: seed)
        let count = plan.shape.reduce(1, *)
        let start = begin(prepared) { generator.draw(count) }
        let denoiser = Denoiser(
            runner: runner, conditions: conditions, texts: plan.texts, guidance: plan.guidance,
            rescale: Float(plan.request.guidanceRescale), plan: plan.table.plan,
            timesteps: plan.table.rows.map(\.timestep), shape: plan.shape, channels: start.channels,
            controls: prepared.controls, fullRole: plan.fullRole)
        for role in denoiser.roles { try await runner.backend.load(role, size: runner.size) }
        state.stage = .denoising
        var seconds: [Double] = []
        var last = clock.now
        var now = state
        let latents = try await plan.table.run(
            noise: start.noise, image: plan.beginsMidway ? start.image : nil,
            freshNoise: { generator.draw(count) },
            predict: { try await denoiser.predict($0, $1) },
            keep: keep(start),
            after: { evaluation, denoised in
                seconds.append((clock.now - last).seconds)
                now.evaluation = evaluation + 1
                now.secondsPerEvaluation = seconds.reduce(0, +) / Double(seconds.count)
                now.estimate = Tensor(shape: plan.shape, values: denoised)
                now.preview = try await preview(denoised, evaluation)
                await progress(now)
                last = clock.now
            })
        state = now
        if reduceMemory {
            for role in denoiser.roles { await runner.backend.unload(role, size: runner.size) }
        }
        await runner.backend.forget(nil)
        state.stage = .decoding
        await progress(state)
        last = clock.now
        let final = Tensor(shape: plan.shape, values: latents)
        try await runner.backend.load(ImageCoding.decoder, size: runner.size)
        var image = try await coding.decode(final)
        if reduceMemory { await runner.backend.unload(ImageCoding.decoder, size: runner.size) }
        if let mask = plan.mask, let original = plan.pictures.image { image = mask.finished(image, over: original) }
        var request = plan.request
        request.seed = Int(seed)
        return GeneratedPicture(
            image: image, latents: final, request: request, seed: seed, evaluations: plan.table.rows.count,
            fullEvaluations: plan.table.fullEvaluations, encodeSeconds: state.encodeSeconds,
            evaluationSeconds: seconds, decodeSeconds: (clock.now - last).seconds)
    }

    /// Draws in diffusers' order: the image's latents, the noise, the masked image's latents.
    private func begin(_ prepared: Prepared, draw: () -> [Float]) -> Start {
        let image = prepared.image.map { coding.sample($0, draw: draw).values }
        var start = Start(noise: draw(), image: image, channels: nil)
        if let masked = prepared.masked, let mask = plan.mask {
            let latents = coding.sample(masked, draw: draw)
            let shown = Tensor(shape: [1, 1] + plan.shape.dropFirst(2), values: mask.latents)
            start.channels = .joinedChannels([shown, latents])
        }
        return start
    }

    /// Returns what puts the image back outside the mask after each evaluation; nil where nothing has to.
    private func keep(_ start: Start) -> (([Float], Double, Double) -> [Float])? {
        guard !plan.showsMask, let mask = plan.mask, let image = start.image else { return nil }
        return { latents, signal, deviation in
            mask.keeping(image, start.noise, in: latents, signal: signal, deviation: deviation)
        }
    }

    private func preview(_ denoised: [Float], _ evaluation: Int) async throws -> RGBImage? {
        let estimate = Tensor(shape: plan.shape, values: denoised)
        switch previews {
        case .none: return nil
        case .linear: return LatentPreview.image(of: estimate, isXL: isXL)
        case .decoded(let interval):
            let isLast = evaluation + 1 == plan.table.rows.count
            guard !isLast, (evaluation + 1) % max(interval, 1) == 0 else {
                return LatentPreview.image(of: estimate, isXL: isXL)
            }
            try await runner.backend.load(ImageCoding.decoder, size: runner.size)
            let image = try await coding.decode(estimate)
            if reduceMemory { await runner.backend.unload(ImageCoding.decoder, size: runner.size) }
            return image
        }
    }
}

extension Duration {
    /// Returns the duration in seconds.
    var seconds: Double {
        Double(components.seconds) + Double(components.attoseconds) * 1e-18
    }
}
