import Foundation

/// Golden files that `python -m tests.support.swift_goldens FOLDER` writes; MLXSD_GOLDENS names that folder.
public enum Goldens {
    /// Says how to get golden files.
    public struct Missing: Error, CustomStringConvertible {
        public let description: String
    }

    /// Finds a golden file or folder by its path inside the folder of golden files.
    public static func url(_ path: String) throws -> URL {
        guard let folder = ProcessInfo.processInfo.environment["MLXSD_GOLDENS"], !folder.isEmpty else {
            throw Missing(
                description: "MLXSD_GOLDENS is not set; write the files with `python -m tests.support.swift_goldens "
                    + "FOLDER` and set it to FOLDER")
        }
        let file = URL(fileURLWithPath: folder, isDirectory: true).appendingPathComponent(path)
        guard FileManager.default.fileExists(atPath: file.path) else {
            throw Missing(
                description: "\(file.path) does not exist; `python -m tests.support.swift_goldens FOLDER` writes it")
        }
        return file
    }

    /// Reads a golden file of bytes.
    public static func data(_ path: String) throws -> Data {
        try Data(contentsOf: url(path))
    }

    /// Decodes a golden file of JSON, for example `try Goldens.json("text/tiny.json", as: [Case].self)`.
    public static func json<T: Decodable>(_ path: String, as type: T.Type = T.self) throws -> T {
        try JSONDecoder().decode(T.self, from: data(path))
    }

    /// Reads a golden file of float32 numbers in little-endian order.
    public static func floats(_ path: String) throws -> [Float] {
        let bytes = try data(path)
        guard bytes.count % 4 == 0 else {
            throw Missing(description: "\(path) has \(bytes.count) bytes, which are not float32 numbers")
        }
        return bytes.withUnsafeBytes { buffer in
            (0..<buffer.count / 4).map { index in
                let bits = buffer.loadUnaligned(fromByteOffset: 4 * index, as: UInt32.self)
                return Float(bitPattern: UInt32(littleEndian: bits))
            }
        }
    }
}
