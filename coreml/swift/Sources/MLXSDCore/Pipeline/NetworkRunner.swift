/// Runs the roles of a model set on rows: in batches of the networks' size, with the inputs that they have.
struct NetworkRunner: Sendable {
    let backend: any NetworkBackend
    let info: ModelSetInfo
    /// Of the pictures, for example "512x512".
    let size: String

    static let noise = "noise_pred"

    /// Returns whether the set has a role at this size.
    func has(_ role: String) -> Bool { info.has(role, size: size) && backend.has(role, size: size) }

    /// Returns how many runs a role takes for so many rows.
    func runs(_ role: String, rows: Int) -> Int {
        let batch = info.batch(of: role, size: size)
        return (rows + batch - 1) / batch
    }

    /// Runs a role on as many rows as the input `sample` has, and returns as many; a last batch is filled up with copies.
    ///
    /// - Parameters:
    ///   - inputs: by name; those that the role does not take are left out.
    ///   - deepFeature: what each batch (0, 1, ...) takes as `deep_feature`.
    ///   - keepAs: where each batch keeps its deep feature.
    func runRows(
        _ role: String, _ inputs: [String: Tensor],
        deepFeature: (_ stream: Int) -> [WeightedFeature] = { _ in [] },
        keepAs: (_ stream: Int) -> FeatureKey? = { _ in nil }
    ) async throws -> [String: Tensor] {
        let ports = info.inputs(of: role, size: size).filter { $0.key != RoleInputs.deepFeature }
        guard let sample = inputs["sample"], let batch = ports["sample"]?.shape.first else {
            throw missing(role)
        }
        var outputs: [String: [Tensor]] = [:]
        for (stream, start) in stride(from: 0, to: sample.rows, by: batch).enumerated() {
            try Task.checkCancellation()
            let numbers = (start..<start + batch).map { min($0, sample.rows - 1) }
            let feeds = try select(inputs, ports, numbers, role)
            let results = try await backend.run(
                role, size: size, inputs: feeds, deepFeature: deepFeature(stream), keepAs: keepAs(stream))
            for (name, tensor) in results { outputs[name, default: []].append(tensor) }
        }
        return outputs.mapValues { tensors in
            let joined = Tensor.joined(tensors)
            return joined.rows > sample.rows ? joined.rows(0..<sample.rows) : joined
        }
    }

    /// Runs a role once, with all inputs as they are.
    func run(_ role: String, _ inputs: [String: Tensor], size: String? = nil) async throws -> [String: Tensor] {
        try Task.checkCancellation()
        return try await backend.run(role, size: size ?? self.size, inputs: inputs, deepFeature: [], keepAs: nil)
    }

    /// Returns an output; throws where the network did not give it.
    func output(_ name: String, of outputs: [String: Tensor], role: String) throws -> Tensor {
        guard let tensor = outputs[name] else {
            throw DiffusionError(.network, "\(role) at \(size) gave no \(name); export the set again")
        }
        return tensor
    }

    private func select(
        _ inputs: [String: Tensor], _ ports: [String: ModelSetInfo.Port], _ numbers: [Int], _ role: String
    ) throws -> [String: Tensor] {
        var feeds: [String: Tensor] = [:]
        for (name, port) in ports {
            guard let tensor = inputs[name] else {
                if name.hasPrefix(RoleInputs.residual) { continue }
                throw DiffusionError(.files, "\(role) at \(size) takes \(name), which nothing gives; export again")
            }
            guard tensor.shape.dropFirst() == port.shape.dropFirst() else {
                throw DiffusionError(
                    .request,
                    "\(role) at \(size) takes \(name) of \(port.shape.dropFirst()), not "
                        + "\(tensor.shape.dropFirst()); export the set for this")
            }
            feeds[name] = tensor.rows(Array(numbers.prefix(port.shape[0])))
        }
        return feeds
    }

    private func missing(_ role: String) -> DiffusionError {
        DiffusionError(.files, "the set has no network for \(role) at \(size); export it")
    }
}
