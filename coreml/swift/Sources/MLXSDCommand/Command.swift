import Foundation
import MLXSDKit

/// The command line `mlxsd-swift`.
public enum Command {
    /// Runs the command and returns its exit code: 0, 1 for a failure, 2 for a mistake in what was asked.
    public static func run(_ words: [String]) async -> Int32 {
        do {
            let arguments = try Arguments(words)
            if arguments.help {
                print(Option.manual)
            } else if arguments.selfCheck {
                return try await checkItself(arguments)
            } else {
                try await makePicture(arguments)
            }
            return 0
        } catch let error as DiffusionError {
            say("mlxsd-swift: \(error.description)")
            return error.kind == .network ? 1 : 2
        } catch is CancellationError {
            say("mlxsd-swift: cancelled")
            return 1
        } catch {
            say("mlxsd-swift: \(error.localizedDescription)")
            return 1
        }
    }

    private static func makePicture(_ arguments: Arguments) async throws {
        if let output = arguments.output { try PictureFile.checkWritable(output) }
        var options = try request(arguments)
        let pictures = try inputs(arguments, &options)
        guard let prompt = options.prompt else { throw mistake("the prompt is missing in the request") }
        let sd = try await pipeline(arguments)
        let progress = Progress(isShown: !arguments.quiet && !arguments.json)
        let results = try await sd.pictures(prompt, options, pictures: pictures) { progress.show($0) }
        progress.end()
        guard let picture = results.first else { throw CancellationError() }
        let path = arguments.output ?? PictureFile.freeName(seed: picture.seed)
        try PictureFile.write(picture.image, to: path, request: try Report.json(picture.request))
        print(arguments.json ? try Report(picture, path: path, options: arguments).line : path)
    }

    /// Opens the networks: a model set's, or a recording's.
    private static func pipeline(_ arguments: Arguments) async throws -> StableDiffusion {
        if let recorded = arguments.recorded {
            let folder = URL(fileURLWithPath: recorded, isDirectory: true)
            let backend = try RecordedBackend(folder: folder)
            return try StableDiffusion(
                backend: backend, info: backend.info, folder: folder, reduceMemory: arguments.reduceMemory)
        }
        let folder = URL(fileURLWithPath: arguments.folder ?? "", isDirectory: true)
        return try await StableDiffusion(
            folder: folder, units: arguments.computeUnits, reduceMemory: arguments.reduceMemory)
    }

    /// Returns the request: the file's, or a recording's, under the options of the command line.
    static func request(_ arguments: Arguments) throws -> GenerationRequest {
        var values: [String: Any] = [:]
        let recorded = arguments.recorded.map { $0 + "/request.json" }
        if let path = arguments.request ?? recorded {
            guard let content = FileManager.default.contents(atPath: path) else {
                throw mistake("\(path) is missing or cannot be read")
            }
            guard let object = try? JSONSerialization.jsonObject(with: content) as? [String: Any] else {
                throw mistake("\(path) is not a JSON object")
            }
            values = object
        }
        // A recording's pictures lie beside its request.
        if arguments.recorded != nil, let controls = values["controls"] as? [[String: Any]] {
            values["controls"] = controls.map { $0.merging(["image": "recorded"]) { image, _ in image } }
        }
        for (key, value) in arguments.settings {
            switch value {
            case .text(let text): values[key] = text
            case .integer(let number): values[key] = number
            case .number(let number): values[key] = number
            }
        }
        let content = try JSONSerialization.data(withJSONObject: values)
        do {
            return try JSONDecoder().decode(GenerationRequest.self, from: content)
        } catch let error as DiffusionError {
            throw error
        } catch let error as DecodingError {
            throw mistake(description(of: error))
        }
    }

    /// Returns one line about a value that a request does not take.
    private static func description(of error: DecodingError) -> String {
        switch error {
        case .dataCorrupted(let context): return line(context)
        case .typeMismatch(_, let context): return line(context)
        case .valueNotFound(_, let context): return line(context)
        case .keyNotFound(let key, _): return "the request has no \(key.stringValue)"
        @unknown default: return "the request cannot be read: \(error.localizedDescription)"
        }
    }

    private static func line(_ context: DecodingError.Context) -> String {
        "the request's \(context.codingPath.map(\.stringValue).joined(separator: ".")): \(context.debugDescription)"
    }

    /// Reads the pictures that the request begins with, and names control networks in it.
    private static func inputs(_ arguments: Arguments, _ request: inout GenerationRequest) throws -> InputPictures {
        var pictures = InputPictures()
        if let recorded = arguments.recorded {
            pictures = try InputPictures(recording: URL(fileURLWithPath: recorded, isDirectory: true))
        }
        if let path = arguments.initImage ?? request.initImage {
            pictures.image = try PictureFile.read(path, option: "--init-image")
        }
        if let path = arguments.mask ?? request.mask { pictures.mask = try PictureFile.read(path, option: "--mask") }
        if !arguments.controls.isEmpty { request.controls = try arguments.controls.map(control) }
        if arguments.recorded == nil || !arguments.controls.isEmpty {
            pictures.controls = try request.controls.map { try PictureFile.read($0.image, option: "--control") }
        }
        return pictures
    }

    /// Reads NAME:FILE or NAME:FILE:SCALE.
    private static func control(_ text: String) throws -> ControlRequest {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 2 || parts.count == 3, !parts[0].isEmpty, !parts[1].isEmpty else {
            throw mistake("--control is NAME:FILE or NAME:FILE:SCALE, not '\(text)'")
        }
        guard let scale = parts.count == 3 ? Double(parts[2]) : 1, scale.isFinite else {
            throw mistake("--control \(text): the scale is a number, not '\(parts[2])'")
        }
        return ControlRequest(model: parts[0], image: parts[1], scale: scale)
    }

    /// Writes a line to the standard error.
    static func say(_ line: String, end: String = "\n") {
        FileHandle.standardError.write(Data((line + end).utf8))
    }
}

/// A line on a terminal that shows how far the work is.
struct Progress: Sendable {
    let isShown: Bool

    init(isShown: Bool) { self.isShown = isShown && isatty(2) == 1 }

    func show(_ progress: GenerationProgress) {
        let seconds = progress.secondsPerEvaluation.map { String(format: ", %.2f s each", $0) } ?? ""
        show("\(progress.stage) \(progress.evaluation)/\(progress.evaluations)\(seconds)   ")
    }

    func show(_ line: String) {
        if isShown { Command.say("\r\(line)", end: "") }
    }

    func end() {
        if isShown { Command.say("\r\u{1B}[K", end: "") }
    }
}
