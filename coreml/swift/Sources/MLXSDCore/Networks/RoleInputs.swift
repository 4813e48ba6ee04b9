/// What all back ends check of the inputs of a role's functions, with one clear error each.
public enum RoleInputs {
    /// The name of the input and output that DeepCache keeps.
    public static let deepFeature = "deep_feature"
    /// How the names of residuals of control networks begin.
    public static let residual = "additional_residual_"

    /// Returns the functions of a role; throws an error that lists the sizes of the set where there are none.
    public static func functions(
        of role: String, size: String, in info: ModelSetInfo
    ) throws -> [ModelSetInfo.FunctionName] {
        if let functions = info.functions(of: role, size: size) { return functions }
        let sizes = info.roles.filter { $0.value[role] != nil }.keys.sorted()
        guard !sizes.isEmpty else {
            throw DiffusionError(.request, "the model set \(info.model.name) has no network for \(role); export it")
        }
        throw DiffusionError(
            .request, "the model set \(info.model.name) has \(role) at \(sizes.joined(separator: ", ")), not at \(size)"
        )
    }

    /// Throws where an input does not have the shape that info.json says.
    public static func check(_ tensor: Tensor, _ name: String, _ port: ModelSetInfo.Port, of function: String) throws {
        guard tensor.shape == port.shape else {
            throw DiffusionError(.network, "\(function) takes \(name) of \(port.shape), not of \(tensor.shape)")
        }
        if port.dtype == .int32, let value = tensor.values.first(where: { Int32(exactly: $0) == nil }) {
            throw DiffusionError(.network, "\(function) takes whole numbers as \(name), not \(value)")
        }
    }

    /// Throws where the ports of a loaded function are not those of info.json.
    ///
    /// loaded: shape and type by name; a shape without axes is one that the framework does not tell.
    public static func check(
        _ kind: String, loaded: [String: (shape: [Int], dtype: String)], described: [String: ModelSetInfo.Port],
        of function: String
    ) throws {
        for name in Set(loaded.keys).union(described.keys).sorted() {
            let first = loaded[name]
            let second = described[name]
            if let first, let second, first.dtype == second.dtype.rawValue,
                first.shape.isEmpty || first.shape == second.shape
            {
                continue
            }
            let words = first.map { "\($0.dtype) \($0.shape)" } ?? "missing"
            let expected = second.map { "\($0.dtype.rawValue) \($0.shape)" } ?? "none"
            throw DiffusionError(
                .files,
                "\(function): the \(kind) \(name) is \(words), and info.json describes \(expected); export again")
        }
    }

    /// Returns an error for an input that nobody gives.
    public static func missing(_ name: String, of function: String) -> DiffusionError {
        DiffusionError(.network, "\(function) takes \(name), which nothing gives")
    }

    /// Returns an error for a kept feature that is not there.
    public static func missing(_ key: FeatureKey) -> DiffusionError {
        DiffusionError(
            .network,
            "no deep feature of evaluation \(key.evaluation), stream \(key.stream), is kept: run that evaluation in full"
        )
    }
}
