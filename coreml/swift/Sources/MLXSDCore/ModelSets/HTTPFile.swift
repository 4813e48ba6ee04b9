import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// Fetches one file over HTTP into a file on the disk, from where an earlier attempt ended.
final class HTTPFile: NSObject, URLSessionDataDelegate, @unchecked Sendable {
    private let url: URL
    private let file: URL
    private let bytes: Int
    private let progress: @Sendable (Int) -> Void
    private let lock = NSLock()
    private var handle: FileHandle?
    private var written: Int  // bytes in the file; `lock` guards it, for the session's threads are not the caller's
    private var problem: (any Error)?
    private var continuation: CheckedContinuation<Void, any Error>?

    /// bytes: that the file has. progress: is told how many are there.
    private init(_ url: URL, _ file: URL, _ bytes: Int, _ progress: @escaping @Sendable (Int) -> Void) {
        (self.url, self.file, self.bytes, self.progress) = (url, file, bytes, progress)
        written = KeptFolder.bytes(ofFile: file) ?? 0
    }

    private var length: Int {
        get { lock.withLock { written } }
        set { lock.withLock { written = newValue } }
    }

    /// Fetches a file; what is there already is the beginning of it. Throws one clear error; what came is kept.
    ///
    /// Returns whether the file continues an earlier attempt.
    @discardableResult
    static func fetch(
        _ url: URL, to file: URL, bytes: Int, configuration: URLSessionConfiguration,
        progress: @escaping @Sendable (Int) -> Void
    ) async throws -> Bool {
        let fetch = HTTPFile(url, file, bytes, progress)
        if fetch.length > bytes { try fetch.removeFile() }
        let start = fetch.length
        guard start < bytes || bytes == 0 else { return true }
        try await fetch.run(configuration)
        guard fetch.length == bytes else {
            throw DiffusionError(
                .files,
                "\(url.absoluteString) ended after \(fetch.length) of \(bytes) bytes; download again, which goes on there"
            )
        }
        return start > 0
    }

    private func removeFile() throws {
        do {
            try FileManager.default.removeItem(at: file)
            length = 0
        } catch {
            throw DiffusionError(.files, "\(file.path) cannot be replaced: \(error.localizedDescription)")
        }
    }

    private func run(_ configuration: URLSessionConfiguration) async throws {
        var request = URLRequest(url: url)
        request.cachePolicy = .reloadIgnoringLocalCacheData
        request.setValue("identity", forHTTPHeaderField: "Accept-Encoding")
        if length > 0 { request.setValue("bytes=\(length)-", forHTTPHeaderField: "Range") }
        let queue = OperationQueue()
        queue.maxConcurrentOperationCount = 1
        let session = URLSession(configuration: configuration, delegate: self, delegateQueue: queue)
        defer { session.finishTasksAndInvalidate() }
        let task = session.dataTask(with: request)
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                lock.withLock { self.continuation = continuation }
                task.resume()
                if Task.isCancelled { task.cancel() }
            }
        } onCancel: {
            task.cancel()
        }
    }

    func urlSession(
        _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
        completionHandler: @escaping @Sendable (URLSession.ResponseDisposition) -> Void
    ) {
        do {
            try begin(response)
            completionHandler(.allow)
        } catch {
            lock.withLock { problem = error }
            completionHandler(.cancel)
        }
    }

    /// Opens the file where the response continues it, or anew where the server ignored the range.
    private func begin(_ response: URLResponse) throws {
        let status = (response as? HTTPURLResponse)?.statusCode ?? 0
        switch status {
        case 206:
            let range = (response as? HTTPURLResponse)?.value(forHTTPHeaderField: "Content-Range") ?? ""
            guard range.hasPrefix("bytes \(length)-"), range.hasSuffix("/\(bytes)") || range.hasSuffix("/*") else {
                throw changed("answers the range from \(length) of \(bytes) bytes with \(range)")
            }
        case 200:
            if response.expectedContentLength >= 0, response.expectedContentLength != Int64(bytes) {
                throw changed("has \(response.expectedContentLength) bytes, not \(bytes)")
            }
            length = 0
        case 404, 410:
            throw DiffusionError(
                .files, "\(url.absoluteString) does not exist on the server (\(status)); check the address")
        case 416:
            throw changed("has no bytes from \(length) on")
        default:
            throw DiffusionError(
                .files, "\(url.absoluteString) cannot be fetched: the server answers \(status); try later")
        }
        do {
            try FileManager.default.createDirectory(
                at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
            if !FileManager.default.fileExists(atPath: file.path) {
                try Data().write(to: file)
            }
            let handle = try FileHandle(forWritingTo: file)
            try handle.truncate(atOffset: UInt64(length))
            try handle.seek(toOffset: UInt64(length))
            self.handle = handle
        } catch {
            throw unwritable(error)
        }
    }

    private func changed(_ words: String) -> DiffusionError {
        DiffusionError(.files, "\(url.absoluteString) \(words): it was changed on the server; download the set again")
    }

    private func unwritable(_ error: any Error) -> DiffusionError {
        DiffusionError(.files, "\(file.path) cannot be written: \(error.localizedDescription); free space, then go on")
    }

    func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        guard lock.withLock({ problem == nil }) else { return }
        do {
            guard length + data.count <= bytes else { throw changed("has more than \(bytes) bytes") }
            do {
                try handle?.write(contentsOf: data)
            } catch {
                throw unwritable(error)
            }
            length += data.count
            progress(length)
        } catch {
            lock.withLock { problem = error }
            dataTask.cancel()
        }
    }

    func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
        try? handle?.close()
        handle = nil
        let (continuation, problem) = lock.withLock {
            defer { self.continuation = nil }
            return (self.continuation, self.problem)
        }
        if let problem {
            continuation?.resume(throwing: problem)
        } else if let error = error as? URLError, error.code == .cancelled {
            continuation?.resume(throwing: CancellationError())
        } else if let error {
            continuation?.resume(
                throwing: DiffusionError(
                    .files,
                    "\(url.absoluteString): the connection ended after \(length) of \(bytes) bytes "
                        + "(\(error.localizedDescription)); download again, which goes on there"))
        } else {
            continuation?.resume()
        }
    }
}
