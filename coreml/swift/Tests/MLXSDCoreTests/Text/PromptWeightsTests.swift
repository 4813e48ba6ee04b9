import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct PromptWeightsTests {
    struct File: Decodable {
        let channels: Int
        let cases: [Case]
    }

    struct Case: Decodable {
        let text: String
        let style: PromptStyle
        let chunks: Int
        let offset: Int
    }

    @Test func hiddenStatesArePythons() throws {
        let tokenizer = try Tokenizers.load("tiny")
        let file: File = try Goldens.json("text/weights.json")
        let numbers = try Goldens.floats("text/weights.f32")
        #expect(file.cases.count >= 40)
        var (changed, plainlyCompared) = (0, 0)
        for prompt in file.cases {
            let row = tokenizer.length * file.channels
            let size = prompt.chunks * row
            let hidden = Tensor(
                shape: [prompt.chunks, tokenizer.length, file.channels],
                values: Array(numbers[prompt.offset..<prompt.offset + size]))
            let empty = Tensor(
                shape: [1, tokenizer.length, file.channels],
                values: Array(numbers[prompt.offset + size..<prompt.offset + size + row]))
            let expected = numbers[prompt.offset + size + row..<prompt.offset + 2 * size + row]
            let chunks = try promptChunks(prompt.text, tokenizer: tokenizer, style: prompt.style)
            #expect(chunks.count == prompt.chunks)
            let isComfy = prompt.style == .comfy && chunks.contains(where: \.hasWeights)
            #expect(PromptWeights.needEmpty(chunks, style: prompt.style) == isComfy)
            let weighted = try PromptWeights.apply(chunks, to: hidden, empty: empty, style: prompt.style)
            changed += weighted == hidden ? 0 : 1
            for number in 0..<prompt.chunks {
                let own = Array(weighted.values[number * row..<(number + 1) * row])
                let theirs = Array(expected.dropFirst(number * row).prefix(row))
                let before = Array(hidden.values[number * row..<(number + 1) * row])
                // Python's means are of float32 numbers: where a mean is nearly 0, restoring it is as inexact.
                let condition = prompt.style == .comfy ? 1 : max(condition(before), condition(theirs))
                plainlyCompared += condition < 16 ? 1 : 0
                let scale = max(1, theirs.map(abs).max() ?? 0)
                let worst = largestDistance(own, theirs) / scale
                #expect(worst <= 1e-6 * max(1, condition / 16), "\(prompt.text): \(worst), condition \(condition)")
            }
        }
        #expect(changed >= 20)
        #expect(plainlyCompared >= 100)
    }

    /// How much larger numbers are than their mean.
    private func condition(_ values: [Float]) -> Float {
        let mean = abs(values.reduce(0) { $0 + Double($1) })
        return min(Float(values.reduce(0) { $0 + Double(abs($1)) } / max(mean, 1e-30)), 1e9)
    }

    @Test func withoutWeightsNothingChanges() throws {
        let tokenizer = try Tokenizers.load("tiny")
        let chunks = try promptChunks("a red tent", tokenizer: tokenizer)
        let hidden = Tensor(shape: [1, 77, 2], values: (0..<154).map { Float($0) / 7 })
        #expect(try PromptWeights.apply(chunks, to: hidden) == hidden)
    }

    @Test func theMeanOfAChunkIsRestored() throws {
        let tokenizer = try Tokenizers.load("tiny")
        let chunks = try promptChunks("a (red:1.5) tent", tokenizer: tokenizer)
        let hidden = Tensor(shape: [1, 77, 2], values: (0..<154).map { Float($0 % 13) })
        let weighted = try PromptWeights.apply(chunks, to: hidden)
        #expect(weighted != hidden)
        #expect(abs(weighted.values.reduce(0, +) - hidden.values.reduce(0, +)) < 1e-3)
    }

    @Test func shapesThatDoNotFitAreRefused() throws {
        let tokenizer = try Tokenizers.load("tiny")
        let chunks = try promptChunks("a (red:1.5) tent", tokenizer: tokenizer)
        let hidden = Tensor(shape: [1, 77, 2], values: [Float](repeating: 1, count: 154))
        #expect(throws: DiffusionError.self) { try PromptWeights.apply(chunks + chunks, to: hidden) }
        #expect(throws: DiffusionError.self) { try PromptWeights.apply(chunks, to: hidden, style: .comfy) }
    }
}
