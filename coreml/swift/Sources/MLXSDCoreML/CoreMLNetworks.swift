import Foundation
import MLXSDCore

/// Makes the back end of Core ML, also where this is compiled without it.
public enum CoreMLNetworks {
    /// Returns what runs the packages of a folder; throws where there is no Core ML.
    public static func backend(
        folder: URL, info: ModelSetInfo, units: ComputeUnits? = nil
    ) throws -> any NetworkBackend {
        #if canImport(CoreML)
            return try CoreMLBackend(folder: folder, info: info, units: units)
        #else
            throw DiffusionError(.files, "\(folder.path) is a set for Core ML, which this system does not have")
        #endif
    }
}
