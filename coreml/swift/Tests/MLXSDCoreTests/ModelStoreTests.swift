import Foundation
import GoldenFiles
import MLXSDCore
import Testing

/// A set comes over HTTP whole and verified or not at all; interruptions go on, changes are found.
@Suite struct ModelStoreTests {
    /// A small set: the info.json of a golden one with other files.
    private static func files() throws -> [String: Data] {
        var files = ["vocab.json": Data("{}".utf8), "merges.txt": Data()]
        let info = try ModelSetInfo(folder: Goldens.url("recordings/deepcache"))
        for (number, name) in info.packages.keys.sorted().enumerated() {
            files["\(name).mlpackage/Data/a b.bin"] = Data((0..<50_000).map { UInt8(($0 * (number + 3)) % 251) })
        }
        return try files.merging(["info.json": information(files)]) { $1 }
    }

    private static func information(_ files: [String: Data]) throws -> Data {
        let data = try Data(contentsOf: Goldens.url("recordings/deepcache/info.json"))
        var object = try #require(JSONSerialization.jsonObject(with: data) as? [String: Any])
        object["files"] = files.filter { $0.key != "info.json" }.mapValues {
            ["bytes": $0.count, "sha256": SHA256.hex(of: $0)] as [String: Any]
        }
        return try JSONSerialization.data(withJSONObject: object)
    }

    /// What a test works with: a server, a store in a folder of its own, and the file that it watches.
    private struct Place {
        let server: LocalServer
        let store: ModelStore
        let files: [String: Data]
        let path = "UnetChunk1.mlpackage/Data/a b.bin"

        init() throws {
            files = try ModelStoreTests.files()
            server = try LocalServer(files: files)
            let folder = FileManager.default.temporaryDirectory.appendingPathComponent("store-\(UUID().uuidString)")
            store = try ModelStore(folder: folder)
        }

        func download() async throws { try await store.download(from: server.url, name: "tiny") }

        func message() async -> String {
            do {
                try await download()
                return "no error"
            } catch { return "\(error)" }
        }

        var installed: [String] { get async { await store.sets().map(\.name) } }

        func end() throws {
            server.stop()
            try FileManager.default.removeItem(at: store.folder)
        }
    }

    @Test func aSetComesWholeAndIsVerified() async throws {
        let place = try Place()
        let seen = Seen()
        let folder = try await place.store.download(from: place.server.url, name: "tiny") { seen.add($0) }
        let info = try ModelSetInfo(folder: folder)
        try info.verify(folder: folder)
        #expect(await place.installed == ["tiny"])
        #expect(seen.last?.bytes == info.bytes && seen.last?.total == info.bytes && seen.isRising)
        #expect(info.bytesByEntry["UnetChunk1.mlpackage"] == 50_000)
        #expect(try FileManager.default.contentsOfDirectory(atPath: place.store.folder.path) == ["tiny"])
        let requests = place.server.log.count
        try await place.download()
        #expect(place.server.log.count == requests, "a set that is there is not fetched again")
        try await place.store.delete("tiny")
        #expect(await place.installed.isEmpty)
        #expect(await place.store.bytes == 0)
        try place.end()
    }

    @Test func aCutConnectionGoesOnWhereItEnded() async throws {
        let place = try Place()
        place.server.set(place.path, .cuts(after: 20_000))
        #expect(await place.message().contains("of 50000 bytes"))
        #expect(await place.installed.isEmpty)
        place.server.set(place.path, .normal)
        try await place.download()
        let continued = place.server.log.filter { $0.hasPrefix("\(place.path) from ") }
        #expect(continued.count == 1, "\(place.server.log)")
        #expect(await place.installed == ["tiny"])
        try place.end()
    }

    @Test func aServerThatIgnoresRangesSendsTheWholeFile() async throws {
        let place = try Place()
        place.server.set(place.path, .cuts(after: 20_000))
        _ = await place.message()
        place.server.set(place.path, .ignoresRange)
        try await place.download()
        #expect(await place.installed == ["tiny"])
        try place.end()
    }

    @Test func aFileThatWasChangedOnTheServerIsNotMixed() async throws {
        let place = try Place()
        place.server.set(place.path, .cuts(after: 20_000))
        _ = await place.message()
        // The set is exported anew in between: the beginning that is there is of the earlier one.
        var files = place.files
        files[place.path] = Data((0..<50_000).map { UInt8($0 % 13) })
        place.server.replace(place.path, try #require(files[place.path]))
        place.server.replace("info.json", try Self.information(files))
        place.server.set(place.path, .normal)
        try await place.download()
        let folder = try place.store.url(of: "tiny")
        #expect(try Data(contentsOf: folder.appendingPathComponent(place.path)) == files[place.path])
        try place.end()
    }

    @Test func aFileOfAnotherContentIsRefused() async throws {
        let place = try Place()
        place.server.replace(place.path, Data((0..<50_000).map { UInt8($0 % 13) }))
        #expect(await place.message().contains("has another SHA-256"))
        place.server.replace(place.path, Data(count: 50_001))
        #expect(await place.message().contains("has 50001 bytes, not 50000"))
        place.server.replace(place.path, Data(count: 100))
        #expect(await place.message().contains("has 100 bytes, not 50000"))
        #expect(await place.installed.isEmpty)
        place.server.replace(place.path, try #require(place.files[place.path]))
        try await place.download()
        try place.end()
    }

    @Test func aFileThatIsNotThereIsSaid() async throws {
        let place = try Place()
        place.server.set(place.path, .answers(status: 404))
        #expect(await place.message().contains("does not exist on the server (404)"))
        place.server.set(place.path, .answers(status: 503))
        #expect(await place.message().contains("the server answers 503"))
        place.server.set("info.json", .answers(status: 404))
        #expect(await place.message().contains("the server answers 404"))
        place.server.replace("info.json", Data("{}".utf8))
        place.server.set("info.json", .normal)
        #expect(await place.message().contains("not of the format of a model set"))
        place.server.stop()
        #expect(await place.message().contains("cannot be fetched"))
        #expect(await place.installed.isEmpty)
        try FileManager.default.removeItem(at: place.store.folder)
    }

    @Test func aDiskThatCannotBeWrittenIsSaid() async throws {
        let place = try Place()
        let partial = place.store.folder.appendingPathComponent("tiny.partial")
        try FileManager.default.createDirectory(at: partial, withIntermediateDirectories: true)
        let blocked = partial.appendingPathComponent("UnetChunk1.mlpackage/Data")
        try FileManager.default.createDirectory(
            at: blocked.deletingLastPathComponent(), withIntermediateDirectories: true)
        // A link to nowhere where a folder has to be
        try FileManager.default.createSymbolicLink(atPath: blocked.path, withDestinationPath: "/dev/null/nothing")
        #expect(await place.message().contains("cannot be written"))
        #expect(await place.installed.isEmpty)
        try place.end()
    }

    @Test func cancellingStopsAndKeepsWhatCame() async throws {
        let place = try Place()
        let task = Task {
            try await place.store.download(from: place.server.url, name: "tiny") { _ in
                withUnsafeCurrentTask { $0?.cancel() }
            }
        }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
        #expect(await place.installed.isEmpty)
        try await place.download()
        try place.end()
    }

    @Test func verifyNamesTheFirstFileThatDiffers() async throws {
        let place = try Place()
        try await place.download()
        let folder = try place.store.url(of: "tiny")
        let info = try ModelSetInfo(folder: folder)
        let file = folder.appendingPathComponent(place.path)
        func message() -> String {
            do {
                try info.verify(folder: folder)
                return "no error"
            } catch { return "\(error)" }
        }
        var data = try Data(contentsOf: file)
        data[5] ^= 1
        try data.write(to: file)
        #expect(message().contains("a b.bin is damaged"))
        try data.dropLast().write(to: file)
        #expect(message().contains("has 49999 bytes, not the 50000 of its export"))
        try FileManager.default.removeItem(at: file)
        #expect(message().contains("a b.bin is missing"))
        try place.end()
    }

    @Test func namesThatAreNoFoldersAreRefused() async throws {
        let place = try Place()
        for name in ["", "../other", ".hidden", "a/b", "x.partial"] {
            #expect(throws: DiffusionError.self) { try place.store.url(of: name) }
        }
        try place.end()
    }
}

/// The progress that a test saw.
private final class Seen: @unchecked Sendable {
    private let lock = NSLock()
    private var all: [ModelStore.DownloadProgress] = []

    func add(_ progress: ModelStore.DownloadProgress) { lock.withLock { all.append(progress) } }
    var last: ModelStore.DownloadProgress? { lock.withLock { all.last } }
    var isRising: Bool { lock.withLock { zip(all, all.dropFirst()).allSatisfy { $0.bytes <= $1.bytes } } }
}
