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
        try integers(path, as: UInt32.self).map(Float.init(bitPattern:))
    }

    /// Reads a golden file of whole numbers, or of the bits of others, in little-endian order.
    public static func integers<T: FixedWidthInteger & BitwiseCopyable>(
        _ path: String, as type: T.Type = T.self
    ) throws -> [T] {
        let bytes = try data(path)
        let size = MemoryLayout<T>.size
        guard bytes.count % size == 0 else {
            throw Missing(description: "\(path) has \(bytes.count) bytes, which are not numbers of \(size) bytes")
        }
        return bytes.withUnsafeBytes { buffer in
            stride(from: 0, to: buffer.count, by: size).map {
                T(littleEndian: buffer.loadUnaligned(fromByteOffset: $0, as: type))
            }
        }
    }
}
