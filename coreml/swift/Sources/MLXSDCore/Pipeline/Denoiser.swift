/// The guided UNet of one picture, with what it reuses and what control networks add.
struct Denoiser: Sendable {
    let runner: NetworkRunner
    let conditions: Conditions
    /// Which of them each evaluation sees.
    let texts: [GuidancePlan.Texts]
    let guidance: Float
    let rescale: Float
    /// One for each evaluation.
    let plan: [EvaluationPlan]
    let timesteps: [Double]
    /// Of the latents, (1, channels, height, width).
    let shape: [Int]
    /// What an inpainting checkpoint sees beside the latents, (1, channels, height, width).
    let channels: Tensor?
    let controls: ControlNetworks?
    /// The role of a full evaluation.
    let fullRole: String

    static let shallow = "unet_shallow"
    private static let deep = "unet_deep"

    /// Returns the role that a full evaluation of a set runs; throws where it has none at this size.
    static func fullRole(_ runner: NetworkRunner) throws -> String {
        guard let role = [deep, "unet_full", "unet"].first(where: runner.has) else {
            throw DiffusionError(.files, "the set has no UNet for pictures of \(runner.size); export it")
        }
        if role == deep, !runner.has(shallow) {
            throw DiffusionError(.files, "the set has unet_deep without unet_shallow at \(runner.size); export again")
        }
        return role
    }

    /// The roles that this picture runs at every evaluation or at some.
    var roles: [String] {
        let cached = plan.contains { !$0.full }
        return [fullRole] + (cached || fullRole == Self.deep ? [Self.shallow] : [])
            + (controls?.roles(cached: cached) ?? [])
    }

    /// Returns the guided prediction, of the latents' shape.
    func predict(_ latents: [Float], _ evaluation: Int) async throws -> [Float] {
        let now = plan[evaluation]
        let conditions = texts[evaluation] == .both ? conditions : conditions.prompts
        let sample = Tensor(shape: shape, values: latents)
        var inputs = conditions.inputs
        let timestep = Float(timesteps[evaluation])
        inputs["timestep"] = Tensor(
            shape: [conditions.rows], values: Array(repeating: timestep, count: conditions.rows))
        if let controls {
            let residuals = try await controls.residuals(
                evaluation, sample: sample, timestep: timestep, conditions: conditions, isShallow: !now.full)
            inputs.merge(residuals) { input, _ in input }
        }
        let row = channels.map { Tensor.joinedChannels([sample, $0]) } ?? sample
        inputs["sample"] = row.repeated(conditions.rows)
        let outputs = try await run(inputs, now, evaluation, rows: conditions.rows)
        let prediction = try runner.output(NetworkRunner.noise, of: outputs, role: fullRole)
        if !conditions.isGuided { return prediction.values }
        return Guidance.guide(prediction, weights: conditions.weights, scale: guidance, rescale: rescale)
    }

    private func run(
        _ inputs: [String: Tensor], _ now: EvaluationPlan, _ evaluation: Int, rows: Int
    ) async throws -> [String: Tensor] {
        func key(_ stream: Int) -> FeatureKey { FeatureKey(evaluation: evaluation, stream: stream) }
        let outputs: [String: Tensor]
        if !now.full {
            outputs = try await runner.runRows(
                Self.shallow, inputs,
                deepFeature: { stream in
                    now.deep.map {
                        WeightedFeature(
                            key: FeatureKey(evaluation: $0.evaluation, stream: stream), weight: $0.weight)
                    }
                })
        } else if fullRole == Self.deep {
            _ = try await runner.runRows(Self.deep, inputs, keepAs: key)
            outputs = try await runner.runRows(
                Self.shallow, inputs, deepFeature: { [WeightedFeature(key: key($0), weight: 1)] })
        } else {
            let isReused = !now.forget.contains(evaluation)
            outputs = try await runner.runRows(fullRole, inputs, keepAs: { isReused ? key($0) : nil })
        }
        if !now.forget.isEmpty {
            let streams = runner.runs(fullRole, rows: rows)
            await runner.backend.forget(
                now.forget.flatMap { old in (0..<streams).map { FeatureKey(evaluation: old, stream: $0) } })
        }
        return outputs
    }
}
