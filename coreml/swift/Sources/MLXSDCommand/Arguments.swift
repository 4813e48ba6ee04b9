import Foundation
import MLXSDKit

/// What the words of a command line ask for.
struct Arguments: Equatable {
    /// Settings of the picture, by the keys of the request record's JSON.
    var settings: [String: Value] = [:]
    var folder: String?
    var recorded: String?
    var request: String?
    var output: String?
    var initImage: String?
    var mask: String?
    var controls: [String] = []
    var units: String?
    var reduceMemory = false
    var selfCheck = false
    var json = false
    var quiet = false
    var help = false

    /// A value of a setting.
    enum Value: Equatable {
        case text(String)
        case integer(Int)
        case number(Double)
    }

    /// Reads the words of a command line; one error for the first mistake.
    init(_ words: [String]) throws {
        var words = words[...]
        var prompts: [String] = []
        while let word = words.popFirst() {
            if word == "--" {
                prompts += words
                break
            }
            guard word.hasPrefix("-"), word.count > 1, Double(word) == nil else {
                prompts.append(word)
                continue
            }
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            let option = try Option.named(parts[0])
            if case .flag(let path) = option.target {
                guard parts.count == 1 else { throw mistake("\(option.name) takes no value") }
                self[keyPath: path] = true
                continue
            }
            guard let value = parts.count == 2 ? parts[1] : words.popFirst() else {
                throw mistake("\(option.name) needs a value: \(option.name) \(option.placeholder)")
            }
            try set(option, value)
        }
        guard prompts.count < 2 else {
            throw mistake(
                "there are \(prompts.count) prompts; put quotes around one: \"\(prompts.joined(separator: " "))\"")
        }
        if let prompt = prompts.first { settings["prompt"] = .text(prompt) }
        try check()
    }

    private mutating func set(_ option: Option, _ value: String) throws {
        switch option.target {
        case .flag: break
        case .path(let path):
            guard !value.isEmpty else {
                throw mistake("\(option.name) needs a value: \(option.name) \(option.placeholder)")
            }
            self[keyPath: path] = value
        case .list(let path): self[keyPath: path].append(value)
        case .setting(let key, .text): settings[key] = .text(value)
        case .setting(let key, .integer):
            guard let number = Int(value) else { throw mistake("\(option.name) is a whole number, not '\(value)'") }
            settings[key] = .integer(number)
        case .setting(let key, .number):
            guard let number = Double(value), number.isFinite else {
                throw mistake("\(option.name) is a number, not '\(value)'")
            }
            settings[key] = .number(number)
        }
    }

    /// Throws for options that do not go together, before any file is read.
    private func check() throws {
        if help { return }
        if folder != nil, recorded != nil { throw mistake("give --folder or --recorded, not both") }
        if folder == nil, recorded == nil {
            throw mistake("--folder DIR is missing: the model set that python -m coreml has written")
        }
        if selfCheck {
            guard settings.isEmpty, request == nil, initImage == nil, mask == nil, controls.isEmpty else {
                throw mistake("--self-check makes the golden picture of the kit; leave the prompt and its settings out")
            }
            if recorded != nil { throw mistake("--self-check compares compute units, and a recording has none") }
            return
        }
        if mask != nil, initImage == nil { throw mistake("--mask needs --init-image") }
        if settings["prompt"] == nil, request == nil, recorded == nil {
            throw mistake("the prompt is missing: mlxsd-swift \"a red tent on green grass\" --folder DIR")
        }
        if let units, computeUnits == nil {
            let names = Self.unitsByName.map(\.key).joined(separator: ", ")
            throw mistake("--units is one of \(names), not '\(units)'")
        }
        if let output { _ = try PictureFile.format(of: output) }
    }

    /// Compute units by what --units calls them.
    static let unitsByName: KeyValuePairs<String, ComputeUnits> = [
        "all": .all, "cpu": .cpuOnly, "cpu-and-gpu": .cpuAndGPU, "cpu-and-neural-engine": .cpuAndNeuralEngine,
    ]

    /// The compute units asked for; nil is what suits the model set.
    var computeUnits: ComputeUnits? {
        Self.unitsByName.first { $0.key == units }?.value
    }
}

/// The error for a mistake on the command line.
func mistake(_ text: String) -> DiffusionError {
    DiffusionError(.request, text)
}
