import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// A folder of model sets: fetched over HTTP, verified, and there as a whole or not at all.
///
/// A set is fetched into `NAME.partial` beside its place. Interrupted, it goes on from there; the folder gets its name
/// when every file is verified. Nothing of the store is in backups.
public actor ModelStore {
    /// How far a download is.
    public struct DownloadProgress: Sendable, Equatable {
        public let bytes: Int
        public let total: Int
        /// The path in the set of the file that is fetched or verified.
        public let file: String
    }

    /// A set in the store.
    public struct InstalledSet: Sendable {
        public let name: String
        public let folder: URL
        public let info: ModelSetInfo
        /// That the files of its folder take.
        public let bytes: Int
    }

    public nonisolated let folder: URL
    private let configuration: URLSessionConfiguration
    private var running: Set<String> = []

    /// Keeps sets in a folder; nil is Application Support.
    ///
    /// configuration: of the connections, for example whether they may be cellular.
    public init(folder: URL? = nil, configuration: URLSessionConfiguration = .ephemeral) throws {
        self.folder = try folder.map { try KeptFolder.make($0) } ?? KeptFolder.applicationSupport("sets")
        self.configuration = configuration
    }

    /// Returns where a set is, or would be; throws for what is no name of a folder.
    public nonisolated func url(of name: String) throws -> URL {
        guard !name.isEmpty, !name.contains("/"), !name.hasPrefix("."), !name.hasSuffix(".partial") else {
            throw DiffusionError(.request, "\(name) is no name of a model set; use letters, digits, - and _")
        }
        return folder.appendingPathComponent(name)
    }

    /// Returns the sets in the store by name; folders that hold no set are left out.
    public func sets() -> [InstalledSet] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        return names.sorted().compactMap { name in
            guard let url = try? url(of: name), let info = try? ModelSetInfo(folder: url) else { return nil }
            return InstalledSet(name: name, folder: url, info: info, bytes: KeptFolder.bytes(of: url))
        }
    }

    /// The bytes of all sets and of downloads that are not finished.
    public var bytes: Int { KeptFolder.bytes(of: folder) }

    /// Removes a set, and what an unfinished download of it left; throws where a download of it runs.
    public func delete(_ name: String) throws {
        let url = try url(of: name)
        guard !running.contains(name) else {
            throw DiffusionError(.request, "\(name) is being downloaded; cancel that first")
        }
        for path in [url, url.appendingPathExtension("partial")] {
            guard FileManager.default.fileExists(atPath: path.path) else { continue }
            do {
                try FileManager.default.removeItem(at: path)
            } catch {
                throw DiffusionError(.files, "\(path.path) cannot be removed: \(error.localizedDescription)")
            }
        }
    }

    /// Fetches a set, or the rest of it, and returns its folder; one that is there already is returned as it is.
    ///
    /// - Parameters:
    ///   - address: of the folder that holds info.json; the paths of `files` in it are below this address.
    ///   - name: that the set gets in the store.
    ///
    /// Throws one clear error; what was fetched stays for the next attempt, unless it was changed on the server. Throws
    /// CancellationError where the task is cancelled.
    @discardableResult
    public func download(
        from address: URL, name: String, progress: @escaping @Sendable (DownloadProgress) -> Void = { _ in }
    ) async throws -> URL {
        let target = try url(of: name)
        if FileManager.default.fileExists(atPath: target.path) { return target }
        guard running.insert(name).inserted else {
            throw DiffusionError(.request, "\(name) is being downloaded already; wait for that, or cancel it")
        }
        defer { running.remove(name) }
        let partial = try KeptFolder.make(target.appendingPathExtension("partial"))
        let info = try await fetchInfo(from: address, to: partial)
        try dropChanged(in: partial, info)
        try checkSpace(for: info, in: partial)
        var done = 0
        for (path, file) in info.files.sorted(by: { $0.key < $1.key }) {
            let before = done
            let total = info.bytes
            try await fetch(path, file, from: address, to: partial) {
                progress(DownloadProgress(bytes: before + $0, total: total, file: path))
            }
            done += file.bytes
            progress(DownloadProgress(bytes: done, total: total, file: path))
        }
        try Task.checkCancellation()
        try info.checkLengths(in: partial)  // each file was hashed when it came
        try info.checkPackages(in: partial)
        do {
            try FileManager.default.moveItem(at: partial, to: target)
        } catch {
            throw DiffusionError(.files, "\(target.path) cannot be made: \(error.localizedDescription)")
        }
        return target
    }

    private func fetchInfo(from address: URL, to partial: URL) async throws -> ModelSetInfo {
        let url = address.appendingPathComponent("info.json")
        let data = try await fetchWhole(url)
        let info = try ModelSetInfo(json: data, path: url.absoluteString)
        guard !info.files.isEmpty else {
            throw DiffusionError(.files, "\(url.absoluteString) lists no files to fetch; export the set again")
        }
        do {
            try data.write(to: partial.appendingPathComponent("info.json"), options: .atomic)
        } catch {
            throw DiffusionError(.files, "\(partial.path) cannot be written: \(error.localizedDescription)")
        }
        return info
    }

    private func fetchWhole(_ url: URL) async throws -> Data {
        let session = URLSession(configuration: configuration)
        defer { session.finishTasksAndInvalidate() }
        let data: Data
        let response: URLResponse
        do {
            (data, response) = try await session.data(from: url)
        } catch let error as URLError where error.code == .cancelled {
            throw CancellationError()
        } catch {
            throw DiffusionError(
                .files, "\(url.absoluteString) cannot be fetched: \(error.localizedDescription); check the connection")
        }
        let status = (response as? HTTPURLResponse)?.statusCode ?? 0
        guard status == 200 else {
            throw DiffusionError(
                .files, "\(url.absoluteString) cannot be fetched: the server answers \(status); check the address")
        }
        return data
    }

    /// Removes files of an earlier attempt that the set does not list, or lists with another content.
    private func dropChanged(in partial: URL, _ info: ModelSetInfo) throws {
        let record = partial.appendingPathComponent("files.json")
        let before = (try? Data(contentsOf: record)).flatMap {
            try? JSONDecoder().decode([String: ModelSetInfo.File].self, from: $0)
        }
        do {
            for path in try KeptFolder.paths(in: partial)
            where path != "info.json" && (info.files[path] == nil || before?[path] != info.files[path]) {
                try FileManager.default.removeItem(at: partial.appendingPathComponent(path))
            }
            try JSONEncoder().encode(info.files).write(to: record, options: .atomic)
        } catch {
            throw DiffusionError(.files, "\(partial.path) cannot be written: \(error.localizedDescription)")
        }
    }

    private func checkSpace(for info: ModelSetInfo, in partial: URL) throws {
        let attributes = try? FileManager.default.attributesOfFileSystem(forPath: partial.path)
        guard let free = (attributes?[.systemFreeSize] as? NSNumber)?.intValue else { return }
        let needed = info.bytes - KeptFolder.bytes(of: partial)
        guard needed > free else { return }
        throw DiffusionError(
            .files,
            "the set needs \(Self.megabytes(needed)) more, and \(Self.megabytes(free)) are free; make room first")
    }

    static func megabytes(_ bytes: Int) -> String { "\((bytes + 999_999) / 1_000_000) MB" }

    /// Fetches a file and verifies it; one that goes on from an earlier attempt and differs is fetched once more.
    private func fetch(
        _ path: String, _ file: ModelSetInfo.File, from address: URL, to partial: URL,
        progress: @escaping @Sendable (Int) -> Void
    ) async throws {
        let url = path.split(separator: "/").reduce(address) { $0.appendingPathComponent(String($1)) }
        let target = partial.appendingPathComponent(path)
        if KeptFolder.bytes(ofFile: target) == file.bytes {
            if try SHA256.hex(of: target) == file.sha256 { return }
            try? FileManager.default.removeItem(at: target)
        }
        for attempt in 0..<2 {
            let isContinued = try await HTTPFile.fetch(
                url, to: target, bytes: file.bytes, configuration: configuration, progress: progress)
            if try SHA256.hex(of: target) == file.sha256 { return }
            try? FileManager.default.removeItem(at: target)
            if !isContinued || attempt == 1 { break }
        }
        throw DiffusionError(
            .files,
            "\(url.absoluteString) has another SHA-256 than info.json says: it was changed on the server; download the set "
                + "again")
    }
}
