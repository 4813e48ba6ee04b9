/// What runs the networks of a model set: Core ML, Core AI, or a recording.
///
/// A role is a name in `roles` of info.json, for example "text_encoder", "unet_deep", "control:canny"; a size is
/// "512x512" or "any", as there. Models and deep features stay inside the back end: numbers alone go in and out.
public protocol NetworkBackend: Sendable {
    /// Returns whether the set has a role at a size.
    func has(_ role: String, size: String) -> Bool

    /// Loads the networks of a role; where they are loaded, returns at once.
    func load(_ role: String, size: String) async throws

    /// Frees the networks of a role.
    func unload(_ role: String, size: String) async

    /// Runs the networks of a role once and returns their outputs by name, without the deep feature.
    ///
    /// - Parameters:
    ///   - inputs: by name, in the shapes that info.json says; the back end converts them to the types there. Inputs
    ///     `additional_residual_...` that are left out are zeros.
    ///   - deepFeature: kept features and their weights, whose sum is the input `deep_feature`; one of weight 1 is
    ///     handed on as it is.
    ///   - keepAs: under which key the output `deep_feature` is kept.
    func run(
        _ role: String, size: String, inputs: [String: Tensor], deepFeature: [WeightedFeature], keepAs: FeatureKey?
    ) async throws -> [String: Tensor]

    /// Drops kept features; nil drops all of them.
    func forget(_ keys: [FeatureKey]?) async
}

/// Where a deep feature is kept.
public struct FeatureKey: Hashable, Sendable {
    public let evaluation: Int
    /// 0, or with networks of batch 1: 0 for the negative prompt and 1 for the prompt.
    public let stream: Int

    /// Names the feature of an evaluation.
    public init(evaluation: Int, stream: Int = 0) {
        self.evaluation = evaluation
        self.stream = stream
    }
}

/// A kept deep feature and its weight in a sum.
public struct WeightedFeature: Hashable, Sendable {
    public let key: FeatureKey
    public let weight: Float

    /// Joins a feature and its weight.
    public init(key: FeatureKey, weight: Float) {
        self.key = key
        self.weight = weight
    }
}
