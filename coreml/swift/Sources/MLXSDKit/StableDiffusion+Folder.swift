import Foundation
import MLXSDCore
import MLXSDCoreAI
import MLXSDCoreML

extension StableDiffusion {
    /// Opens a folder that `python -m coreml` wrote, with Core ML or Core AI as its info.json says.
    ///
    /// Networks are loaded when they are first run; `load()` does it before. Throws one `DiffusionError` for a folder that
    /// is no model set, of a newer version, or lacks a file.
    ///
    /// - Parameters:
    ///   - units: the processors of all networks; nil is what suits the set.
    ///   - reduceMemory: load each network when its turn comes, and free it after it.
    ///   - whenBusy: what a request does while another one runs.
    public convenience init(
        folder: URL, units: ComputeUnits? = nil, reduceMemory: Bool = false, whenBusy: BusyRule = .waits
    ) async throws {
        try self.init(opening: folder, units: units, reduceMemory: reduceMemory, whenBusy: whenBusy)
    }

    convenience init(opening folder: URL, units: ComputeUnits?, reduceMemory: Bool, whenBusy: BusyRule) throws {
        let info = try ModelSetInfo(folder: folder)
        let backend = try Self.backend(folder: folder, info: info, units: units)
        try self.init(backend: backend, info: info, folder: folder, reduceMemory: reduceMemory, whenBusy: whenBusy)
    }

    /// Returns what runs a folder's networks on some processors; nil is what suits the set.
    static func backend(folder: URL, info: ModelSetInfo, units: ComputeUnits?) throws -> any NetworkBackend {
        try info.isCoreAI
            ? CoreAINetworks.backend(folder: folder, info: info, units: units)
            : CoreMLNetworks.backend(folder: folder, info: info, units: units)
    }
}
