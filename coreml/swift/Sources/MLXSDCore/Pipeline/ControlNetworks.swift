import Foundation

/// The control networks of one picture: which act at which evaluation, and what they add to the UNet.
struct ControlNetworks: Sendable {
    /// A network, its image, and when and how much it acts.
    struct Network: Sendable {
        /// In `controls` of info.json.
        let name: String
        /// (1, channels, height, width) in [0, 1].
        let image: Tensor
        let scale: Float
        /// The share of the steps at which it begins and ends.
        let span: ClosedRange<Double>
        /// Whether its residuals are means over the picture.
        let pools: Bool
        /// The embedded image, once it is there.
        var features: Tensor?

        /// Tells whether an evaluation, counted from 0, lies within the span, as diffusers' pipelines decide it.
        func acts(_ evaluation: Int, of evaluations: Int) -> Bool {
            let total = Double(evaluations)
            return scale != 0 && Double(evaluation) / total >= span.lowerBound
                && Double(evaluation + 1) / total <= span.upperBound
        }
    }

    var networks: [Network]
    let runner: NetworkRunner
    let evaluations: Int
    /// Whether networks act with the prompt alone, weaker on fine levels.
    let isGuessing: Bool

    private static let condition = "controlnet_cond"
    private static let imageFeatures = "image_features"
    private static let weakest: Float = 0.1  // what guess mode leaves of the first residual

    static func mainRole(_ name: String) -> String { "control:\(name)" }
    static func shallowRole(_ name: String) -> String { "control_shallow:\(name)" }
    static func imageRole(_ name: String) -> String { "control_image:\(name)" }

    /// The evaluations at which other networks act than at the one before: deep features of earlier ones do not fit.
    var changes: Set<Int> {
        let acting = (0..<evaluations).map { i in networks.map { $0.acts(i, of: evaluations) } }
        return Set((1..<max(evaluations, 1)).filter { acting[$0] != acting[$0 - 1] })
    }

    /// The roles that run beside the UNet.
    func roles(cached: Bool) -> [String] {
        networks.flatMap { network in
            [Self.mainRole(network.name)] + (cached ? [Self.shallowRole(network.name)] : [])
        }
    }

    /// Runs the networks that embed the images, for cached evaluations; reduceMemory: frees each after its run.
    mutating func embedImages(reduceMemory: Bool) async throws {
        for i in networks.indices {
            let role = Self.imageRole(networks[i].name)
            try await runner.backend.load(role, size: runner.size)
            let outputs = try await runner.run(role, [Self.condition: networks[i].image])
            networks[i].features = try runner.output(Self.imageFeatures, of: outputs, role: role)
            if reduceMemory { await runner.backend.unload(role, size: runner.size) }
        }
    }

    /// Returns the sum of what the acting networks add, by the names of the UNet's inputs; nothing where none acts.
    ///
    /// sample: the latents, (1, channels, height, width). isShallow: of the outer skips alone.
    func residuals(
        _ evaluation: Int, sample: Tensor, timestep: Float, conditions: Conditions, isShallow: Bool
    ) async throws -> [String: Tensor] {
        var total: [String: Tensor] = [:]
        for network in networks where network.acts(evaluation, of: evaluations) {
            // Without a prompt nothing tells these networks what to leave alone: their half of the rows is zeros.
            let isHalved = conditions.isGuided && (isGuessing || network.pools)
            let rows = isHalved ? conditions.prompts : conditions
            var inputs = rows.inputs
            inputs["sample"] = sample.repeated(rows.rows)
            inputs["timestep"] = Tensor(shape: [rows.rows], values: Array(repeating: timestep, count: rows.rows))
            if isShallow {
                inputs[Self.imageFeatures] = network.features?.repeated(rows.rows)
            } else {
                inputs[Self.condition] = network.image.repeated(rows.rows)
            }
            let role = isShallow ? Self.shallowRole(network.name) : Self.mainRole(network.name)
            let outputs = try await runner.runRows(role, inputs)
            let scales = scales(network)
            for (name, output) in outputs where name.hasPrefix(RoleInputs.residual) {
                guard let place = Int(name.dropFirst(RoleInputs.residual.count)), place < scales.count else {
                    throw DiffusionError(.network, "\(role) gave \(name), which is no residual; export again")
                }
                var residual = output.scaled(scales[place])
                if isHalved { residual = residual.below(zeros: 1) }
                if let sum = total[name] { residual.add(sum) }
                total[name] = residual
            }
        }
        return total
    }

    /// Returns the factor of each residual, the middle's last; in guess mode they grow from a tenth of the scale.
    private func scales(_ network: Network) -> [Float] {
        let outputs = runner.info.outputs(of: Self.mainRole(network.name), size: runner.size)
        let count = outputs.keys.count { $0.hasPrefix(RoleInputs.residual) }
        guard isGuessing, !network.pools, count > 1 else { return Array(repeating: network.scale, count: count) }
        return (0..<count).map { i in
            network.scale * pow(Self.weakest, 1 - Float(i) / Float(count - 1))
        }
    }
}
