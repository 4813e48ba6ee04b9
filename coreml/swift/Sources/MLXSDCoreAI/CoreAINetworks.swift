import Foundation
import MLXSDCore

/// Makes the back end of Core AI, also where this is compiled without it.
public enum CoreAINetworks {
    /// Returns what runs the assets of a folder; throws where there is no Core AI.
    public static func backend(
        folder: URL, info: ModelSetInfo, units: ComputeUnits? = nil
    ) throws -> any NetworkBackend {
        #if canImport(CoreAI)
            if #available(iOS 27.0, macOS 27.0, tvOS 27.0, watchOS 27.0, visionOS 27.0, *) {
                return try CoreAIBackend(folder: folder, info: info, units: units)
            }
        #endif
        throw DiffusionError(
            .files, "\(folder.path) is a set for Core AI, which needs iOS 27 or macOS 27; export one for Core ML")
    }
}
