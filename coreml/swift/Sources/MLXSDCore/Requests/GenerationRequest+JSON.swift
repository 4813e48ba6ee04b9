import Foundation

extension GenerationRequest: Codable {
    /// The names of the fields in JSON that this record holds; `RequestFields.unused` and `hashes` are the others.
    enum CodingKeys: String, CodingKey, CaseIterable {
        case prompt, negative, seed, model, dtype, coreml, steps, guidance, rng, sampler, schedule, width, height
        case deepcache, tgate, strength, mask, controls, crop
        case guidanceRescale = "guidance_rescale"
        case modelHash = "model_hash"
        case initImage = "init_image"
        case maskBlur = "mask_blur"
        case guessMode = "guess_mode"
        case promptStyle = "prompt_style"
        case prompt2 = "prompt_2"
        case negative2 = "negative_2"
        case originalSize = "original_size"
        case targetSize = "target_size"
    }

    /// Reads the JSON of Python's `Request.to_json`, or part of it.
    ///
    /// Throws `DiffusionError(.request)` that names a key that is unknown, whose value makes no sense, or that a model
    /// set cannot honour.
    public init(from decoder: any Decoder) throws {
        guard case .object(let values) = try JSONValue(from: decoder) else {
            throw DiffusionError(.request, "a request is a JSON object, such as {\"prompt\": \"a red tent\"}")
        }
        self.init()
        for (key, value) in Self.withPresentNames(values).sorted(by: { $0.key < $1.key }) where value != .null {
            do {
                try read(key, value)
            } catch let error as DiffusionError {
                throw error
            } catch {
                throw DiffusionError(.request, "\(key) = \(value.shown) makes no sense in a request")
            }
        }
        self = try checked()
    }

    private mutating func read(_ key: String, _ value: JSONValue) throws {
        if let field = RequestFields.unused[key] {
            recorded[key] = try RequestFields.kept(key, value, field)
            return
        }
        if RequestFields.hashes.contains(key) {
            guard let text = value.string, !text.isEmpty else {
                throw DiffusionError(.request, "\(key) must be text, not \(value.shown)")
            }
            recorded[key] = value
            return
        }
        if SolverOptions.CodingKeys(rawValue: key) != nil {
            options = try JSONValue.object([key: value]).decoded(as: SolverOptions.self).completed(by: options)
            return
        }
        guard let name = CodingKeys(rawValue: key) else {
            let known = CodingKeys.allCases.map(\.rawValue) + SolverOptions.CodingKeys.allCases.map(\.rawValue)
            let hint = Suggestions.closest(key, known).map { "did you mean \"\($0)\"?" } ?? "leave it out"
            throw DiffusionError(.request, "a request has no setting \"\(key)\"; \(hint)")
        }
        switch name {
        case .prompt: prompt = try value.decoded()
        case .negative: negative = try value.decoded()
        case .seed: seed = try value.decoded(as: Int.self)
        case .model: model = try value.decoded()
        case .dtype: dtype = Self.dtypes[Self.word(try value.decoded())] ?? value.string
        case .coreml: coreml = try value.decoded()
        case .steps: steps = try value.decoded(as: Int.self)
        case .guidance: guidance = try value.decoded(as: Double.self)
        case .guidanceRescale: guidanceRescale = try value.decoded()
        case .rng: rng = try Self.noiseSource(value.decoded())
        case .sampler: sampler = try value.decoded()
        case .schedule: schedule = try value.decoded()
        case .width: width = try value.decoded(as: Int.self)
        case .height: height = try value.decoded(as: Int.self)
        case .deepcache: deepcache = try value.decoded(as: CachePolicy.self)
        case .tgate: tgate = try value.decoded(as: TGate.self)
        case .initImage: initImage = try value.decoded()
        case .strength: strength = try value.decoded(as: Double.self)
        case .mask: mask = try value.decoded()
        case .maskBlur: maskBlur = try value.decoded(as: Double.self)
        case .controls: controls = try value.decoded()
        case .guessMode: guessMode = try value.decoded(as: Bool.self)
        case .modelHash: modelHash = try value.decoded()
        case .promptStyle:
            let text: String = try value.decoded()
            guard let style = PromptStyle(rawValue: Self.styles[Self.word(text)] ?? text) else {
                throw Suggestions.unknown("prompt_style", text, PromptStyle.allCases.map(\.rawValue))
            }
            promptStyle = style
        case .prompt2: prompt2 = try value.decoded()
        case .negative2: negative2 = try value.decoded()
        case .originalSize: originalSize = try Self.pair(value)
        case .targetSize: targetSize = try Self.pair(value)
        case .crop: crop = try Self.pair(value)
        }
    }

    /// Writes the JSON of Python's `Request.to_json`: some fields also where they are nil, others only where set.
    public func encode(to encoder: any Encoder) throws {
        var values: [String: JSONValue] = recorded
        func text(_ key: CodingKeys, _ value: String?, always: Bool = true) {
            if value != nil || always { values[key.rawValue] = value.map(JSONValue.string) ?? .null }
        }
        func whole(_ key: CodingKeys, _ value: Int?) { values[key.rawValue] = value.map(JSONValue.integer) ?? .null }
        func number(_ key: CodingKeys, _ value: Double?, always: Bool = true) {
            if value != nil || always { values[key.rawValue] = value.map(JSONValue.number) ?? .null }
        }
        for (key, field) in RequestFields.unused where field.always && values[key] == nil {
            values[key] = field.fallback
        }
        text(.prompt, prompt)
        text(.negative, negative)
        whole(.seed, seed)
        text(.model, model)
        text(.dtype, dtype)
        text(.coreml, coreml)
        whole(.steps, steps)
        number(.guidance, guidance)
        number(.guidanceRescale, guidanceRescale)
        text(.rng, rng.rawValue)
        text(.sampler, sampler)
        text(.schedule, schedule)
        whole(.width, width)
        whole(.height, height)
        text(.deepcache, deepcache?.description)
        text(.tgate, tgate?.description)
        text(.modelHash, modelHash)
        number(.strength, strength)
        text(.promptStyle, promptStyle.rawValue)
        text(.initImage, initImage, always: false)
        text(.mask, mask, always: false)
        number(.maskBlur, maskBlur, always: false)
        text(.prompt2, prompt2, always: false)
        text(.negative2, negative2, always: false)
        for (key, pair) in [(CodingKeys.originalSize, originalSize), (.targetSize, targetSize), (.crop, crop)] {
            text(key, pair.map { "\($0.first)x\($0.second)" }, always: false)
        }
        if let guessMode { values[CodingKeys.guessMode.rawValue] = .bool(guessMode) }
        if !controls.isEmpty {
            let entries = try JSONDecoder().decode(JSONValue.self, from: JSONEncoder().encode(controls))
            values[CodingKeys.controls.rawValue] = entries
        }
        let set = try JSONDecoder().decode([String: JSONValue].self, from: JSONEncoder().encode(options))
        values.merge(set) { $1 }
        try JSONValue.object(values).encode(to: encoder)
    }

    // ------------------------------------------------------------------------------------------------ other spellings

    private static let dtypes = [
        "fp16": "float16", "f16": "float16", "half": "float16", "torch.float16": "float16", "bf16": "bfloat16",
        "torch.bfloat16": "bfloat16", "fp32": "float32", "f32": "float32", "float": "float32", "full": "float32",
        "torch.float32": "float32",
    ]
    private static let styles = [
        "automatic1111": "a1111", "webui": "a1111", "comfyui": "comfy", "diffusers": "plain", "none": "plain",
    ]
    private static let generators: [String: NoiseSource] = [
        "numpy": .numpy, "torch": .torch, "cuda": .cuda, "cpu": .torch, "gpu": .cuda, "nv": .cuda, "nvidia": .cuda,
    ]

    private static func word(_ text: String) -> String {
        text.trimmingCharacters(in: .whitespacesAndNewlines).lowercased()
    }

    private static func noiseSource(_ name: String) throws -> NoiseSource {
        guard let source = generators[SamplerNames.key(name)] else {
            throw Suggestions.unknown("rng", name, NoiseSource.allCases.map(\.rawValue))
        }
        return source
    }

    /// Returns two whole numbers of "1024x768", "0,64" or a list.
    private static func pair(_ value: JSONValue) throws -> Pair {
        var numbers: [Int] = []
        if let text = value.string {
            let parts = text.split(omittingEmptySubsequences: false) { "xX*,\u{d7}".contains($0) }
                .map { $0.trimmingCharacters(in: .whitespaces) }
            guard parts.allSatisfy({ (1...6).contains($0.count) && $0.allSatisfy(\.isWholeNumber) }) else {
                throw badPair(value)
            }
            numbers = parts.compactMap { Int($0) }
        } else if case .array(let entries) = value {
            numbers = entries.compactMap(\.integer)
            guard numbers.count == entries.count else { throw badPair(value) }
        }
        guard numbers.count == 2, numbers.allSatisfy({ (0..<1_000_000).contains($0) }) else { throw badPair(value) }
        return Pair(numbers[0], numbers[1])
    }

    private static func badPair(_ value: JSONValue) -> DiffusionError {
        DiffusionError(.request, "two whole numbers are needed, such as 1024x768 or 0,64, not \(value.shown)")
    }

    /// Returns a record with what an earlier version of Python's package meant by it.
    ///
    /// `to_json` has always written model_hash, and writes rng since karras, exponential, beta and sgm_uniform mean what
    /// they mean in ComfyUI and A1111; before, they were diffusers'. It writes prompt_style since prompts have weights.
    private static func withPresentNames(_ values: [String: JSONValue]) -> [String: JSONValue] {
        guard values["model_hash"] != nil else { return values }
        var present = values
        if values["prompt_style"] == nil { present["prompt_style"] = .string(PromptStyle.plain.rawValue) }
        if values["rng"] == nil, let schedule = values["schedule"]?.string {
            let name = "diffusers_\(schedule)"
            if Schedules.diffusers.contains(name) { present["schedule"] = .string(name) }
        }
        return present
    }
}
