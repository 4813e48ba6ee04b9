import Foundation

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A small HTTP server on this machine, that misbehaves as it is told.
final class LocalServer: @unchecked Sendable {
    enum Behaviour: Sendable {
        case normal
        case ignoresRange
        /// Ends the connection after so many bytes of every body.
        case cuts(after: Int)
        case answers(status: Int)
    }

    private let lock = NSLock()
    private var files: [String: Data] = [:]
    private var behaviours: [String: Behaviour] = [:]
    private var requests: [String] = []
    private let listener: Int32
    let port: UInt16

    init(files: [String: Data]) throws {
        self.files = files
        #if canImport(Glibc)
            let stream = Int32(SOCK_STREAM.rawValue)
        #else
            let stream = SOCK_STREAM
        #endif
        let listener = socket(AF_INET, stream, 0)
        self.listener = listener
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(listener, address, length) == 0 && getsockname(listener, address, &length) == 0
            }
        }
        guard bound, listen(listener, 16) == 0 else { throw CocoaError(.fileReadUnknown) }
        port = UInt16(bigEndian: address.sin_port)
        let thread = Thread { [self] in
            while true {
                let connection = accept(listener, nil, nil)
                if connection < 0 { return }
                answer(connection)
                close(connection)
            }
        }
        thread.start()
    }

    func stop() {
        shutdown(listener, Int32(2))
        close(listener)
    }

    var url: URL { URL(string: "http://127.0.0.1:\(port)/set")! }

    /// The requests so far, as "PATH" or "PATH from BYTE".
    var log: [String] { lock.withLock { requests } }

    func set(_ path: String, _ behaviour: Behaviour) { lock.withLock { behaviours[path] = behaviour } }
    func replace(_ path: String, _ data: Data) { lock.withLock { files[path] = data } }

    private func answer(_ connection: Int32) {
        var text = ""
        var buffer = [UInt8](repeating: 0, count: 4096)
        while !text.contains("\r\n\r\n") {
            let count = recv(connection, &buffer, buffer.count, 0)
            guard count > 0 else { return }
            text += String(decoding: buffer[..<count], as: UTF8.self)
        }
        let lines = text.components(separatedBy: "\r\n")
        let path = String(lines[0].split(separator: " ")[1].dropFirst("/set/".count)).removingPercentEncoding ?? ""
        let range = lines.first { $0.lowercased().hasPrefix("range: bytes=") }?
            .components(separatedBy: "=")[1].components(separatedBy: "-")[0]
        let start = range.flatMap { Int($0) } ?? 0
        let (data, behaviour) = lock.withLock {
            requests.append(start > 0 ? "\(path) from \(start)" : path)
            return (files[path], behaviours[path] ?? .normal)
        }
        guard let data else { return send(connection, "404 Not Found", [], Data()) }
        switch behaviour {
        case .answers(let status): send(connection, "\(status) No", [], Data())
        case .ignoresRange: send(connection, "200 OK", ["Content-Length: \(data.count)"], data)
        case .normal, .cuts:
            let body = data.dropFirst(min(start, data.count))
            let range = ["Content-Range: bytes \(start)-\(data.count - 1)/\(data.count)"]
            var sent = Data(body)
            if case .cuts(let count) = behaviour { sent = sent.prefix(count) }
            send(
                connection, start > 0 ? "206 Partial Content" : "200 OK",
                ["Content-Length: \(body.count)"] + (start > 0 ? range : []), sent)
        }
    }

    private func send(_ connection: Int32, _ status: String, _ headers: [String], _ body: Data) {
        let length = headers.isEmpty ? ["Content-Length: 0"] : headers
        let head = (["HTTP/1.1 \(status)", "Connection: close"] + length).joined(separator: "\r\n") + "\r\n\r\n"
        let bytes = Array(head.utf8) + Array(body)
        var sent = 0
        while sent < bytes.count {
            #if canImport(Glibc)
                let flags = Int32(MSG_NOSIGNAL)
            #else
                let flags: Int32 = 0
            #endif
            let count = bytes[sent...].withUnsafeBytes { sendBytes(connection, $0.baseAddress, $0.count, flags) }
            guard count > 0 else { return }
            sent += count
        }
    }
}

private func sendBytes(_ connection: Int32, _ bytes: UnsafeRawPointer?, _ count: Int, _ flags: Int32) -> Int {
    #if canImport(Glibc)
        Glibc.send(connection, bytes, count, flags)
    #else
        Darwin.send(connection, bytes, count, flags)
    #endif
}
