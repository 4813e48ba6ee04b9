import Foundation

/// Events from a task to a thread that waits for them; the task goes on when the thread has dealt with each.
final class Exchange<Event: Sendable, Output: Sendable>: @unchecked Sendable {
    private let condition = NSCondition()
    private var event: Event?
    private var waiting: CheckedContinuation<Void, Never>?
    private var outcome: Result<Output, any Error>?

    /// Hands over an event, and waits until it has been dealt with.
    func report(_ event: Event) async {
        await withCheckedContinuation { continuation in
            withLock { (self.event, waiting) = (event, continuation) }
        }
    }

    /// Ends the events.
    func finish(_ outcome: Result<Output, any Error>) {
        withLock { self.outcome = outcome }
    }

    /// Blocks until there is an event; nil after the last.
    func next() -> Event? {
        condition.lock()
        defer { condition.unlock() }
        while event == nil, outcome == nil { condition.wait() }
        defer { event = nil }
        return event
    }

    /// Lets the task go on that reported the event.
    func goOn() {
        var continuation: CheckedContinuation<Void, Never>?
        withLock { (continuation, waiting) = (waiting, nil) }
        continuation?.resume()
    }

    /// Returns what the task ended with; once `next` is nil.
    func result() throws -> Output {
        condition.lock()
        defer { condition.unlock() }
        guard let outcome else { throw CancellationError() }
        return try outcome.get()
    }

    private func withLock(_ body: () -> Void) {
        condition.lock()
        body()
        condition.broadcast()
        condition.unlock()
    }
}

/// Runs asynchronous work for a caller that waits.
enum Blocking {
    /// Blocks until the work is done.
    static func run(_ work: @escaping @Sendable () async throws -> Void) throws {
        let exchange = Exchange<Void, Void>()
        Task.detached(priority: .userInitiated) {
            do {
                try await work()
                exchange.finish(.success(()))
            } catch {
                exchange.finish(.failure(error))
            }
        }
        while exchange.next() != nil { exchange.goOn() }
        try exchange.result()
    }
}
