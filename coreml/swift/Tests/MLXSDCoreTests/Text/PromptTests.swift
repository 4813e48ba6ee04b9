import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct PromptTests {
    struct Chunk: Decodable {
        let ids: [Int]
        let weights: [Double]
    }

    struct Case: Decodable {
        let text: String
        let changes: Bool
        let a1111: [[Chunk]?]
        let comfy: [[Chunk]?]
        let plain: [[Chunk]?]

        func chunks(_ style: PromptStyle) -> [[Chunk]?] {
            switch style {
            case .a1111: a1111
            case .comfy: comfy
            case .compel, .plain: plain
            }
        }
    }

    private func padded(_ chunk: Chunk, _ tokenizer: CLIPTokenizer) -> PromptChunk {
        let padding = tokenizer.length - chunk.ids.count
        let weights = chunk.weights.map { Float($0) }
        return PromptChunk(
            ids: chunk.ids + [Int](repeating: tokenizer.pad, count: padding),
            weights: weights + [Float](repeating: 1, count: tokenizer.length - weights.count))
    }

    @Test(arguments: [PromptStyle.a1111, .comfy, .plain])
    func chunksArePythons(_ style: PromptStyle) throws {
        let cases: [Case] = try Goldens.json("text/prompts.json")
        let tokenizers = try [Tokenizers.load("tiny"), Tokenizers.load("large")]
        #expect(cases.count >= 500)
        var (compared, refused) = (0, 0)
        for prompt in cases {
            for (tokenizer, expected) in zip(tokenizers, prompt.chunks(style)) {
                guard let expected, style != .a1111 || !prompt.changes else {
                    refused += 1
                    #expect(throws: DiffusionError.self, "\(prompt.text)") {
                        try promptChunks(prompt.text, tokenizer: tokenizer, style: style)
                    }
                    continue
                }
                compared += 1
                let chunks = try promptChunks(prompt.text, tokenizer: tokenizer, style: style)
                #expect(chunks == expected.map { padded($0, tokenizer) }, "\(prompt.text)")
            }
        }
        #expect(compared >= 1000, "\(compared) compared, \(refused) refused")
        #expect((refused > 0) == (style != .plain))
    }

    @Test func theSecondEncoderOfSDXLPadsWithAnotherToken() throws {
        let settings = try Tokenizers.file("tiny").tokenizers
        let (first, second) = (try Tokenizers.load("tiny", settings[0]), try Tokenizers.load("tiny", settings[1]))
        let chunks = try [first, second].map { try promptChunks("a red tent", tokenizer: $0)[0].ids }
        #expect(chunks[0].count == 77 && chunks[1].count == 77)
        #expect(chunks[0].last == first.end)
        #expect(chunks[1].last == second.pad && second.pad != second.end)
        #expect(chunks[1].filter { $0 == second.end }.count == 1)
    }

    @Test func whatModelSetsCannotDoIsRefusedByName() throws {
        let tokenizer = try Tokenizers.load("tiny")
        for (prompt, style, part) in [
            ("a <lora:tent:0.8> tent", PromptStyle.a1111, "<lora:tent:0.8>"), ("a+ tent", .compel, "compel"),
            ("[a:b:0.5]", .a1111, "[from:to:when]"), ("[a|b]", .a1111, "[from:to:when]"),
            ("a embedding:cat", .comfy, "embedding:cat"),
        ] {
            #expect {
                try promptChunks(prompt, tokenizer: tokenizer, style: style)
            } throws: { error in
                guard let error = error as? DiffusionError else { return false }
                return error.kind == .request && error.description.contains(part)
            }
        }
    }

    struct Joined: Decodable {
        let text: String
        let directions: [[Value]]
    }

    enum Value: Decodable {
        case text(String)
        case number(Double)

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let number = try? container.decode(Double.self) {
                self = .number(number)
            } else {
                self = .text(try container.decode(String.self))
            }
        }
    }

    @Test func directionsArePythons() throws {
        let cases: [Joined] = try Goldens.json("text/directions.json")
        #expect(cases.count >= 300)
        for prompt in cases {
            let directions = PromptDirection.all(prompt.text)
            #expect(directions.count == prompt.directions.count, "\(prompt.text)")
            for (direction, expected) in zip(directions, prompt.directions) {
                guard case .text(let text) = expected[0], case .number(let weight) = expected[1] else {
                    Issue.record("\(expected)")
                    continue
                }
                #expect(Array(direction.text.unicodeScalars) == Array(text.unicodeScalars), "\(prompt.text)")
                #expect(direction.weight == weight, "\(prompt.text)")
            }
        }
    }
}
