import Foundation
import MLXSDCore

extension SelfCheck {
    /// Makes the golden picture of a model set's kit on the CPU and on the processors that an app uses.
    ///
    /// It loads every network twice, one set after the other, and takes as long as two pictures do, of which the one on
    /// the CPU is slow.
    ///
    /// - Parameters:
    ///   - folder: of a set that was exported with --kit or --swift.
    ///   - units: the processors that the app uses; nil is what suits the set.
    ///   - progress: is told the share that is done, from 0 to 1.
    public static func run(
        folder: URL, units: ComputeUnits? = nil, progress: @escaping @Sendable (Double) -> Void = { _ in }
    ) async throws -> SelfCheckComparison {
        let info = try ModelSetInfo(folder: folder)
        let check = try SelfCheck(folder: folder, info: info)
        return try await check.run(
            units: units ?? .suited(to: info),
            backend: { try StableDiffusion.backend(folder: folder, info: info, units: $0) }, progress: progress)
    }
}

extension SelfCheckComparison {
    /// Both reports as lines of text, for a person or an issue.
    public var text: String {
        (cpu.lines + [""] + chosen.lines).joined(separator: "\n")
    }
}
