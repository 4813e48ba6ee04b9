// Apple's own initializer takes a type of Core ML, which Linux does not have, so that this file is not compiled there.
#if canImport(ObjectiveC)
    import CoreML
    import Foundation
    import MLXSDCore

    extension StableDiffusionPipeline {
        /// Opens a folder that `python -m coreml` wrote; of the configuration the compute units count.
        public init(
            resourcesAt baseURL: URL, controlNet: [String] = [], configuration: MLModelConfiguration,
            disableSafety: Bool = false, reduceMemory: Bool = false
        ) throws {
            let units: ComputeUnits
            switch configuration.computeUnits {
            case .cpuOnly: units = .cpuOnly
            case .cpuAndGPU: units = .cpuAndGPU
            case .cpuAndNeuralEngine: units = .cpuAndNeuralEngine
            default: units = .all
            }
            try self.init(
                resourcesAt: baseURL, controlNet: controlNet, configuration: units, disableSafety: disableSafety,
                reduceMemory: reduceMemory)
        }
    }
#endif
