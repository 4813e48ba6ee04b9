import MLXSDKit

/// An option of the command line.
struct Option {
    enum Kind { case text, integer, number }

    /// Where the value of an option goes.
    enum Target {
        case setting(String, Kind)  // a key of the request record's JSON
        case path(WritableKeyPath<Arguments, String?>)
        case list(WritableKeyPath<Arguments, [String]>)
        case flag(WritableKeyPath<Arguments, Bool>)
    }

    let name: String
    let aliases: [String]
    let placeholder: String
    let target: Target
    let help: String

    init(_ name: String, _ aliases: [String] = [], _ placeholder: String = "", _ target: Target, _ help: String) {
        (self.name, self.aliases, self.placeholder, self.target, self.help) = (name, aliases, placeholder, target, help)
    }

    private static var unitNames: String {
        let names = Arguments.unitsByName.map(\.key)
        return "\(names.dropLast().joined(separator: ", ")) or \(names[names.count - 1])"
    }

    /// All options, in the order of the help. Names and meanings are those of `python -m mlx_sd.generate`.
    static var all: [Option] {
        [
            Option("--folder", ["--model-set"], "DIR", .path(\.folder), "the model set that python -m coreml wrote"),
            Option("--recorded", [], "DIR", .path(\.recorded), "networks replayed from a recording, on any system"),
            Option("--request", [], "FILE", .path(\.request), "settings as JSON, as Python's Request.to_json writes"),
            Option("--negative", [], "TEXT", .setting("negative", .text), "what to steer away from"),
            Option(
                "--seed", [], "N", .setting("seed", .integer), "of the first noise, 0 to 4294967295 (default: random)"),
            Option("--steps", [], "N", .setting("steps", .integer), "of the sampler (default 25)"),
            Option(
                "--guidance", [], "SCALE", .setting("guidance", .number), "of the prompt (default 7.5; SDXL 5, tiny 3)"),
            Option(
                "--guidance-rescale", [], "PHI", .setting("guidance_rescale", .number),
                "how far guidance's contrast is taken back, 0 to 1 (default 0)"),
            Option("--sampler", [], "NAME", .setting("sampler", .text), "default: the checkpoint's"),
            Option("--schedule", [], "NAME", .setting("schedule", .text), "default: the checkpoint's"),
            Option("--rng", [], "NAME", .setting("rng", .text), "numpy (default), torch or cuda"),
            Option(
                "--deepcache", [], "N[:BRANCH]", .setting("deepcache", .text),
                "the whole UNet at every N-th evaluation only"),
            Option(
                "--tgate", [], "GATE", .setting("tgate", .text), "no prompt and no guidance from this evaluation on"),
            Option("--width", [], "PIXELS", .setting("width", .integer), "one of the model set's sizes"),
            Option("--height", [], "PIXELS", .setting("height", .integer), "one of the model set's sizes"),
            Option("--init-image", [], "FILE", .path(\.initImage), "begin with this picture (on Linux: PPM)"),
            Option("--strength", [], "S", .setting("strength", .number), "how much of it changes, 0 to 1"),
            Option("--mask", [], "FILE", .path(\.mask), "paint only where this picture is white"),
            Option(
                "--control", [], "NAME:FILE[:SCALE]", .list(\.controls),
                "a control network and its picture; may be repeated"),
            Option("--output", [], "FILE", .path(\.output), "NAME.png or NAME.ppm (default: mlxsd-SEED.png)"),
            Option("--units", [], "NAME", .path(\.units), unitNames),
            Option(
                "--reduce-memory", [], "", .flag(\.reduceMemory), "load each network when it is needed, then free it"),
            Option("--self-check", [], "", .flag(\.selfCheck), "make the kit's golden picture and compare the numbers"),
            Option("--json", [], "", .flag(\.json), "print what was made and how long it took, as JSON"),
            Option("--quiet", ["-q"], "", .flag(\.quiet), "no progress"),
            Option("--help", ["-h"], "", .flag(\.help), "print this text"),
        ]
    }

    /// Returns the option of a name or an alias; the error names the nearest.
    static func named(_ name: String) throws -> Option {
        if let option = all.first(where: { $0.name == name || $0.aliases.contains(name) }) { return option }
        let names = all.flatMap { [$0.name] + $0.aliases }
        let nearest = names.map { (Suggestions.distance(Array($0.utf8), Array(name.utf8)), $0) }.min { $0.0 < $1.0 }
        let advice = nearest.flatMap { $0.0 <= 3 ? "; did you mean \($0.1)?" : nil } ?? "; see --help"
        throw mistake("there is no option \(name)\(advice)")
    }

    /// The text of --help.
    static var manual: String {
        var lines = [
            "usage: mlxsd-swift PROMPT --folder DIR [options]",
            "",
            "Make a picture with a model set that python -m coreml has written.",
            "",
            "options:",
        ]
        for option in all {
            let names = ([option.name] + option.aliases).joined(separator: ", ")
            let left = "  \(names) \(option.placeholder)"
            lines.append(
                left.count < 30
                    ? left + String(repeating: " ", count: 30 - left.count) + option.help
                    : "\(left)\n\(String(repeating: " ", count: 30))\(option.help)")
        }
        return lines.joined(separator: "\n") + """


            examples:
              mlxsd-swift "a red tent on green grass" --folder ModelSet --seed 0 --output tent.png
              mlxsd-swift "a red tent on green grass" --folder ModelSet --sampler dpmpp_2m --steps 12 --deepcache 3
              mlxsd-swift "a blue tent" --folder ModelSet --init-image tent.png --strength 0.6 --json
              mlxsd-swift --folder ModelSet --self-check --units cpu-and-neural-engine
              mlxsd-swift --recorded recording --output tent.png

            Exit code: 0, 1 where work failed, 2 for a mistake in what was asked.
            """
    }
}
