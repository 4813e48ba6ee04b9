// The UNet packages that `python -m coreml` writes, run with DeepCache. Copy this file into an app.
//
// It needs Foundation and Core ML alone: iOS 16.2 or macOS 13.1, for UnetFunctions iOS 18 or macOS 15; Xcode 16.
// It was written where there is no Swift compiler: a parser checks its syntax, its calls were looked up in Apple's
// documentation, and it has neither been compiled nor run. Swift 5 language mode is assumed.
//
//     let unet = try DeepCacheUnet(folder: resources, interval: 3)
//     for t in timesteps {
//         let noise = try unet.predictNoise(latents: pair, timestep: t, hiddenStates: states)
//         // guidance, then the step of the sampler
//     }

import CoreML
import Foundation

/// The fields of info.json that an app needs to run a folder of packages.
public struct ExportInfo: Decodable {
    /// An input or output of a function.
    public struct Port: Decodable {
        public let shape: [Int]
        public let dtype: String
    }

    public struct Function: Decodable {
        public let inputs: [String: Port]
        public let outputs: [String: Port]
    }

    public struct Package: Decodable {
        public let functions: [String: Function]
    }

    public struct Cache: Decodable {
        public let branch: Int
    }

    public struct Latents: Decodable {
        public let channels: Int
        public let factor: Int
        public let scalingFactor: Double

        enum CodingKeys: String, CodingKey {
            case channels
            case factor
            case scalingFactor = "scaling_factor"
        }
    }

    public let format: String
    public let version: Int
    /// By size ("512x512", and "any" for text), then by role: [package, function] pairs that run one after the other.
    public let roles: [String: [String: [[String]]]]
    public let deepcache: Cache
    public let latents: Latents
    /// "epsilon", "v_prediction" or "sample": what noise_pred means to a sampler.
    public let prediction: String
    /// Of the training steps, for the sampler's noise levels.
    public let alphasCumprod: [Double]
    public let packages: [String: Package]

    enum CodingKeys: String, CodingKey {
        case format
        case version
        case roles
        case deepcache
        case latents
        case prediction
        case alphasCumprod = "alphas_cumprod"
        case packages
    }

    public init(contentsOf folder: URL) throws {
        let data = try Data(contentsOf: folder.appendingPathComponent("info.json"))
        self = try JSONDecoder().decode(ExportInfo.self, from: data)
        guard format == "mlx-sd Core ML", (1...3).contains(version) else {
            throw DeepCacheProblem("\(folder.lastPathComponent)/info.json is not of the format mlx-sd Core ML 1 to 3")
        }
    }
}

/// Why a UNet cannot be loaded or run.
public struct DeepCacheProblem: LocalizedError {
    public let errorDescription: String?

    init(_ description: String) {
        errorDescription = description
    }
}

/// A UNet that stores its deep features: every `interval`-th evaluation is full, the others run its outer levels.
///
/// Counts evaluations, not timesteps, so that it suits samplers that evaluate twice a step. Use it from one task at a
/// time, and `reset()` it before each picture.
@available(iOS 16.2, macOS 13.1, *)
public final class DeepCacheUnet {
    public let info: ExportInfo
    /// Evaluations from one refresh to the next; 1 runs every evaluation in full.
    public let interval: Int

    private struct Stage {
        let model: MLModel
        let inputs: [String: ExportInfo.Port]
    }

    private let deep: [Stage]  // gives deep_feature, and noise_pred too where it is the whole UNet
    private let shallow: [Stage]
    private var deepFeatures: [Int: MLMultiArray] = [:]
    private var evaluations: [Int: Int] = [:]

    /// Loads compiled packages (.mlmodelc) and info.json from a folder; `size` chooses where there are several.
    public init(
        folder: URL, size: String? = nil, interval: Int = 3, computeUnits: MLComputeUnits = .all
    ) throws {
        guard interval >= 1 else {
            throw DeepCacheProblem("the DeepCache interval must be at least 1, not \(interval)")
        }
        let info = try ExportInfo(contentsOf: folder)
        let sizes = info.roles.keys.filter { $0 != "any" }.sorted()
        guard let label = size ?? sizes.first, let roles = info.roles[label], size != nil || sizes.count == 1 else {
            throw DeepCacheProblem("the packages are for \(sizes.joined(separator: ", ")): give one of these as size")
        }
        guard let full = roles["unet_deep"] ?? roles["unet"], let outer = roles["unet_shallow"] else {
            throw DeepCacheProblem("there is no UNet for DeepCache: export with --unet chunks or --unet functions")
        }
        self.info = info
        self.interval = interval
        deep = try DeepCacheUnet.load(full, of: info, from: folder, on: computeUnits)
        shallow = try DeepCacheUnet.load(outer, of: info, from: folder, on: computeUnits)
    }

    /// Forgets the deep features: call it before each picture.
    public func reset() {
        deepFeatures.removeAll()
        evaluations.removeAll()
    }

    /// Whether the next evaluation of a stream runs the whole UNet: then it reads all residuals of control networks,
    /// else those of the outer skips, which the packages `controlnet/deepcache/...Shallow` compute.
    public func refreshes(stream: Int = 0) -> Bool {
        evaluations[stream, default: 0] % interval == 0 || deepFeatures[stream] == nil
    }

    /// The UNet's prediction, float32 in the shape of the latents.
    ///
    /// - Parameters:
    ///   - latents: (batch, channels, height, width), scaled for the timestep where the sampler scales.
    ///   - timestep: of this evaluation; the same for the whole batch.
    ///   - hiddenStates: (batch, channels, 1, tokens); for a batch of two, the negative prompt's first.
    ///   - extra: the other inputs of SDXL, `time_ids` and `text_embeds`.
    ///   - residuals: of control networks, by the names of the UNet's inputs, scaled and added up; zeros for those that
    ///     are missing.
    ///   - stream: which of several evolving inputs this is, each with a cache of its own. With packages of batch 1,
    ///     0 for the negative prompt and 1 for the prompt; for several pictures at once, more.
    public func predictNoise(
        latents: MLMultiArray, timestep: Double, hiddenStates: MLMultiArray, extra: [String: MLMultiArray] = [:],
        residuals: [String: MLMultiArray] = [:], stream: Int = 0
    ) throws -> MLMultiArray {
        let evaluation = evaluations[stream, default: 0]
        let kept = refreshes(stream: stream) ? nil : deepFeatures[stream]
        let (noise, feature) = try evaluate(
            latents: latents, timestep: timestep, hiddenStates: hiddenStates, extra: extra, residuals: residuals,
            deepFeature: kept
        )
        deepFeatures[stream] = feature
        evaluations[stream] = evaluation + 1
        return noise
    }

    /// One evaluation, for callers that keep the deep features themselves, as a table of the kit orders it.
    ///
    /// - Parameters:
    ///   - residuals: of control networks, as `predictNoise` takes them.
    ///   - deepFeature: around which the outer levels run; nil runs the whole UNet.
    /// - Returns: the prediction, and the deep feature that it was made with.
    public func evaluate(
        latents: MLMultiArray, timestep: Double, hiddenStates: MLMultiArray, extra: [String: MLMultiArray] = [:],
        residuals: [String: MLMultiArray] = [:], deepFeature: MLMultiArray? = nil
    ) throws -> (noise: MLMultiArray, deepFeature: MLMultiArray?) {
        var features = extra.merging(residuals) { mine, _ in mine }.mapValues { MLFeatureValue(multiArray: $0) }
        features["sample"] = MLFeatureValue(multiArray: latents)
        features["encoder_hidden_states"] = MLFeatureValue(multiArray: hiddenStates)
        let times = try MLMultiArray(shape: [latents.shape.first ?? 1], dataType: .float32)
        for i in 0..<times.count {
            times[i] = NSNumber(value: timestep)
        }
        features["timestep"] = MLFeatureValue(multiArray: times)
        if let deepFeature {
            features["deep_feature"] = MLFeatureValue(multiArray: deepFeature)
        } else {
            try DeepCacheUnet.run(deep, &features)
        }
        if features["noise_pred"] == nil {
            try DeepCacheUnet.run(shallow, &features)
        }
        guard let noise = features["noise_pred"]?.multiArrayValue else {
            throw DeepCacheProblem("the packages gave no noise_pred")
        }
        return (noise, features["deep_feature"]?.multiArrayValue)
    }

    /// Compiles the packages of a folder into another and copies its other files: once, for example after a download.
    public static func compile(_ folder: URL, into target: URL) async throws {
        guard folder.standardizedFileURL != target.standardizedFileURL else {
            throw DeepCacheProblem("compile the packages into a folder of their own")
        }
        try FileManager.default.createDirectory(at: target, withIntermediateDirectories: true)
        let items = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        for item in items where item.pathExtension != "mlmodelc" {
            var compiled = item
            var name = item.lastPathComponent
            if item.pathExtension == "mlpackage" {
                compiled = try await MLModel.compileModel(at: item)
                name = item.deletingPathExtension().lastPathComponent + ".mlmodelc"
            }
            let place = target.appendingPathComponent(name)
            if FileManager.default.fileExists(atPath: place.path) {
                try FileManager.default.removeItem(at: place)
            }
            try FileManager.default.copyItem(at: compiled, to: place)
            if compiled != item {
                try FileManager.default.removeItem(at: compiled)
            }
        }
    }

    /// The packages of a role, in the order in which they run.
    private static func load(
        _ steps: [[String]], of info: ExportInfo, from folder: URL, on computeUnits: MLComputeUnits
    ) throws -> [Stage] {
        try steps.map { (step: [String]) throws -> Stage in
            guard step.count == 2, let function = info.packages[step[0]]?.functions[step[1]] else {
                throw DeepCacheProblem("info.json does not describe \(step.joined(separator: ":"))")
            }
            let configuration = MLModelConfiguration()
            configuration.computeUnits = computeUnits
            if step[1] != "main" {
                guard #available(iOS 18.0, macOS 15.0, *) else {
                    throw DeepCacheProblem("\(step[0]) has several functions, which takes iOS 18 or macOS 15")
                }
                configuration.functionName = step[1]
            }
            let url = folder.appendingPathComponent("\(step[0]).mlmodelc")
            return Stage(model: try MLModel(contentsOf: url, configuration: configuration), inputs: function.inputs)
        }
    }

    /// What the UNet takes where no control network acts; nil for an input that is no residual.
    private static func zeros(_ name: String, _ port: ExportInfo.Port) -> MLFeatureValue? {
        guard name.hasPrefix("additional_residual_") else { return nil }
        return MLFeatureValue(multiArray: MLMultiArray(MLShapedArray<Float32>(repeating: 0, shape: port.shape)))
    }

    /// Runs stages one after the other, each on the features so far, to which its outputs are added.
    private static func run(_ stages: [Stage], _ features: inout [String: MLFeatureValue]) throws {
        for stage in stages {
            var inputs: [String: MLFeatureValue] = [:]
            for (name, port) in stage.inputs {
                guard let value = features[name] ?? zeros(name, port), let array = value.multiArrayValue else {
                    throw DeepCacheProblem("the UNet takes \(name), which is missing")
                }
                let shape = array.shape.map { $0.intValue }
                guard shape == port.shape else {
                    throw DeepCacheProblem("the UNet takes \(name) of \(port.shape), not \(shape)")
                }
                inputs[name] = value
            }
            let provider = try MLDictionaryFeatureProvider(dictionary: inputs)
            let output = try autoreleasepool { try stage.model.prediction(from: provider) }
            for name in output.featureNames {
                features[name] = output.featureValue(for: name)
            }
        }
    }
}
