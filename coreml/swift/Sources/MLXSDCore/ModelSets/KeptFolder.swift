import Foundation

/// Folders that are there with all of their files, or not at all.
public enum KeptFolder {
    /// Returns a folder in Application Support that is in no backup; makes it where it is missing.
    public static func applicationSupport(_ name: String) throws -> URL {
        do {
            let home = try FileManager.default.url(
                for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            return try make(home.appendingPathComponent("mlx-sd").appendingPathComponent(name))
        } catch let error as DiffusionError {
            throw error
        } catch {
            throw DiffusionError(.files, "Application Support cannot be used: \(error.localizedDescription)")
        }
    }

    /// Makes a folder that is in no backup, where it is missing; returns it.
    @discardableResult
    public static func make(_ folder: URL) throws -> URL {
        do {
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            var values = URLResourceValues()
            var url = folder
            values.isExcludedFromBackup = true
            try url.setResourceValues(values)
            return folder
        } catch {
            throw DiffusionError(.files, "\(folder.path) cannot be made: \(error.localizedDescription)")
        }
    }

    /// Fills a folder beside its place, and moves it there when it has everything; what was there is replaced.
    public static func fill(_ target: URL, with write: (URL) throws -> Void) throws {
        let partial = target.appendingPathExtension("partial-\(UUID().uuidString)")
        do {
            try make(partial)
            try write(partial)
            try? FileManager.default.removeItem(at: target)
            try FileManager.default.moveItem(at: partial, to: target)
        } catch {
            try? FileManager.default.removeItem(at: partial)
            if let error = error as? DiffusionError { throw error }
            throw DiffusionError(.files, "\(target.path) cannot be written: \(error.localizedDescription)")
        }
    }

    /// Returns a name for a folder's content: a SHA-256 over the paths and the SHA-256 of its files.
    ///
    /// files: from info.json; where it lists none, those in the folder are hashed.
    public static func key(of folder: URL, files: [String: ModelSetInfo.File]) throws -> String {
        var hash = SHA256()
        func add(_ path: String, _ sha256: String) { hash.update(Data("\(path) \(sha256)\n".utf8)) }
        if files.isEmpty {
            for path in try paths(in: folder) { add(path, try SHA256.hex(of: folder.appendingPathComponent(path))) }
        } else {
            for (path, file) in files.sorted(by: { $0.key < $1.key }) { add(path, file.sha256) }
        }
        return hash.hex
    }

    /// Returns the paths of the files in a folder, with slashes, sorted.
    static func paths(in folder: URL) throws -> [String] {
        guard let entries = FileManager.default.enumerator(atPath: folder.path) else {
            throw DiffusionError(.files, "\(folder.path) cannot be read")
        }
        let paths = entries.compactMap { $0 as? String }
        return paths.filter { path in
            var isFolder: ObjCBool = false
            let exists = FileManager.default.fileExists(
                atPath: folder.appendingPathComponent(path).path, isDirectory: &isFolder)
            return exists && !isFolder.boolValue
        }.sorted()
    }

    /// Returns the bytes of all files in a folder; 0 where there is none.
    public static func bytes(of folder: URL) -> Int {
        let paths = (try? paths(in: folder)) ?? []
        return paths.reduce(0) { $0 + (bytes(ofFile: folder.appendingPathComponent($1)) ?? 0) }
    }

    /// Returns the bytes of a file, or nil where it is missing.
    static func bytes(ofFile file: URL) -> Int? {
        let attributes = try? FileManager.default.attributesOfItem(atPath: file.path)
        return (attributes?[.size] as? NSNumber)?.intValue
    }

    /// Removes all entries of a folder.
    public static func removeContents(of folder: URL) throws {
        for name in (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? [] {
            try FileManager.default.removeItem(at: folder.appendingPathComponent(name))
        }
    }
}
