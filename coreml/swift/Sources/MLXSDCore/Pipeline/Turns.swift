/// Lets one generation run at a time: the others wait in the order in which they came, and leave when cancelled.
final class Turns: Sendable {
    private struct State {
        var isBusy = false
        var last = 0
        var waiting: [(number: Int, continuation: CheckedContinuation<Void, any Error>)] = []
        var cancelled: Set<Int> = []  // before they waited
    }

    private let state = Locked(State())

    /// Takes the turn where no one has it, and returns whether that was so.
    func takeIfFree() -> Bool {
        state.withLock { state in
            if state.isBusy { return false }
            state.isBusy = true
            return true
        }
    }

    /// Waits for the turn; throws CancellationError where the task is cancelled before it comes.
    func take() async throws {
        let number = state.withLock { state in
            state.last += 1
            return state.last
        }
        defer { state.withLock { _ = $0.cancelled.remove(number) } }
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                wait(number, continuation)
            }
        } onCancel: {
            cancel(number)
        }
    }

    /// Hands the turn to whoever has waited longest.
    func release() {
        let next = state.withLock { state -> CheckedContinuation<Void, any Error>? in
            if state.waiting.isEmpty {
                state.isBusy = false
                return nil
            }
            return state.waiting.removeFirst().continuation
        }
        next?.resume()
    }

    private func wait(_ number: Int, _ continuation: CheckedContinuation<Void, any Error>) {
        let result = state.withLock { state -> Result<Void, any Error>? in
            if state.cancelled.contains(number) { return .failure(CancellationError()) }
            if !state.isBusy {
                state.isBusy = true
                return .success(())
            }
            state.waiting.append((number, continuation))
            return nil
        }
        if let result { continuation.resume(with: result) }
    }

    private func cancel(_ number: Int) {
        let continuation = state.withLock { state -> CheckedContinuation<Void, any Error>? in
            if let place = state.waiting.firstIndex(where: { $0.number == number }) {
                return state.waiting.remove(at: place).continuation
            }
            state.cancelled.insert(number)
            return nil
        }
        continuation?.resume(throwing: CancellationError())
    }
}
