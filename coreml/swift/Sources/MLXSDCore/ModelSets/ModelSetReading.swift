import Foundation

extension ModelSetInfo {
    /// Reads and checks the info.json of a folder; throws one clear error where it is missing, damaged, or not ours.
    public init(folder: URL) throws {
        var isDirectory: ObjCBool = false
        guard FileManager.default.fileExists(atPath: folder.path, isDirectory: &isDirectory), isDirectory.boolValue
        else {
            throw DiffusionError(.files, "\(folder.path) is not a folder; give one that python -m coreml has written")
        }
        let file = folder.appendingPathComponent(Self.name)
        guard FileManager.default.fileExists(atPath: file.path) else {
            throw DiffusionError(
                .files, "\(folder.path) has no info.json: it is no model set; give a folder that python -m coreml wrote"
            )
        }
        let data: Data
        do {
            data = try Data(contentsOf: file)
        } catch {
            throw DiffusionError(.files, "\(file.path) cannot be read: \(error.localizedDescription)")
        }
        try self.init(json: data, path: file.path)
    }

    /// Reads and checks the content of an info.json; path: its name for messages.
    public init(json data: Data, path: String) throws {
        let decoder = JSONDecoder()
        guard let heading = try? decoder.decode(Heading.self, from: data) else {
            throw DiffusionError(.files, "\(path) is damaged: it is no JSON object; copy or export the folder again")
        }
        guard let format = heading.format?.string, Format(rawValue: format) != nil else {
            throw DiffusionError(
                .files, "\(path) is not of the format of a model set; give a folder that python -m coreml has written")
        }
        guard let version = heading.version?.integer, version >= 1 else {
            throw DiffusionError(.files, "\(path) is damaged: it has no version; export again")
        }
        guard version <= Self.newestVersion else {
            throw DiffusionError(
                .files, "\(path) is of version \(version), and this package reads 1 to \(Self.newestVersion); update it"
            )
        }
        guard heading.tokens == nil else {
            throw DiffusionError(
                .files, "\(path): its pictures are tokens, of which this package has no sampler; use mlx-sd generate")
        }
        do {
            self = try decoder.decode(Self.self, from: data)
        } catch let error as DecodingError {
            throw DiffusionError(.files, "\(path) is damaged: \(Self.words(of: error)); export again")
        }
        if let problem = problem() {
            throw DiffusionError(.files, "\(path) is damaged: \(problem); export again")
        }
    }

    /// What tells whose file it is, before all the rest.
    private struct Heading: Decodable {
        let format: JSONValue?
        let version: JSONValue?
        /// Of models whose pictures are tokens.
        let tokens: JSONValue?
    }

    /// Returns which field is missing or of another type.
    private static func words(of error: DecodingError) -> String {
        func name(_ path: [any CodingKey], _ key: (any CodingKey)? = nil) -> String {
            let keys = path + (key.map { [$0] } ?? [])
            return keys.reduce("") { text, key in
                if let index = key.intValue { return "\(text)[\(index)]" }
                return text.isEmpty ? key.stringValue : "\(text).\(key.stringValue)"
            }
        }
        switch error {
        case .keyNotFound(let key, let context): return "\(name(context.codingPath, key)) is missing"
        case .valueNotFound(_, let context): return "\(name(context.codingPath)) is null"
        case .typeMismatch(_, let context): return "\(name(context.codingPath)) is of another type"
        case .dataCorrupted(let context): return "\(name(context.codingPath)) has a value that does not exist"
        @unknown default: return "it cannot be read"
        }
    }

    /// Returns what does not fit together, or nil.
    private func problem() -> String? {
        let largest = 1 << 20
        for (name, package) in packages {
            guard Self.staysInside(name) else { return "packages: \(name) is no name of a package" }
            for (function, description) in package.functions {
                let field = "packages.\(name).functions.\(function)"
                for (port, entry) in description.inputs.merging(description.outputs, uniquingKeysWith: { a, _ in a }) {
                    guard !entry.shape.isEmpty, entry.shape.allSatisfy({ (1...largest).contains($0) }) else {
                        return "\(field): \(port) has the shape \(entry.shape)"
                    }
                }
                if let state = (description.states ?? []).first(where: { description.inputs[$0] == nil }) {
                    return "\(field).states: \(state) is no input"
                }
            }
        }
        for (size, entries) in roles {
            guard size == "any" || Self.sides(of: size) != nil else {
                return "roles: \(size) is no size; sizes are written WIDTHxHEIGHT"
            }
            for (role, steps) in entries {
                if let step = steps.first(where: { packages[$0.package]?.functions[$0.function] == nil }) {
                    return "roles.\(size).\(role) has \(step.package), \(step.function), which is no function"
                }
                guard !steps.isEmpty else { return "roles.\(size).\(role) has no function" }
            }
        }
        guard latents.factor > 0, latents.channels > 0, latents.scalingFactor != 0 else {
            return "latents: channels, factor and scaling_factor are above 0"
        }
        guard networks.textEncoders.count == tokenizers.count else {
            return "tokenizers: there are \(tokenizers.count) for \(networks.textEncoders.count) text encoders"
        }
        guard tokenizers.allSatisfy({ $0.length >= 3 }) else { return "tokenizers: length is at least 3" }
        if let name = files.keys.first(where: { !Self.staysInside($0) }) {
            return "files: \(name) leads out of the folder"
        }
        if let (name, file) = files.first(where: { $1.bytes < 0 || $1.sha256.count != 64 }) {
            return "files.\(name) has \(file.bytes) bytes and the SHA-256 \(file.sha256)"
        }
        return nil
    }

    /// Returns whether a path, with slashes, stays in the folder that it is relative to.
    static func staysInside(_ path: String) -> Bool {
        !path.isEmpty && !path.hasPrefix("/") && !path.split(separator: "/").contains("..")
    }

    /// Returns width and height of a size, "512x768", or nil.
    public static func sides(of size: String) -> (width: Int, height: Int)? {
        let sides = size.split(separator: "x", omittingEmptySubsequences: false).map { Int($0) ?? 0 }
        guard sides.count == 2, sides.allSatisfy({ $0 > 0 }) else { return nil }
        return (sides[0], sides[1])
    }
}

extension ModelSetInfo {
    /// The sizes in pixels of the pictures that the set makes, as `roles` names them, in the order of the export.
    public var sizes: [String] {
        let ordered = (options.sizes ?? []).map { "\(($0.first ?? nil) ?? 0)x\(($0.last ?? nil) ?? 0)" }
        let listed = ordered.filter { roles[$0] != nil }
        return listed + roles.keys.filter { $0 != "any" && !listed.contains($0) }.sorted()
    }

    /// Whether the networks are assets of Core AI, whose contexts are (batch, tokens, channels).
    public var isCoreAI: Bool { format == .coreAI }

    /// The folder of vocab.json and merges.txt in the folder of the set.
    public var tokenizerFolder: String { isCoreAI ? "tokenizer" : "." }

    /// Whether the UNet takes the residuals of control networks.
    public var isControlled: Bool { !(options.control ?? []).isEmpty }

    /// Returns the functions of a role that run one after the other; nil where the set has none at this size.
    public func functions(of role: String, size: String) -> [FunctionName]? { roles[size]?[role] }

    /// Returns whether the set has a role at a size.
    public func has(_ role: String, size: String) -> Bool { functions(of: role, size: size) != nil }

    /// Returns the inputs of a role's functions that none of them computes, by name; nothing where there is no such role.
    public func inputs(of role: String, size: String) -> [String: Port] {
        var ports: [String: Port] = [:]
        var computed: Set<String> = []
        for step in functions(of: role, size: size) ?? [] {
            guard let function = packages[step.package]?.functions[step.function] else { continue }
            for (name, port) in function.inputs where ports[name] == nil && !computed.contains(name) {
                ports[name] = port
            }
            computed.formUnion(function.outputs.keys)
        }
        return ports
    }

    /// Returns the outputs of a role's functions that none of them takes, by name; nothing where there is no such role.
    public func outputs(of role: String, size: String) -> [String: Port] {
        var ports: [String: Port] = [:]
        for step in functions(of: role, size: size) ?? [] {
            guard let function = packages[step.package]?.functions[step.function] else { continue }
            ports = ports.filter { function.inputs[$0.key] == nil }
            ports.merge(function.outputs) { _, new in new }
        }
        return ports
    }

    /// Returns the number of rows that the UNet, or another role with an input `sample`, takes at once: 1 or 2.
    public func batch(of role: String, size: String) -> Int {
        inputs(of: role, size: size)["sample"]?.shape.first ?? 1
    }
}

extension ModelSetInfo {
    /// Returns the files below a folder of the set, by their paths in it; all of them for an empty name.
    public func files(of folder: String) -> [String: File] {
        guard !folder.isEmpty else { return files }
        return files.reduce(into: [:]) { result, entry in
            if entry.key.hasPrefix("\(folder)/") { result[String(entry.key.dropFirst(folder.count + 1))] = entry.value }
        }
    }
}
