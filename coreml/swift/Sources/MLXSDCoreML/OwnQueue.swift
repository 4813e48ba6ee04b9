import Dispatch

/// An actor's queue of its own: a prediction blocks its thread for seconds, which the shared pool must not.
final class OwnQueue: SerialExecutor {
    private let queue: DispatchQueue

    /// Makes a queue with a label.
    init(_ label: String) { queue = DispatchQueue(label: label, qos: .userInitiated) }

    func enqueue(_ job: UnownedJob) {
        queue.async { job.runSynchronously(on: self.asUnownedSerialExecutor()) }
    }

    func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }
}

/// Runs a block and frees at once what Apple's frameworks leave to the next turn of a run loop.
func pooled<Result>(_ body: () throws -> Result) rethrows -> Result {
    #if canImport(ObjectiveC)
        return try autoreleasepool(invoking: body)
    #else
        return try body()
    #endif
}
