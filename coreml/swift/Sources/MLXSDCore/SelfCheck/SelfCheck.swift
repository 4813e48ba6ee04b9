import Foundation

/// Makes the golden picture of a set's kit with a back end, and measures every part of the way against the kit.
///
/// It needs a set that was exported with --kit. Tolerances are the kit's. See kit/README.md, "Check an app, from part to
/// part".
public struct SelfCheck: Sendable {
    private let info: ModelSetInfo
    private let kit: URL
    private let golden: GoldenPicture
    private let tokenizers: [CLIPTokenizer]

    /// Reads the kit of a model set; throws where it has none.
    public init(folder: URL, info: ModelSetInfo) throws {
        (self.info, kit) = (info, folder.appendingPathComponent("kit"))
        golden = try GoldenPicture(kit: kit)
        tokenizers = try StableDiffusion.tokenizers(of: info, in: folder)
    }

    /// Checks on the CPU, then on other processors; the networks of the first are freed before the second begins.
    ///
    /// backend: makes the back end for some processors. progress: is told the share that is done, from 0 to 1.
    public func run(
        units: ComputeUnits, backend: @Sendable (ComputeUnits) throws -> any NetworkBackend,
        progress: @escaping @Sendable (Double) -> Void = { _ in }
    ) async throws -> SelfCheckComparison {
        let cpu = try await run(units: .cpuOnly, on: backend(.cpuOnly)) { progress($0 / 2) }
        let chosen = try await run(units: units, on: backend(units)) { progress(0.5 + $0 / 2) }
        return SelfCheckComparison(cpu: cpu, chosen: chosen)
    }

    /// Checks a back end; units: its processors, for the report. Its networks are freed afterwards.
    public func run(
        units: ComputeUnits, on backend: any NetworkBackend, progress: @escaping @Sendable (Double) -> Void = { _ in }
    ) async throws -> SelfCheckReport {
        do {
            let report = try await measure(units, backend, progress)
            await free(backend)
            return report
        } catch {
            await free(backend)
            throw error
        }
    }

    private var roles: [(role: String, size: String)] {
        let unet = ["unet_deep", "unet_full", "unet", Denoiser.shallow, ImageCoding.decoder]
        return info.networks.textEncoders.map { ($0.part, "any") } + unet.map { ($0, golden.size) }
    }

    private func free(_ backend: any NetworkBackend) async {
        await backend.forget(nil)
        for (role, size) in roles where backend.has(role, size: size) { await backend.unload(role, size: size) }
    }

    private func measure(
        _ units: ComputeUnits, _ backend: any NetworkBackend, _ progress: @escaping @Sendable (Double) -> Void
    ) async throws -> SelfCheckReport {
        let runner = NetworkRunner(backend: backend, info: info, size: golden.size)
        let fullRole = try Denoiser.fullRole(runner)
        let clock = ContinuousClock()
        var start = clock.now
        for (role, size) in roles where backend.has(role, size: size) {
            if role.hasPrefix("unet"), ![fullRole, Denoiser.shallow].contains(role) { continue }
            try await backend.load(role, size: size)
        }
        let loadSeconds = (clock.now - start).seconds
        start = clock.now
        let (states, inputs) = try await encode(runner)
        let encodeSeconds = (clock.now - start).seconds
        let evaluations = Double(2 * golden.table.rows.count)
        let rows = denoiser(runner, inputs, fullRole, isGuided: false)
        let onGolden = try await predictions(rows) { progress(Double($0) / evaluations) }
        let guided = denoiser(runner, inputs, fullRole, isGuided: golden.texts.count > 1)
        let (latents, evaluationSeconds) = try await sample(guided) { progress(0.5 + Double($0) / evaluations) }
        start = clock.now
        let final = Tensor(shape: guided.shape, values: latents[latents.count - 1])
        let pixels = try await ImageCoding(runner: runner).pixels(of: final)
        let image = pixels.values.map { min(max($0, -1), 1) }
        let decodeSeconds = (clock.now - start).seconds
        let steps = latents.enumerated().map { Self.distance($1, golden.entry($0, of: "latents")) }
        let worst = steps.indices.max {
            steps[$0] / golden.latentsTolerance[$0] < steps[$1] / golden.latentsTolerance[$1]
        }
        let parts = [
            try tokens(), try noise(),
            part("encoder_hidden_states", states.values, "encoder_hidden_states", golden.statesTolerance),
            SelfCheckReport.Part(name: "noise_pred", distance: onGolden, tolerance: golden.predictionTolerance),
            SelfCheckReport.Part(
                name: "latents", distance: steps[worst ?? 0], tolerance: golden.latentsTolerance[worst ?? 0]),
            SelfCheckReport.Part(
                name: "image", distance: Self.largestDifference(image, golden.array("image").values),
                tolerance: golden.imageTolerance),
        ]
        return SelfCheckReport(
            model: info.model.name, hash: info.model.hash, units: units, parts: parts,
            psnr: Self.psnr(image, golden.array("image").values), loadSeconds: loadSeconds,
            encodeSeconds: encodeSeconds, evaluationSeconds: evaluationSeconds, decodeSeconds: decodeSeconds)
    }

    private func part(_ name: String, _ values: [Float], _ array: String, _ tolerance: Double) -> SelfCheckReport.Part {
        SelfCheckReport.Part(
            name: name, distance: Self.distance(values, golden.array(array).values), tolerance: tolerance)
    }
}

extension SelfCheck {
    /// Compares the ids of the kit's texts.
    private func tokens() throws -> SelfCheckReport.Part {
        struct Prompts: Decodable {
            struct Text: Decodable {
                let text: String
                let ids: [[Int]]
            }
            let texts: [Text]
        }
        let prompts: Prompts = try GoldenPicture.decode(kit.appendingPathComponent("prompts.json"))
        let different = prompts.texts.filter { entry in tokenizers.map { $0.encode(entry.text) } != entry.ids }
        return SelfCheckReport.Part(name: "tokens", distance: Double(different.count), tolerance: 0)
    }

    /// Compares the first two draws of every generator.
    private func noise() throws -> SelfCheckReport.Part {
        struct Noise: Decodable {
            struct Entry: Decodable {
                let generator, file: String
                let seed: UInt64
                let shape: [Int]
            }
            let tolerance: Double
            let noise: [Entry]
        }
        let folder = kit.appendingPathComponent("noise")
        let content: Noise = try GoldenPicture.decode(folder.appendingPathComponent("noise.json"))
        var worst = 0.0
        for entry in content.noise {
            guard let source = NoiseSource(rawValue: entry.generator) else { continue }
            let expected = try GoldenPicture.tensor(.init(file: entry.file, shape: entry.shape), in: folder)
            var generator = try source.generator(seed: entry.seed)
            let count = expected.values.count / entry.shape[0]
            let values = (0..<entry.shape[0]).flatMap { _ in generator.draw(count) }
            worst = max(worst, Self.distance(values, expected.values))
        }
        return SelfCheckReport.Part(name: "noise", distance: worst, tolerance: content.tolerance)
    }

    /// Returns the hidden states (rows, tokens, channels), and the inputs of the UNet beside latents and timestep.
    private func encode(_ runner: NetworkRunner) async throws -> (states: Tensor, inputs: [String: Tensor]) {
        let encoding = TextEncoding(info: info, tokenizers: tokenizers)
        let prompts = try golden.texts.map { try encoding.prompt($0, second: nil, style: .plain) }
        let encoded = try await encoding.encode(
            prompts, chunks: prompts.map(\.count).max() ?? 1, style: .plain, runner: runner, reduceMemory: false)
        var inputs = golden.arrays.filter { ["time_ids", "timestep_cond", "class_labels"].contains($0.key) }
        if golden.arrays["text_embeds"] != nil { inputs["text_embeds"] = .joined(encoded.compactMap(\.pooled)) }
        inputs["encoder_hidden_states"] = encoding.hiddenStates(encoded.map(\.context))
        return (.joined(encoded.map(\.context)), inputs)
    }

    /// Returns the UNet of the golden picture; isGuided: whether the rows of both texts become one prediction.
    private func denoiser(
        _ runner: NetworkRunner, _ inputs: [String: Tensor], _ fullRole: String, isGuided: Bool
    ) -> Denoiser {
        let rows = golden.table.rows
        return Denoiser(
            runner: runner,
            conditions: Conditions(
                inputs: inputs, isGuided: isGuided, weights: isGuided ? [1] : golden.texts.map { _ in 1 }),
            texts: rows.map { _ in .both }, guidance: golden.guidance, rescale: 0, plan: golden.table.plan,
            timesteps: rows.map(\.timestep), shape: [1] + golden.array("latents").shape.dropFirst(),
            channels: golden.arrays["channels"].map { Tensor(shape: [1] + $0.shape, values: $0.values) },
            controls: nil, fullRole: fullRole)
    }

    /// Evaluates the UNet on golden latents; returns the largest distance of a prediction.
    private func predictions(_ denoiser: Denoiser, _ progress: (Int) -> Void) async throws -> Double {
        var worst = 0.0
        for evaluation in golden.table.rows.indices {
            try Task.checkCancellation()
            let output = try await denoiser.predict(golden.entry(evaluation, of: "latents"), evaluation)
            worst = max(worst, Self.distance(output, golden.entry(evaluation, of: "noise_pred")))
            progress(evaluation + 1)
        }
        await denoiser.runner.backend.forget(nil)
        return worst
    }

    /// Makes the picture; returns the latents at each evaluation and at the end, and the seconds of each evaluation.
    private func sample(
        _ denoiser: Denoiser, _ progress: (Int) -> Void
    ) async throws -> (latents: [[Float]], seconds: [Double]) {
        var generator = try golden.noise.generator(seed: golden.seed)
        let count = denoiser.shape.reduce(1, *)
        let clock = ContinuousClock()
        var latents: [[Float]] = []
        var times: [Double] = []
        let final = try await golden.table.run(
            noise: generator.draw(count), freshNoise: { generator.draw(count) },
            predict: { x, evaluation in
                latents.append(x)
                let start = clock.now
                let prediction = try await denoiser.predict(x, evaluation)
                times.append((clock.now - start).seconds)
                progress(evaluation + 1)
                return prediction
            })
        return (latents + [final], times)
    }
}
