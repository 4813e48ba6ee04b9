import Foundation
import GoldenFiles
import MLXSDCore
import Testing

/// One picture is made at a time, whatever the number of requests.
@Suite struct BusyTests {
    private func pipeline(_ rule: BusyRule) throws -> (StableDiffusion, FormulaBackend, RecordedPicture) {
        let recorded = try RecordedPicture("deepcache")
        let backend = FormulaBackend(try ModelSetInfo(folder: recorded.folder), delay: .microseconds(200))
        return (try recorded.pipeline(backend, whenBusy: rule), backend, recorded)
    }

    @Test func requestsWaitForTheirTurn() async throws {
        let (sd, backend, recorded) = try pipeline(.waits)
        let alone = try await sd.picture(recorded.prompt, recorded.request)
        let finished = Collected<RGBImage>()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    await finished.append(try await sd.picture(recorded.prompt, recorded.request).image)
                }
            }
            try await group.waitForAll()
        }
        let pictures = await finished.elements
        #expect(pictures.count == 8)
        #expect(pictures.allSatisfy { $0 == alone.image })
        #expect(backend.most == 1)
    }

    @Test func aWaitingRequestLeavesWhenCancelled() async throws {
        let (sd, backend, recorded) = try pipeline(.waits)
        let first = Task { try await sd.picture(recorded.prompt, recorded.request) }
        try await wait { backend.running == 1 }
        let second = Task { try await sd.picture("something else", recorded.request) }
        try await Task.sleep(for: .milliseconds(1))
        second.cancel()
        await #expect(throws: CancellationError.self) { try await second.value }
        _ = try await first.value
        _ = try await sd.picture(recorded.prompt, recorded.request)  // the turn is free
    }

    @Test func orABusyPipelineThrowsOneError() async throws {
        let (sd, backend, recorded) = try pipeline(.throwsError)
        let first = Task { try await sd.picture(recorded.prompt, recorded.request) }
        try await wait { backend.running == 1 }
        do {
            _ = try await sd.picture(recorded.prompt, recorded.request)
            Issue.record("no error")
        } catch let error as DiffusionError {
            #expect(error.kind == .request)
            #expect(error.description.contains("a picture is being made"))
        }
        _ = try await first.value
        _ = try await sd.picture(recorded.prompt, recorded.request)
    }

    @Test func freeingWaitsForThePicture() async throws {
        let (sd, backend, recorded) = try pipeline(.waits)
        let first = Task { try await sd.picture(recorded.prompt, recorded.request) }
        try await wait { backend.running == 1 }
        await sd.unload()
        #expect(backend.running == 0)
        _ = try await first.value
    }
}
