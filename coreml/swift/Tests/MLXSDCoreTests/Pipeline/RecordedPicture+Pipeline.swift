import GoldenFiles
import MLXSDCore

extension RecordedPicture {
    /// Returns networks that replay the recording.
    func backend(tolerance: Float = 1e-4) throws -> RecordedBackend {
        try RecordedBackend(folder: folder, tolerance: tolerance)
    }

    /// Returns the pipeline over networks.
    func pipeline(
        _ backend: some NetworkBackend, reduceMemory: Bool = false, whenBusy: BusyRule = .waits
    ) throws -> StableDiffusion {
        try StableDiffusion(
            backend: backend, info: ModelSetInfo(folder: folder), folder: folder, reduceMemory: reduceMemory,
            whenBusy: whenBusy)
    }
}

/// A list that several tasks append to.
actor Collected<Element: Sendable> {
    private(set) var elements: [Element] = []

    func append(_ element: Element) { elements.append(element) }
}
