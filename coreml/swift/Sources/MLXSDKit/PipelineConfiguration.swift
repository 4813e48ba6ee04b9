import MLXSDCore

/// The samplers of Apple's package.
public enum StableDiffusionScheduler: Sendable {
    /// PLMS.
    case pndmScheduler
    /// DPM-Solver++ 2M.
    case dpmSolverMultistepScheduler
    /// Of Stable Diffusion 3, which this package does not run.
    case discreteFlowScheduler
}

/// The noise generators of Apple's package.
public enum StableDiffusionRNG: Sendable {
    /// NumPy's legacy generator.
    case numpyRNG
    /// PyTorch's on the CPU.
    case torchRNG
    /// PyTorch's on CUDA cards.
    case nvidiaRNG
}

/// How timesteps are spaced, in Apple's names.
public enum TimestepSpacing: Sendable {
    /// Evenly from the first timestep to the last.
    case linspace
    /// Evenly, counted from the start of each step.
    case leading
    /// Sigmas of Karras et al. 2022.
    case karras
}

/// A request in the names of Apple's package.
public struct PipelineConfiguration: Sendable {
    /// What the picture shows.
    public var prompt: String
    /// What to steer away from.
    public var negativePrompt = ""
    /// The image to begin with, where the strength is below 1.
    public var startingImage: PlatformImage?
    /// The share of the steps that change it.
    public var strength: Float = 1
    /// How many pictures, with the seeds seed, seed + 1, ... (Apple's package draws all from one seed).
    public var imageCount = 1
    /// Steps of the sampler.
    public var stepCount = 50
    /// Of the first picture.
    public var seed: UInt32 = 0
    /// At most 1 is no guidance.
    public var guidanceScale: Float = 7.5
    /// One for each name of `controlNet`.
    public var controlNetInputs: [PlatformImage] = []
    /// Accepted and ignored: model sets have no safety network.
    public var disableSafety = false
    /// Whether `Progress.currentLatentSamples` are estimates of the clean latents, as they always are here.
    public var useDenoisedIntermediates = true
    /// The sampler.
    public var schedulerType = StableDiffusionScheduler.pndmScheduler
    /// Nil is the sampler's own, or the checkpoint's.
    public var schedulerTimestepSpacing: TimestepSpacing?
    /// Where noise comes from.
    public var rngType = StableDiffusionRNG.numpyRNG
    /// Accepted and ignored: info.json holds the factor.
    public var encoderScaleFactor: Float32 = 0.18215
    /// Accepted and ignored: info.json holds the factor.
    public var decoderScaleFactor: Float32 = 0.18215
    /// Accepted and ignored: info.json holds the shift.
    public var decoderShiftFactor: Float32 = 0
    /// Of SDXL: the side of the picture before it was scaled; nil is the picture's own size.
    public var originalSize: Float32?
    /// Of SDXL: from the left and from the top.
    public var cropsCoordsTopLeft: Float32 = 0
    /// Of SDXL: nil is the picture's own size.
    public var targetSize: Float32?
    /// What `Progress.currentImages` are; not in Apple's package.
    public var previews = PreviewRule.linear
    /// Other settings of the request, for example `deepcache`; not in Apple's package.
    public var options = GenerationRequest()

    /// Makes a request with Apple's defaults.
    public init(prompt: String) { self.prompt = prompt }

    /// Whether sampling begins with the image.
    var beginsWithImage: Bool { startingImage != nil && strength < 1 }

    /// Returns the request in our names. controlNet: the networks of the pipeline.
    func request(controlNet: [String]) throws -> GenerationRequest {
        var request = options
        request.negative = negativePrompt
        request.seed = Int(seed)
        request.steps = stepCount
        request.guidance = Double(guidanceScale)
        if beginsWithImage { request.strength = Double(strength) }
        switch schedulerType {
        case .pndmScheduler: request.sampler = "plms"
        case .dpmSolverMultistepScheduler: request.sampler = "dpmpp_2m"
        case .discreteFlowScheduler:
            throw DiffusionError(
                .request, "discreteFlowScheduler is of Stable Diffusion 3, which model sets do not hold; choose another"
            )
        }
        switch schedulerTimestepSpacing {
        case .linspace: request.schedule = "linspace"
        case .leading: request.schedule = "leading"
        case .karras: request.schedule = "karras"
        case nil: break
        }
        switch rngType {
        case .numpyRNG: request.rng = .numpy
        case .torchRNG: request.rng = .torch
        case .nvidiaRNG: request.rng = .cuda
        }
        if let side = originalSize { request.originalSize = GenerationRequest.Pair(Int(side), Int(side)) }
        if let side = targetSize { request.targetSize = GenerationRequest.Pair(Int(side), Int(side)) }
        if cropsCoordsTopLeft != 0 {
            request.crop = GenerationRequest.Pair(Int(cropsCoordsTopLeft), Int(cropsCoordsTopLeft))
        }
        request.controls = controlNet.map { ControlRequest(model: $0, image: "") }
        return request
    }

    /// Returns the pictures that the request begins with.
    func pictures() throws -> InputPictures {
        InputPictures(
            image: beginsWithImage ? try startingImage.map { try RGBImage(platformImage: $0) } : nil,
            controls: try controlNetInputs.map { try RGBImage(platformImage: $0) })
    }
}
