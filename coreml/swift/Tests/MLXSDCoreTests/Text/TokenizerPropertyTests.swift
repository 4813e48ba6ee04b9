import Testing

@testable import MLXSDCore

/// What holds for every text, on 2,000 random ones.
@Suite struct TokenizerPropertyTests {
    private static let blocks: [ClosedRange<UInt32>] = [
        0x20...0x7e, 0x20...0x7e, 0x0...0xff, 0x300...0x370, 0x400...0x4ff, 0x590...0x6ff, 0x900...0xdff,
        0x1100...0x11ff, 0x2000...0x206f, 0x3000...0x30ff, 0x4e00...0x9fff, 0xac00...0xd7a3, 0xfe00...0xfe0f,
        0x10400...0x1044f, 0x1f300...0x1faff,
    ]

    private static func text(_ random: inout SeededRandom) -> String {
        var scalars = String.UnicodeScalarView()
        for _ in 0..<Int.random(in: 0...12, using: &random) {
            let block = blocks[Int.random(in: 0..<blocks.count, using: &random)]
            for _ in 0..<Int.random(in: 0...8, using: &random) {
                if let scalar = Unicode.Scalar(UInt32.random(in: block, using: &random)) { scalars.append(scalar) }
            }
        }
        return String(scalars)
    }

    @Test func holdsForRandomTexts() throws {
        let file = try Tokenizers.file("large")
        let tokenizers = try file.tokenizers.map { try Tokenizers.load("large", $0) }
        var random = SeededRandom(seed: 5)
        for number in 0..<2000 {
            let (first, second) = (Self.text(&random), Self.text(&random))
            for tokenizer in tokenizers {
                let ids = tokenizer.words(first)
                #expect(ids == tokenizer.words(first), "the same text has the same ids")
                #expect(ids.allSatisfy { tokenizer.vocabulary.text($0) != nil }, "ids are of the vocabulary")
                // Composition and lower case make a byte at most three.
                #expect(ids.count <= 3 * first.utf8.count, "text \(number)")
                let encoded = tokenizer.encode(first)
                #expect(encoded.count == min(ids.count, 75) + 2)
                #expect(encoded.first == tokenizer.start && encoded.last == tokenizer.end)
                #expect(
                    tokenizer.words("\(first) \(second)") == ids + tokenizer.words(second),
                    "texts with a space between them are read apart, text \(number)")
                let composed = String(String.UnicodeScalarView(UnicodeForms.composed(Array(first.unicodeScalars))))
                if !first.unicodeScalars.contains("<") {
                    #expect(tokenizer.words(composed) == ids, "composing twice is composing once")
                }
                let written = Self.written(ids, tokenizer)
                #expect(written.map { tokenizer.words($0) == ids } ?? true, "what ids say is read as they are")
            }
        }
    }

    /// Returns the text that ids mean, for those of whole ASCII words.
    private static func written(_ ids: [Int], _ tokenizer: CLIPTokenizer) -> String? {
        let tokens = ids.compactMap { tokenizer.vocabulary.text($0) }
        let isPlain = tokens.allSatisfy { token in
            token.hasSuffix("</w>") && token.dropLast(4).allSatisfy { $0.isASCII && $0.isLetter }
        }
        return isPlain ? tokens.map { $0.dropLast(4) }.joined(separator: " ") : nil
    }
}
