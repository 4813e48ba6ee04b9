import Foundation
import MLXSDKit
import Testing

@testable import MLXSDCommand

@Suite struct ArgumentsTests {
    @Test func everyKindOfOptionIsRead() throws {
        let arguments = try Arguments([
            "a tent", "--folder", "M", "--steps=12", "--guidance", "-1.5", "--sampler", "dpmpp_2m", "--json",
            "--control", "canny:a.ppm:0.5", "--control", "depth:b.ppm",
        ])
        #expect(arguments.settings["prompt"] == .text("a tent"))
        #expect(arguments.settings["steps"] == .integer(12))
        #expect(arguments.settings["guidance"] == .number(-1.5))
        #expect(arguments.settings["sampler"] == .text("dpmpp_2m"))
        #expect(arguments.controls == ["canny:a.ppm:0.5", "depth:b.ppm"])
        #expect(arguments.folder == "M" && arguments.json && !arguments.quiet)
    }

    @Test func whatFollowsTwoDashesIsThePrompt() throws {
        #expect(try Arguments(["--folder", "M", "--", "--a tent"]).settings["prompt"] == .text("--a tent"))
    }

    @Test(arguments: [
        (["a", "--folder", "M", "--stpes", "3"], "there is no option --stpes; did you mean --steps?"),
        (["a", "--folder", "M", "--unrelated"], "there is no option --unrelated; see --help"),
        (["a", "--folder", "M", "--steps"], "--steps needs a value: --steps N"),
        (["a", "--folder", "M", "--steps", "x"], "--steps is a whole number, not 'x'"),
        (["a", "--folder", "M", "--guidance", "nan"], "--guidance is a number, not 'nan'"),
        (["a", "--folder", "M", "--json=1"], "--json takes no value"),
        (["a", "--folder", ""], "--folder needs a value: --folder DIR"),
        (["a"], "--folder DIR is missing: the model set that python -m coreml has written"),
        (["a", "b", "--folder", "M"], "there are 2 prompts; put quotes around one: \"a b\""),
        (["a", "--folder", "M", "--recorded", "R"], "give --folder or --recorded, not both"),
        (["--folder", "M"], "the prompt is missing: mlxsd-swift \"a red tent on green grass\" --folder DIR"),
        (
            ["a", "--folder", "M", "--units", "gpu"],
            "--units is one of all, cpu, cpu-and-gpu, cpu-and-neural-engine, not 'gpu'"
        ),
        (["a", "--folder", "M", "--output", "a.jpg"], "--output is NAME.png or NAME.ppm, not 'a.jpg'"),
        (["a", "--folder", "M", "--mask", "m.ppm"], "--mask needs --init-image"),
        (
            ["a", "--folder", "M", "--self-check"],
            "--self-check makes the golden picture of the kit; leave the prompt and its settings out"
        ),
    ])
    func everyMistakeIsOneLine(words: [String], line: String) {
        #expect(throws: DiffusionError(.request, line)) { try Arguments(words) }
    }

    @Test func theHelpNamesEveryOptionOnce() {
        for option in Option.all {
            let places = [" ", ","].map { Option.manual.components(separatedBy: "\n  \(option.name)\($0)").count - 1 }
            #expect(places.reduce(0, +) == 1, "\(option.name)")
        }
        #expect(Option.manual.split(separator: "\n").allSatisfy { $0.count <= 120 })
    }
}
