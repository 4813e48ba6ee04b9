extension ControlRequest: Codable {
    static let modes = [
        "openpose", "depth", "softedge", "scribble", "canny", "lineart", "mlsd", "normal", "segmentation", "tile",
        "inpaint",
    ]

    private enum CodingKeys: String, CodingKey, CaseIterable {
        case model, mode, image, maker, scale, start, end
        case modelHash = "model_hash"
        case imageHash = "image_hash"
    }

    /// Reads the record of Python's metadata; throws `DiffusionError(.request)` for other fields and values.
    public init(from decoder: any Decoder) throws {
        guard case .object(let fields) = try JSONValue(from: decoder) else {
            throw DiffusionError(
                .request,
                "a control network is {\"model\": ..., \"image\": ...}, with scale, start and end where needed")
        }
        let known = CodingKeys.allCases.map(\.rawValue)
        if let other = fields.keys.sorted().first(where: { !known.contains($0) }) {
            throw DiffusionError(
                .request, "a control network has no \"\(other)\"; it has \(known.joined(separator: ", "))")
        }
        func read<T>(_ key: CodingKeys, _ kind: String, _ meaning: (JSONValue) -> T?) throws -> T? {
            guard let value = fields[key.rawValue], value != .null else { return nil }
            guard let read = meaning(value) else {
                throw DiffusionError(
                    .request, "the \(key.rawValue) of a control network must be \(kind), not \(value.shown)")
            }
            return read
        }
        func text(_ key: CodingKeys) throws -> String? { try read(key, "text", \.string) }
        func number(_ key: CodingKeys, _ fallback: Double) throws -> Double {
            try read(key, "a number", \.number) ?? fallback
        }
        guard let model = try text(.model), let image = try text(.image) else {
            throw DiffusionError(.request, "a control network needs a model and an image")
        }
        if let maker = try text(.maker) {
            throw DiffusionError(
                .request,
                "\(model): control images are made of photos (\(maker)) in Python; give the control image itself")
        }
        self.init(
            model: model, image: image, scale: try number(.scale, 1), start: try number(.start, 0),
            end: try number(.end, 1))
        (mode, modelHash, imageHash) = (try text(.mode), try text(.modelHash), try text(.imageHash))
        try check()
    }

    /// Writes the record as Python does.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(model, forKey: .model)
        try values.encodeIfPresent(mode, forKey: .mode)
        try values.encode(image, forKey: .image)
        try values.encode(scale, forKey: .scale)
        try values.encode(start, forKey: .start)
        try values.encode(end, forKey: .end)
        try values.encodeIfPresent(modelHash, forKey: .modelHash)
        try values.encodeIfPresent(imageHash, forKey: .imageHash)
    }

    /// Throws for values that make no sense.
    func check() throws {
        guard scale.isFinite else {
            throw DiffusionError(.request, "the scale of \(model) must be a finite number, not \(scale)")
        }
        guard start >= 0, start < end, end <= 1 else {
            throw DiffusionError(
                .request, "\(model) begins at \(start) and ends at \(end) of the steps; give shares from 0 to 1")
        }
        if let mode, !Self.modes.contains(mode) { throw Suggestions.unknown("mode", mode, Self.modes) }
    }
}
