import Foundation
import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct CLIPTokenizerTests {
    /// Shows scalars that cannot be seen.
    private func shown(_ text: String) -> String {
        text.unicodeScalars.prefix(60).map { String($0.value, radix: 16) }.joined(separator: " ")
    }

    @Test(arguments: ["tiny", "large"])
    func idsArePythons(_ name: String) throws {
        let file = try Tokenizers.file(name)
        #expect(file.texts.count >= 2000)
        #expect(file.tokenizers.map { $0.pad == $0.end } == [true, false], "as both text encoders of SDXL pad")
        for (number, settings) in file.tokenizers.enumerated() {
            let tokenizer = try Tokenizers.load(name, settings)
            let wrong = file.texts.filter { tokenizer.words($0.text) != $0.ids[number] }
            #expect(wrong.isEmpty, "\(wrong.count) differ, first \(wrong.first.map { shown($0.text) } ?? "")")
        }
    }

    @Test func everyScalarIsReadAsInPython() throws {
        let tokenizer = try Tokenizers.load("tiny")
        let numbers = try Goldens.integers("text/tiny/scalars.u16", as: UInt16.self).map { Int($0) }
        var place = 0
        var (assigned, newer, wrong) = (0, 0, [String]())
        for value in 0..<0x40000 as Range<UInt32> {
            guard let scalar = Unicode.Scalar(value), scalar.properties.generalCategory != .privateUse else { continue }
            let (isAssigned, count) = (numbers[place] == 1, numbers[place + 1])
            let expected = numbers[(place + 2)..<(place + 2 + count)]
            place += 2 + count
            assigned += isAssigned ? 1 : 0
            if tokenizer.words("x\(scalar)x")[...] == expected { continue }
            if isAssigned { wrong.append(String(value, radix: 16)) } else { newer += 1 }
        }
        #expect(place == numbers.count)
        #expect(assigned > 144_000)
        #expect(wrong.isEmpty, "\(wrong.count) of the scalars of Unicode 14 differ: \(wrong.prefix(20))")
        #expect(newer < 6_000, "\(newer) scalars that Unicode 14 does not have differ")
        #expect(newer > 0, "the tolerance for newer scalars is not needed any more")
    }

    @Test func specialTokensAreFoundInRawTextAlone() throws {
        let tokenizer = try Tokenizers.load("tiny")
        let (start, end) = (tokenizer.start, tokenizer.end)
        #expect(tokenizer.words("<|startoftext|><|endoftext|>") == [start, end])
        #expect(!tokenizer.words("<|STARTOFTEXT|>").contains(start))
        #expect(tokenizer.encode("") == [start, end])
    }

    @Test func longTextsAreCutBeforeTheEndToken() throws {
        let tokenizer = try Tokenizers.load("tiny")
        let text = String(repeating: "tent ", count: 300)
        let ids = tokenizer.encode(text)
        #expect(ids.count == 77)
        #expect(ids.last == tokenizer.end)
        #expect(Array(ids[1..<76]) == Array(tokenizer.words(text).prefix(75)))
    }

    @Test(arguments: [
        ("[1, 2]", "a b\n", 0, "vocab.json is no vocabulary"),
        (#"{"a": 0, "b": 1}"#, "a b c\n", 0, "merge 1 is no pair"),
        (#"{"a": 0, "b": 1}"#, "#version: 0.2\na b\n", 0, "merge 1, a b, is not of tokens in vocab.json"),
        (#"{"a": 0, "b": 1}"#, "", 7, "no token with the id 7"),
    ])
    func filesThatDoNotFitAreOneClearError(_ vocabulary: String, _ merges: String, _ start: Int, _ part: String) {
        #expect {
            try CLIPTokenizer(
                vocabulary: Data(vocabulary.utf8), merges: Data(merges.utf8), start: start, end: 1, pad: 1, length: 77)
        } throws: { error in
            guard let error = error as? DiffusionError else { return false }
            return error.kind == .files && error.description.contains(part)
        }
    }

    @Test func linesMayEndAsOnWindows() throws {
        let vocabulary = try Goldens.data("text/tiny/vocab.json")
        let merges = String(decoding: try Goldens.data("text/tiny/merges.txt"), as: UTF8.self)
        let other = Data(merges.split(separator: "\n").joined(separator: "\r\n").utf8)
        let tokenizer = try Tokenizers.load("tiny")
        let again = try CLIPTokenizer(
            vocabulary: vocabulary, merges: other, start: tokenizer.start, end: tokenizer.end, pad: tokenizer.pad,
            length: 77)
        #expect(again.words("a red tent on green grass") == tokenizer.words("a red tent on green grass"))
    }
}
