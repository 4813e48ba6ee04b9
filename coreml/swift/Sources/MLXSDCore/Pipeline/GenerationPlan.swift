import Foundation

/// Everything that decides a picture, checked before the first network runs.
struct GenerationPlan: Sendable {
    /// As it was completed: sizes, steps, guidance and seed are set.
    let request: GenerationRequest
    /// Of the pictures, for example "512x512".
    let size: String
    /// The prompts that AND joins, and the weight of each one's guidance.
    let prompts: [(prompt: TextEncoding.Prompt, weight: Float)]
    let negative: TextEncoding.Prompt
    let style: PromptStyle
    /// How many chunks of tokens the UNet takes.
    let chunks: Int
    /// Whether there is a negative prompt's row.
    let isGuided: Bool
    let guidance: Float
    /// Whether zeros stand for the negative prompt that is not there.
    let zerosForNegative: Bool
    let table: SamplerTable
    /// The texts that each evaluation sees.
    let texts: [GuidancePlan.Texts]
    let noise: NoiseSource
    /// The seed of each picture.
    let seeds: [UInt64]
    let pictures: InputPictures
    let mask: PaintingMask?
    /// The image at the size of the picture.
    let image: RGBImage?
    /// Whether sampling begins with the image and not with noise alone.
    let beginsMidway: Bool
    /// Whether the UNet sees mask and masked image beside the latents.
    let showsMask: Bool
    let controls: [ControlNetworks.Network]
    /// The role of a full evaluation.
    let fullRole: String

    /// The latents' shape, (1, channels, height, width).
    let shape: [Int]
    private let width: Int
    private let height: Int

    /// Completes and checks a request; throws the first thing that does not fit the model set.
    init(
        _ unchecked: GenerationRequest, pictures: InputPictures, count: Int, table custom: SamplerTable?,
        guidanceStop: Int?, encoding: TextEncoding, backend: any NetworkBackend
    ) throws {
        let info = encoding.info
        let request = try unchecked.checked()
        try Self.checkSupport(request, info)
        guard let text = request.prompt else {
            throw DiffusionError(.request, "a picture needs a prompt; give one, \"\" for none")
        }
        self.pictures = pictures
        size = try Self.size(request, pictures, info)
        let sides = ModelSetInfo.sides(of: size) ?? (0, 0)
        (width, height) = sides
        let runner = NetworkRunner(backend: backend, info: info, size: size)
        fullRole = try Denoiser.fullRole(runner)
        guard runner.has(ImageCoding.decoder) else {
            throw DiffusionError(.files, "the set has no VAE decoder for \(size); export it")
        }
        let factor = info.latents.factor
        let channels = info.networks.vae.latentChannels
        shape = [1, channels, height / factor, width / factor]
        let isXL = encoding.pools

        // Prompts
        let embedsGuidance = info.networks.unet.guidanceWidth != nil
        guidance = Float(request.guidance ?? info.model.defaultGuidance(isXL: isXL))
        style = request.promptStyle
        let style = style
        let directions = style == .a1111 ? PromptDirection.all(text) : [PromptDirection(text: text)]
        let isComposed = directions.map(\.weight) != [1]
        if isComposed, embedsGuidance || request.prompt2 != nil {
            let reason = embedsGuidance ? "this model has its guidance inside" : "there is one prompt_2"
            throw DiffusionError(.request, "\(reason), so AND has nothing to join; leave AND out")
        }
        isGuided = !embedsGuidance && (guidance > 1 || isComposed)
        prompts = try directions.map {
            (try encoding.prompt($0.text, second: request.prompt2, style: style), Float($0.weight))
        }
        negative = try encoding.prompt(request.negative ?? "", second: request.negative2, style: style)
        zerosForNegative =
            request.negative == nil && request.negative2 == nil
            && info.pipeline["force_zeros_for_empty_prompt"]?.bool == true
        let port = info.inputs(of: fullRole, size: size)["encoder_hidden_states"]
        let tokens = (info.isCoreAI ? port?.shape.dropFirst().first : port?.shape.last) ?? 77
        let length = encoding.tokenizers.first?.length ?? 77
        chunks = max(tokens / length, 1)
        let longestPrompt = prompts.map(\.prompt.count).max() ?? 0
        let longest = max(longestPrompt, isGuided ? negative.count : 0)
        guard longest <= chunks else {
            let name = longestPrompt == longest ? "prompt" : "negative prompt"
            throw DiffusionError(
                .request,
                "the \(name) fills \(longest) chunks of \(length - 2) tokens, and the UNet of this set takes "
                    + "\(tokens) tokens; shorten it")
        }

        // Image and mask
        (image, mask) = try Self.canvas(pictures, (width, height), factor)
        let inputChannels = info.networks.unet.inChannels
        let paints = inputChannels == 2 * channels + 1
        guard paints || inputChannels == channels else {
            throw DiffusionError(
                .request,
                "this checkpoint's UNet takes \(inputChannels - channels) channels beside the latents, which "
                    + "this package cannot make; use Python")
        }
        showsMask = paints && mask != nil
        guard !paints || mask != nil else {
            throw DiffusionError(.request, "this checkpoint paints into pictures; give an image and a mask")
        }
        var strength = request.strength
        if image == nil {
            guard strength == nil else {
                throw DiffusionError(.request, "strength says how much of an image changes; give an image too")
            }
        } else {
            strength = strength ?? (mask == nil ? 0.8 : 1)
        }
        if image != nil, !runner.has(ImageCoding.encoder) {
            throw DiffusionError(.files, "the set has no VAE encoder for \(size), which an image needs; export it")
        }
        beginsMidway = image != nil && !(mask != nil && strength == 1)

        // Sampler and reuse
        controls = try Self.controls(request, pictures.controls, info, runner, (width, height))
        let sampled = try custom ?? Self.table(request, info, strength: beginsMidway ? strength : nil, isXL: isXL)
        if custom != nil, beginsMidway {
            throw DiffusionError(
                .request, "a sampler table of a kit begins with noise; leave out the table or the image")
        }
        let evaluations = sampled.rows.count
        for (network, entry) in zip(controls, request.controls)
        where network.scale != 0 && !(0..<evaluations).contains(where: { network.acts($0, of: evaluations) }) {
            throw DiffusionError(
                .request,
                "from \(entry.start) to \(entry.end) of the steps \(entry.model) acts at none of "
                    + "\(evaluations) evaluations; give it more of them, or more steps")
        }
        let acting = ControlNetworks(networks: controls, runner: runner, evaluations: evaluations, isGuessing: false)
        let guidancePlan = try GuidancePlan(evaluations: evaluations, isGuided: isGuided, stop: guidanceStop)
        texts = guidancePlan.texts
        if guidanceStop != nil, isComposed {
            throw DiffusionError(.request, "AND joins prompts by their guidance, which does not stop; leave AND out")
        }
        if custom == nil || request.deepcache != nil {
            let restarts = acting.changes.union(guidancePlan.restarts)
            self.table = try sampled.cached(by: request.deepcache, restarts: restarts)
        } else {
            self.table = sampled
        }
        try Self.checkReuse(self.table, request.deepcache, info, runner, controls)

        // Seeds
        noise = request.rng
        guard count >= 1 else { throw DiffusionError(.request, "the number of pictures is at least 1, not \(count)") }
        let highest = Int(UInt32.max)
        let first = request.seed ?? Int.random(in: 0...max(highest + 1 - count, 0))
        guard first >= 0, first <= highest, count <= highest - first + 1 else {
            throw DiffusionError(.request, "seeds are from 0 to \(highest), not \(first) and the \(count - 1) after it")
        }
        seeds = (0..<count).map { UInt64(first + $0) }

        var completed = request
        completed.seed = first
        (completed.width, completed.height) = (width, height)
        completed.guidance = Double(guidance)
        completed.strength = strength
        completed.sampler = self.table.sampler
        completed.schedule = self.table.schedule
        completed.steps = self.table.steps
        self.request = completed
    }

    /// Returns SDXL's sizes, (rows, 6), heights before widths; the refiner's end with an aesthetic score.
    func timeIDs(rows: Int) -> Tensor {
        let picture = GenerationRequest.Pair(width, height)
        let pairs = [
            request.originalSize ?? picture, request.crop ?? GenerationRequest.Pair(0, 0),
            request.targetSize ?? picture,
        ]
        let numbers = pairs.flatMap { [Float($0.second), Float($0.first)] }
        return Tensor(shape: [1, numbers.count], values: numbers).repeated(rows)
    }

    // MARK: - Parts

    private static func table(
        _ request: GenerationRequest, _ info: ModelSetInfo, strength: Double?, isXL: Bool
    ) throws -> SamplerTable {
        let scheduler = try Scheduler(config: info.scheduler, xl: isXL)
        return try SamplerTable.make(
            scheduler: scheduler, sampler: request.sampler, schedule: request.schedule, steps: request.steps,
            options: request.options, strength: strength)
    }

    private static func size(
        _ request: GenerationRequest, _ pictures: InputPictures, _ info: ModelSetInfo
    ) throws -> String {
        let sizes = info.sizes
        guard let first = sizes.first else {
            throw DiffusionError(.files, "the set makes no pictures: it has text encoders alone; export it again")
        }
        let possible = sizes.map { $0.replacingOccurrences(of: "x", with: " x ") }.joined(separator: ", ")
        let native = ModelSetInfo.sides(of: first) ?? (0, 0)
        if request.width != nil || request.height != nil {
            let width = request.width ?? native.width
            let height = request.height ?? native.height
            guard sizes.contains("\(width)x\(height)") else {
                throw DiffusionError(
                    .request, "this set makes pictures of \(possible) and no other size, not of \(width) x \(height)")
            }
            return "\(width)x\(height)"
        }
        guard let image = pictures.image ?? pictures.controls.first else { return first }
        func misfit(_ size: String) -> Double {
            let sides = ModelSetInfo.sides(of: size) ?? (1, 1)
            return abs(log(Double(sides.width * image.height) / Double(sides.height * image.width)))
        }
        return sizes.contains(image.size) ? image.size : sizes.min { misfit($0) < misfit($1) } ?? first
    }

    private static func canvas(
        _ pictures: InputPictures, _ size: (width: Int, height: Int), _ factor: Int
    ) throws -> (RGBImage?, PaintingMask?) {
        guard let image = pictures.image else {
            guard pictures.mask == nil else { throw DiffusionError(.request, "a mask is of an image; give it too") }
            return (nil, nil)
        }
        let mask = try pictures.mask.map {
            try PaintingMask($0, image: (image.width, image.height), size: size, factor: factor)
        }
        return (image.resized(width: size.width, height: size.height), mask)
    }

    private static func checkReuse(
        _ table: SamplerTable, _ policy: CachePolicy?, _ info: ModelSetInfo, _ runner: NetworkRunner,
        _ controls: [ControlNetworks.Network]
    ) throws {
        guard table.plan.contains(where: { !$0.full }) else { return }
        guard runner.has(Denoiser.shallow) else {
            throw DiffusionError(
                .request,
                "this set's UNet is whole, so nothing can be reused; leave deepcache out, or export with "
                    + "--unet chunks or functions")
        }
        if let policy, policy.branch != info.deepcache.branch {
            throw DiffusionError(
                .request,
                "there is no DeepCache branch \(policy.branch) in this set: its UNet is cut at branch "
                    + "\(info.deepcache.branch); ask for that")
        }
        for network in controls where network.scale != 0 {
            for role in [ControlNetworks.shallowRole(network.name), ControlNetworks.imageRole(network.name)]
            where !runner.has(role) {
                throw DiffusionError(
                    .files,
                    "the set has no \(role) at \(runner.size), which DeepCache needs; leave deepcache out, or "
                        + "export with --unet chunks or functions")
            }
        }
    }
}
