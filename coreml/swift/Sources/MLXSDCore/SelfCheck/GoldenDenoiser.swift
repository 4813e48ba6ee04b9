/// The UNet on latents of the golden picture.
struct GoldenDenoiser {
    let runner: NetworkRunner
    let inputs: [String: Tensor]
    let fullRole: String
    let golden: GoldenPicture
    let shape: [Int]
    /// Whether the rows of both texts become one prediction.
    var isGuided = false

    func predict(_ latents: [Float], _ evaluation: Int) async throws -> [Float] {
        let rows = golden.texts.count
        let now = golden.table.plan[evaluation]
        var feeds = inputs
        var sample = Tensor(shape: shape, values: latents)
        if let channels = golden.arrays["channels"] {
            sample = .joinedChannels([sample, Tensor(shape: [1] + channels.shape, values: channels.values)])
        }
        feeds["sample"] = sample.repeated(rows)
        let timestep = Float(golden.table.rows[evaluation].timestep)
        feeds["timestep"] = Tensor(shape: [rows], values: Array(repeating: timestep, count: rows))
        func key(_ stream: Int) -> FeatureKey { FeatureKey(evaluation: evaluation, stream: stream) }
        let outputs: [String: Tensor]
        if now.full, fullRole == "unet_deep" {
            _ = try await runner.runRows(fullRole, feeds, keepAs: key)
            outputs = try await runner.runRows(
                Denoiser.shallow, feeds, deepFeature: { [WeightedFeature(key: key($0), weight: 1)] })
        } else if now.full {
            let keeps = info(fullRole, "deep_feature")
            outputs = try await runner.runRows(fullRole, feeds, keepAs: { keeps ? key($0) : nil })
        } else {
            outputs = try await runner.runRows(
                Denoiser.shallow, feeds,
                deepFeature: { stream in
                    now.deep.map {
                        let key = FeatureKey(evaluation: $0.evaluation, stream: stream)
                        return WeightedFeature(key: key, weight: Float($0.weight))
                    }
                })
        }
        let streams = runner.runs(fullRole, rows: rows)
        await runner.backend.forget(
            now.forget.flatMap { old in (0..<streams).map { FeatureKey(evaluation: old, stream: $0) } })
        let both = try runner.output(NetworkRunner.noise, of: outputs, role: fullRole).values
        guard isGuided else { return both }
        let count = both.count / 2
        return (0..<count).map { (index: Int) -> Float in
            let negative = both[index]
            let prompt = both[count + index]
            return negative + golden.guidance * (prompt - negative)
        }
    }

    private func info(_ role: String, _ output: String) -> Bool {
        runner.info.outputs(of: role, size: runner.size)[output] != nil
    }
}
