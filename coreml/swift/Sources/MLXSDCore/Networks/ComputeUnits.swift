/// The processors that networks may run on.
public enum ComputeUnits: String, Codable, Sendable, CaseIterable {
    case cpuOnly
    case cpuAndGPU
    case cpuAndNeuralEngine
    case all

    /// Returns what suits a set: the Neural Engine where attention was exported for it, else the GPU.
    public static func suited(to info: ModelSetInfo) -> ComputeUnits {
        !info.isCoreAI && info.options.attention == "split-einsum" ? .cpuAndNeuralEngine : .cpuAndGPU
    }
}
