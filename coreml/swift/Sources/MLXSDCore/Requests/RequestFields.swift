import Foundation

/// The ranges of a request's fields, and the fields of Python's record that a model set cannot honour.
enum RequestFields {
    /// A field that has no effect here: the value that Python writes where nobody sets it, and the others that mean
    /// the same.
    struct Unused {
        var fallback: JSONValue = .null
        /// Whether Python writes it even where it is not set.
        var always = false
        var neutral: [JSONValue] = []
    }

    static let unused: [String: Unused] = [
        "class": Unused(always: true), "loras": Unused(fallback: .array([]), always: true),
        "quantize": Unused(always: true), "speed": Unused(), "clip_skip": Unused(fallback: .integer(0), always: true),
        "freeu": Unused(always: true, neutral: [.bool(false)]), "refiner": Unused(), "refine_at": Unused(),
        "tile": Unused(always: true, neutral: [.integer(0)]),
        "denoise_tile": Unused(always: true, neutral: [.integer(0)]), "lora_mode": Unused(), "vae": Unused(),
        "adapters": Unused(neutral: [.array([])]), "adapter_factor": Unused(),
        "ip_adapters": Unused(neutral: [.array([])]), "ip_encoder": Unused(),
        "only_masked": Unused(neutral: [.bool(false)]), "padding": Unused(), "image_guidance": Unused(),
        "noise_level": Unused(always: true), "extend": Unused(), "pag": Unused(neutral: [.integer(0)]),
        "pag_adaptive": Unused(neutral: [.integer(0)]), "hires": Unused(), "hires_mode": Unused(),
        "embeddings": Unused(neutral: [.array([])]), "guidance_interval": Unused(), "adaptive_guidance": Unused(),
        "unconditional_refresh": Unused(neutral: [.integer(1)]), "token_downsampling": Unused(),
        "tuning": Unused(neutral: [.string("off")]), "temperature": Unused(),
    ]

    /// Hashes that Python records beside a picture; kept as they are.
    static let hashes = [
        "checkpoint_hash", "lora_hashes", "init_image_hash", "mask_hash", "refiner_hash", "vae_hash", "hires_hash",
    ]

    private static let dtypes = ["float16", "bfloat16", "float32"]

    private static let ways: [String: String] = [
        "loras": "merge them before the export (--lora)", "class": "model sets make pictures of prompts",
        "quantize": "compress the packages at the export", "clip_skip": "choose the layer at the export",
        "hires": "enlarge the picture afterwards", "refiner": "export and run the second model by itself",
        "speed": "set sampler, steps and deepcache instead", "vae": "choose the autoencoder at the export",
        "freeu": "packages join their skips as they were exported", "only_masked": "cut the part out before",
        "extend": "add transparent margins before, and give mask \"alpha\"",
    ]

    /// Returns what to keep of a field without effect: nil where it has its default.
    ///
    /// Throws `DiffusionError(.request)` where the field asks for what a model set cannot do.
    static func kept(_ key: String, _ value: JSONValue, _ field: Unused) throws -> JSONValue? {
        if value == .null || same(value, field.fallback) { return nil }
        guard field.neutral.contains(where: { same(value, $0) }) else {
            let way = ways[key] ?? "make this picture in Python"
            throw DiffusionError(
                .request, "\(key) = \(value.shown) cannot be honoured by a model set; leave it out: \(way)")
        }
        // False for freeu is nothing in Python, too, and an empty list is not written.
        if key == "freeu" || value == .array([]) { return nil }
        return value
    }

    private static func same(_ a: JSONValue, _ b: JSONValue) -> Bool {
        a == b || (a.number != nil && a.number == b.number)
    }

    /// Throws where a value of the request is out of range.
    static func check(_ request: GenerationRequest) throws {
        try whole("seed", request.seed, -1...Int(UInt32.max))
        try whole("steps", request.steps, 1...Int.max)
        try whole("width", request.width, 8...Int.max)
        try whole("height", request.height, 8...Int.max)
        try number("guidance", request.guidance)
        try number("guidance_rescale", request.guidanceRescale, 0...1)
        try number("strength", request.strength, 0...1, above: true)
        try number("mask_blur", request.maskBlur, 0...10000)
        try number("rho", request.options.rho, 0.01...Double.infinity)
        try number("s_churn", request.options.sChurn, 0...Double.infinity)
        try number("s_tmin", request.options.sTMin, 0...Double.infinity)
        try number("s_noise", request.options.sNoise, 0...Double.infinity)
        let texts: [(String, String?)] = [
            ("model", request.model), ("coreml", request.coreml), ("sampler", request.sampler),
            ("schedule", request.schedule), ("kind", request.options.kind), ("init_image", request.initImage),
            ("mask", request.mask), ("model_hash", request.modelHash),
        ]
        for (name, text) in texts where text?.isEmpty ?? false {
            throw DiffusionError(.request, "\(name) is empty; leave it out")
        }
        let pairs = [
            ("original_size", request.originalSize), ("target_size", request.targetSize), ("crop", request.crop),
        ]
        for case (let name, .some(let pair)) in pairs {
            guard (0..<1_000_000).contains(pair.first), (0..<1_000_000).contains(pair.second) else {
                throw DiffusionError(.request, "\(name) must be two whole numbers from 0 up, such as 1024x768")
            }
        }
        if let dtype = request.dtype, !dtypes.contains(dtype) {
            throw Suggestions.unknown("dtype", dtype, dtypes)
        }
        for control in request.controls { try control.check() }
    }

    private static func whole(_ name: String, _ value: Int?, _ range: ClosedRange<Int>) throws {
        guard let value, !range.contains(value) else { return }
        let words =
            range.upperBound == Int.max
            ? "\(range.lowerBound) or more"
            : "from \(range.lowerBound) to \(range.upperBound)"
        throw DiffusionError(.request, "\(name) must be \(words), not \(value)")
    }

    private static func number(
        _ name: String, _ value: Double?, _ range: ClosedRange<Double> = -.infinity ... .infinity, above: Bool = false
    ) throws {
        guard let value else { return }
        if value.isFinite, range.contains(value), !(above && value == range.lowerBound) { return }
        let upper = range.upperBound == .infinity ? "up" : "to \(range.upperBound)"
        let words =
            range.lowerBound == -.infinity
            ? "a finite number"
            : above ? "above \(range.lowerBound), \(upper)" : "from \(range.lowerBound) \(upper)"
        throw DiffusionError(.request, "\(name) must be \(words), not \(value)")
    }
}
