import Foundation
import GoldenFiles
import MLXSDCore
import Testing

/// Whatever ends a generation early, nothing goes on, and the next picture is whole.
@Suite struct CancellationTests {
    static let moments = 100

    /// Ways to leave.
    enum Way: CaseIterable, Sendable {
        case taskOfPicture, taskOfLoop, leavingLoop
    }

    @Test(arguments: Way.allCases) func leavesNothingRunning(way: Way) async throws {
        let recorded = try RecordedPicture("deepcache")
        let info = try ModelSetInfo(folder: recorded.folder)
        let backend = FormulaBackend(info, delay: .microseconds(300))
        var sd: StableDiffusion? = try recorded.pipeline(backend)
        let remaining = Remaining(try #require(sd))
        var random = SystemRandomNumberGenerator()
        let complete = try await sd?.picture(recorded.prompt, recorded.request)
        let callsOfPicture = backend.calls.count
        var early = 0
        for _ in 0..<Self.moments / Way.allCases.count + 1 {
            let before = backend.calls.count
            try await leave(
                way, #require(sd), recorded, after: .microseconds(Int.random(in: 0...12_000, using: &random)))
            // Work ends within the run of a network that is under way.
            try await wait { backend.running == 0 }
            let after = backend.calls.count
            try await Task.sleep(for: .milliseconds(2))
            #expect(backend.calls.count == after)
            if after - before < callsOfPicture { early += 1 }
        }
        #expect(early > Self.moments / Way.allCases.count / 4, "most of them are cancelled before the end")
        #expect(backend.most == 1)
        #expect(try await sd?.picture(recorded.prompt, recorded.request).image == complete?.image)
        #expect(backend.kept.isEmpty)
        sd = nil
        try await wait { remaining.sd == nil }
        #expect(remaining.sd == nil, "a task still holds the pipeline")
    }

    private func leave(_ way: Way, _ sd: StableDiffusion, _ recorded: RecordedPicture, after moment: Duration)
        async throws
    {
        switch way {
        case .taskOfPicture:
            let task = Task { _ = try await sd.picture(recorded.prompt, recorded.request) }
            try await Task.sleep(for: moment)
            task.cancel()
            do { try await task.value } catch is CancellationError {}
        case .taskOfLoop:
            let task = Task {
                for try await _ in sd.generate(recorded.prompt, recorded.request) {}
            }
            try await Task.sleep(for: moment)
            task.cancel()
            do { try await task.value } catch is CancellationError {}
        case .leavingLoop:
            let clock = ContinuousClock()
            let begin = clock.now
            for try await _ in sd.generate(recorded.prompt, recorded.request) where clock.now - begin > moment { break }
        }
    }

    /// A loop that is left after an event begins at most one more run of a network.
    @Test func leavingTheLoopStopsWithinOneRun() async throws {
        let recorded = try RecordedPicture("text_to_image")
        let backend = FormulaBackend(try ModelSetInfo(folder: recorded.folder), delay: .milliseconds(5))
        let sd = try recorded.pipeline(backend)
        var calls = 0
        for try await progress in sd.generate(recorded.prompt, recorded.request) where progress.evaluation == 2 {
            calls = backend.calls.count
            break
        }
        try await Task.sleep(for: .milliseconds(40))
        #expect(backend.calls.count <= calls + 1)
    }

    /// A task that is cancelled before it begins runs no network.
    @Test func cancelledBeforeItBegins() async throws {
        let recorded = try RecordedPicture("text_to_image")
        let backend = FormulaBackend(try ModelSetInfo(folder: recorded.folder))
        let sd = try recorded.pipeline(backend)
        let task = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            return try await sd.picture(recorded.prompt, recorded.request)
        }
        await #expect(throws: CancellationError.self) { try await task.value }
        #expect(backend.calls.isEmpty)
    }
}

/// A pipeline as long as anyone else holds it.
private final class Remaining {
    weak var sd: StableDiffusion?

    init(_ sd: StableDiffusion) { self.sd = sd }
}

/// Waits until a condition holds, at most two seconds.
func wait(for condition: () -> Bool) async throws {
    for _ in 0..<2000 where !condition() { try await Task.sleep(for: .milliseconds(1)) }
}
