/// Everything that decides one picture, under the names, units and defaults of Python's request record.
///
/// The JSON is the same in both languages (`Request.to_json` there). Nil is the model set's default. `checked` says
/// what makes no sense; reading JSON checks too.
public struct GenerationRequest: Sendable, Equatable {
    /// Width and height, or x and y, in pixels.
    public struct Pair: Sendable, Equatable {
        public var first: Int
        public var second: Int

        /// Joins two whole numbers from 0 up.
        public init(_ first: Int, _ second: Int) {
            self.first = first
            self.second = second
        }
    }

    /// What the picture shows.
    public var prompt: String?
    /// What to steer away from.
    public var negative: String?
    /// Of the first picture, 0 to 2^32 - 1; nil is random.
    public var seed: Int?
    /// The number of steps of the sampler; nil is 25.
    public var steps: Int?
    /// Strength of classifier-free guidance; at most 1 is none. Nil is 7.5, of SDXL 5, of `tiny` 3.
    public var guidance: Double?
    /// How far guidance's contrast is taken back, 0 to 1.
    public var guidanceRescale = 0.0
    /// Where noise comes from.
    public var rng = NoiseSource.numpy
    /// Our name of the sampler after `checked`; nil is the checkpoint's.
    public var sampler: String?
    /// Our name of the schedule after `checked`, or a list; nil is the checkpoint's.
    public var schedule: String?
    /// The options of the sampler; nil ones are its defaults.
    public var options = SolverOptions()
    /// In pixels; nil is the set's first size.
    public var width: Int?
    /// In pixels; nil is the set's first size.
    public var height: Int?
    /// Runs the whole UNet at some evaluations only.
    public var deepcache: CachePolicy?
    /// T-GATE; see `GuidancePlan` for what a model set can do of it.
    public var tgate: TGate?
    /// The image to begin with, a path.
    public var initImage: String?
    /// How much of the image changes, above 0 to 1; nil is 0.8, with a mask 1.
    public var strength: Double?
    /// Paint only where this image, a path, is white; "alpha": where the image itself is transparent.
    public var mask: String?
    /// Fades in from the mask's edge, in pixels, 0 to 10000.
    public var maskBlur: Double?
    /// Control networks and their images.
    public var controls: [ControlRequest] = []
    /// Control networks act with the prompt alone, weaker on fine levels.
    public var guessMode: Bool?
    /// How weights in prompts are written.
    public var promptStyle = PromptStyle.a1111
    /// For SDXL's second text encoder; nil is the prompt.
    public var prompt2: String?
    /// For SDXL's second text encoder; nil is the negative prompt.
    public var negative2: String?
    /// The size that SDXL takes the picture for, width and height.
    public var originalSize: Pair?
    /// The size that SDXL aims at, width and height.
    public var targetSize: Pair?
    /// The corner at which SDXL takes the picture as cropped, from the left and from the top.
    public var crop: Pair?
    /// The name of the model that a record is of.
    public var model = "tiny"
    /// The hash of its weights.
    public var modelHash: String?
    /// "float16", "bfloat16" or "float32", as Python recorded it.
    public var dtype: String?
    /// The folder of packages that Python recorded.
    public var coreml: String?
    /// Recorded hashes and settings without effect here, by their names in JSON.
    var recorded: [String: JSONValue] = [:]

    /// Makes a request; everything else is the model set's default.
    public init(
        prompt: String? = nil, negative: String? = nil, seed: Int? = nil, steps: Int? = nil, guidance: Double? = nil,
        sampler: String? = nil, schedule: String? = nil, width: Int? = nil, height: Int? = nil,
        deepcache: CachePolicy? = nil, rng: NoiseSource = .numpy, options: SolverOptions = SolverOptions()
    ) {
        (self.prompt, self.negative, self.seed, self.steps) = (prompt, negative, seed, steps)
        (self.guidance, self.sampler, self.schedule) = (guidance, sampler, schedule)
        (self.width, self.height, self.deepcache) = (width, height, deepcache)
        (self.rng, self.options) = (rng, options)
    }

    /// Returns the request with sampler, schedule and kind under our names, and the seed -1 as nil.
    ///
    /// Throws `DiffusionError(.request)` that names the field whose value is out of range.
    public func checked() throws -> GenerationRequest {
        try RequestFields.check(self)
        var request = self
        if seed == -1 { request.seed = nil }
        let names = try SamplerNames.canonical(sampler: sampler, schedule: schedule, kind: options.kind)
        if let schedule = names.schedule, schedule.hasSuffix(".json") {
            throw DiffusionError(
                .request, "schedule \(schedule): files are read in Python; give \"timesteps=...\" or \"sigmas=...\"")
        }
        (request.sampler, request.schedule, request.options.kind) = (names.sampler, names.schedule, names.kind)
        return request
    }
}

/// A control network and its image.
public struct ControlRequest: Sendable, Equatable {
    /// The network's name in the model set.
    public var model: String
    /// The path of its image.
    public var image: String
    /// Factor of all that the network adds; 0 leaves the picture as it is.
    public var scale = 1.0
    /// The share of the steps, from 0 to 1, at which it begins.
    public var start = 0.0
    /// The share of the steps at which it ends.
    public var end = 1.0
    /// Of a union of control networks.
    public var mode: String?
    /// The hash of its weights, in a completed request.
    public var modelHash: String?
    /// The hash of its image, in a completed request.
    public var imageHash: String?

    /// Makes the entry of a request.
    public init(model: String, image: String, scale: Double = 1, start: Double = 0, end: Double = 1) {
        (self.model, self.image, self.scale, self.start, self.end) = (model, image, scale, start, end)
    }
}
