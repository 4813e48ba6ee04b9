import Foundation
import GoldenFiles
import MLXSDCore
import MLXSDCoreAI
import MLXSDCoreML
import StandInReplay
import Testing

/// Every call that Python made of the networks of a set, made anew of the back ends: shapes, types, strides and rounding
/// of all inputs are checked by what stands in for Apple's frameworks.
@Suite struct BackendReplayTests {
    static let coreML = [
        "text_to_image", "deepcache", "image_to_image", "inpainting_network", "deepcache_forecast", "batch_1",
        "functions", "halves", "sdxl_deepcache", "sd2v", "control_deepcache", "control_unused", "controls",
        "unguided",
    ]
    static let coreAI = ["core_ai", "core_ai_deepcache", "core_ai_forecast", "core_ai_refresh", "core_ai_control"]

    static func backend(_ recorded: RecordedCase) throws -> any NetworkBackend {
        recorded.info.isCoreAI
            ? try CoreAIBackend(folder: recorded.folder, info: recorded.info)
            : try CoreMLBackend(folder: recorded.folder, info: recorded.info)
    }

    @Test(arguments: coreML + coreAI) func outputsAreThoseOfTheRecording(name: String) async throws {
        let recorded = try RecordedCase(name)
        let backend = try Self.backend(recorded)
        var features: [(key: FeatureKey, values: [Float])] = []
        for (index, call) in recorded.calls.enumerated() {
            let (first, last) = (call[0], call[call.count - 1])
            let ports = recorded.info.inputs(of: first.role, size: first.size)
            var inputs: [String: Tensor] = [:]
            for run in call {
                for (port, entry) in run.inputs where ports[port] != nil && port != "deep_feature" {
                    let tensor = recorded.tensor(entry)
                    let isUnused = port.hasPrefix("additional_residual_") && tensor.values.allSatisfy { $0 == 0 }
                    if !isUnused { inputs[port] = tensor }  // those that are left out are zeros
                }
            }
            var weighted: [WeightedFeature] = []
            if let port = first.inputs["deep_feature"], first.role != "unet_refresh" {
                weighted = try weights(of: recorded.tensor(port).values, in: features)
            }
            let deep = last.outputs["deep_feature"]
            let key = FeatureKey(evaluation: index)
            let role = first.role == "unet_refresh" ? "unet_full" : first.role
            let outputs = try await backend.run(
                role, size: first.size, inputs: inputs, deepFeature: weighted, keepAs: deep == nil ? nil : key)
            if let deep { features.append((key, recorded.tensor(deep).values)) }
            let expected = last.outputs.filter { $0.key != "deep_feature" }
            #expect(Set(outputs.keys) == Set(expected.keys))
            for (port, entry) in expected {
                let tensor = try #require(outputs[port])
                #expect(tensor.shape == entry.shape)
                #expect(distance(tensor.values, recorded.tensor(entry).values) == 0, "\(name), \(first.role), \(port)")
            }
        }
    }

    /// Returns the kept feature with these numbers, or the weights of the last two whose sum they are.
    private func weights(
        of values: [Float], in features: [(key: FeatureKey, values: [Float])]
    ) throws -> [WeightedFeature] {
        if let same = features.last(where: { $0.values == values }) {
            return [WeightedFeature(key: same.key, weight: 1)]
        }
        let (last, before) = (features[features.count - 1], features[features.count - 2])
        // values = last + share * (last - before): the share in the middle of the least squares
        var (product, square): (Double, Double) = (0, 0)
        for index in values.indices {
            let step = Double(last.values[index] - before.values[index])
            product += Double(values[index] - last.values[index]) * step
            square += step * step
        }
        let share = Float(product / square)
        return [
            WeightedFeature(key: last.key, weight: 1 + share), WeightedFeature(key: before.key, weight: -share),
        ]
    }
}
