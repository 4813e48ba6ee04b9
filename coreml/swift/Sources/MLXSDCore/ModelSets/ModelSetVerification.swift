import Foundation

extension ModelSetInfo {
    /// The bytes of all files that the set lists.
    public var bytes: Int { files.values.reduce(0) { $0 + $1.bytes } }

    /// Returns the bytes of the set's files by package or by the name of the file or folder that they are in.
    public var bytesByEntry: [String: Int] {
        files.reduce(into: [:]) { sizes, entry in
            sizes[String(entry.key.prefix { $0 != "/" }), default: 0] += entry.value.bytes
        }
    }

    /// Compares every file of a folder with its length and SHA-256 in `files`; throws for the first that differs.
    ///
    /// progress: is told the bytes that were compared and those of the set. Sets of version 1 list no files: then only
    /// their packages are looked for. Throws CancellationError where the task is cancelled.
    public func verify(folder: URL, progress: (_ bytes: Int, _ total: Int) -> Void = { _, _ in }) throws {
        try checkLengths(in: folder)
        var done = 0
        for (name, file) in files.sorted(by: { $0.key < $1.key }) {
            let path = folder.appendingPathComponent(name)
            guard try SHA256.hex(of: path) == file.sha256 else {
                throw DiffusionError(
                    .files, "\(path.path) is damaged: its SHA-256 is not that of its export; \(Self.again)")
            }
            done += file.bytes
            progress(done, bytes)
        }
        try checkPackages(in: folder)
    }

    private static let again = "copy it again, or export again"

    /// Throws for the first file of `files` that is missing in a folder or has another length.
    func checkLengths(in folder: URL) throws {
        for (name, file) in files.sorted(by: { $0.key < $1.key }) {
            let path = folder.appendingPathComponent(name)
            guard let bytes = KeptFolder.bytes(ofFile: path) else {
                throw DiffusionError(.files, "\(path.path) is missing; \(Self.again)")
            }
            guard bytes == file.bytes else {
                throw DiffusionError(
                    .files, "\(path.path) has \(bytes) bytes, not the \(file.bytes) of its export; \(Self.again)")
            }
        }
    }

    /// Throws for the first package that is not in a folder.
    func checkPackages(in folder: URL) throws {
        let endings = isCoreAI ? ["aimodel"] : ["mlpackage", "mlmodelc"]
        for name in packages.keys.sorted() {
            let paths = endings.map { folder.appendingPathComponent("\(name).\($0)").path }
            guard paths.contains(where: FileManager.default.fileExists) else {
                throw DiffusionError(.files, "\(paths[0]) is missing; \(Self.again)")
            }
        }
    }
}
