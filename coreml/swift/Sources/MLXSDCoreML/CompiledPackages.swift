#if canImport(CoreML)
    import CoreML
    import Foundation
    import MLXSDCore

    /// Compiles packages (.mlpackage) once and keeps the result (.mlmodelc), by the hash of the package's files.
    public actor CompiledPackages {
        private let folder: URL
        private var running: [String: Task<URL, any Error>] = [:]

        /// Keeps compiled packages in a folder; nil is Application Support, without a copy in backups.
        public init(folder: URL? = nil) throws {
            self.folder = try folder ?? KeptFolder.applicationSupport("compiled")
        }

        /// Returns the compiled package; compiles it where that was not done before, which may take minutes.
        ///
        /// files: those of the package by their paths in it, from info.json; where it lists none they are hashed.
        public func url(of package: URL, files: [String: ModelSetInfo.File]) async throws -> URL {
            let key = try KeptFolder.key(of: package, files: files)
            let name = package.deletingPathExtension().lastPathComponent
            let target = folder.appendingPathComponent(key).appendingPathComponent("\(name).mlmodelc")
            if FileManager.default.fileExists(atPath: target.path) { return target }
            let task =
                running[key]
                ?? Task { [folder] in
                    try await Self.compile(
                        package, to: folder.appendingPathComponent(key), name: target.lastPathComponent)
                    return target
                }
            running[key] = task
            defer { running[key] = nil }
            return try await task.value
        }

        private static func compile(_ package: URL, to target: URL, name: String) async throws {
            let result: URL
            do {
                result = try await MLModel.compileModel(at: package)
            } catch {
                throw DiffusionError(
                    .files, "\(package.path) cannot be compiled: \(error.localizedDescription); copy the set again")
            }
            try KeptFolder.fill(target) {
                try FileManager.default.moveItem(at: result, to: $0.appendingPathComponent(name))
            }
        }

        /// The bytes that all kept packages take.
        public var bytes: Int { KeptFolder.bytes(of: folder) }

        /// Removes all kept packages; they are compiled anew when they are needed.
        public func removeAll() throws {
            try KeptFolder.removeContents(of: folder)
        }
    }
#endif
