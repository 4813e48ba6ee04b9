/// The styles in which prompts may be written; the names are those of the request record.
public enum PromptStyle: String, Codable, Sendable, CaseIterable {
    /// `(text:1.3)`, `[text]`, BREAK, chunks that end at commas.
    case a1111
    /// `(text:1.3)`, chunks that end at words.
    case comfy
    /// `word++`: needs text encoders that can leave tokens out of sight, which model sets do not have.
    case compel
    /// Brackets are ordinary text.
    case plain
}

/// The tokens of one call of a text encoder, special ones and padding included: as many as it takes.
public struct PromptChunk: Sendable, Equatable {
    public let ids: [Int]
    /// The weight of each token; 1 for special ones.
    public let weights: [Float]

    /// Joins ids and their weights; as many of one as of the other.
    public init(ids: [Int], weights: [Float]) {
        precondition(ids.count == weights.count, "\(ids.count) tokens have \(weights.count) weights")
        self.ids = ids
        self.weights = weights
    }

    /// Returns the chunk of an empty text, which makes a shorter prompt as long as another.
    public static func empty(_ tokenizer: CLIPTokenizer) -> PromptChunk {
        PromptChunk([], tokenizer)
    }

    /// Whether any token has a weight other than 1.
    public var hasWeights: Bool { weights.contains { $0 != 1 } }

    fileprivate init(_ tokens: [WeightedToken], _ tokenizer: CLIPTokenizer) {
        let padding = tokenizer.length - 2 - tokens.count
        ids =
            [tokenizer.start] + tokens.map(\.id) + [tokenizer.end] + [Int](repeating: tokenizer.pad, count: padding)
        weights = [1] + tokens.map { Float($0.weight) } + [Float](repeating: 1, count: padding + 1)
    }
}

private struct WeightedToken {
    let id: Int
    let weight: Double
}

/// Returns the chunks of one prompt as the Python side makes them, at least one.
///
/// Throws DiffusionError for what model sets cannot do: prompts that change over the steps, LoRAs and embeddings by
/// name, and compel's style. AND is text here; `PromptDirection.all` reads it.
public func promptChunks(
    _ prompt: String, tokenizer: CLIPTokenizer, style: PromptStyle = .a1111
) throws -> [PromptChunk] {
    let text = Array(prompt.unicodeScalars)
    try refuse(text, style)
    var contents: [[WeightedToken]] = []
    switch style {
    case .a1111:
        for pieces in EmphasisA1111.sections(text) {
            contents += filled(tokens(pieces, tokenizer), tokenizer, comma: tokenizer.token(","))
        }
    case .comfy:
        let words = EmphasisComfy.pieces(text).flatMap { piece in
            EmphasisComfy.words(piece.text).map { tokens([PromptPiece(text: $0, weight: piece.weight)], tokenizer) }
        }
        contents = filledByWords(words, tokenizer)
    case .compel, .plain:
        contents = filled(tokens([PromptPiece(text: text)], tokenizer), tokenizer, comma: nil)
    }
    if contents.count > 1, contents.last?.isEmpty == true { contents.removeLast() }
    let chunks = contents.map { PromptChunk($0, tokenizer) }
    guard chunks.allSatisfy({ $0.weights.allSatisfy(\.isFinite) }) else {
        throw DiffusionError(.request, "a weight in the prompt is not a finite number; weights are such as (tent:1.3)")
    }
    return chunks
}

private func tokens(_ pieces: [PromptPiece], _ tokenizer: CLIPTokenizer) -> [WeightedToken] {
    pieces.flatMap { piece in
        tokenizer.words(PromptText.string(piece.text)).map {
            WeightedToken(id: $0, weight: piece.weight)
        }
    }
}

/// Fills chunks; where a comma is near the end of a full one, what follows it moves to the next, as in A1111.
private func filled(_ tokens: [WeightedToken], _ tokenizer: CLIPTokenizer, comma: Int?) -> [[WeightedToken]] {
    let size = tokenizer.length - 2
    let backtrack = 20  // tokens after the last comma that may move to the next chunk, A1111's setting
    var full: [[WeightedToken]] = []
    var current: [WeightedToken] = []
    var afterComma: Int?  // place after the last comma of the current chunk
    for token in tokens {
        if token.id == comma {
            afterComma = current.count + 1
        } else if current.count == size, let place = afterComma, size - place < backtrack {
            full.append(Array(current[..<place]))
            (current, afterComma) = (Array(current[place...]), nil)
        }
        if current.count == size {
            full.append(current)
            (current, afterComma) = ([], nil)
        }
        current.append(token)
    }
    return full + [current]
}

/// Fills chunks with whole words, and splits those of 8 tokens and more, as ComfyUI does.
private func filledByWords(_ words: [[WeightedToken]], _ tokenizer: CLIPTokenizer) -> [[WeightedToken]] {
    let size = tokenizer.length - 2
    var full: [[WeightedToken]] = []
    var current: [WeightedToken] = []
    for word in words {
        var remaining = word[...]
        while current.count + remaining.count > size {
            if word.count >= 8 {
                let room = size - current.count
                current += remaining.prefix(room)
                remaining = remaining.dropFirst(room)
            }
            full.append(current)
            current = []
        }
        current += remaining
    }
    return full + [current]
}

/// Throws DiffusionError for what a prompt asks and a model set cannot do.
private func refuse(_ text: [Unicode.Scalar], _ style: PromptStyle) throws {
    if style == .compel {
        throw DiffusionError(
            .request,
            "prompt style compel leaves tokens out of a text encoder's sight, which a model set cannot do; use a1111")
    }
    if style == .a1111, PromptEditing.changes(text) {
        throw DiffusionError(
            .request,
            "the prompt changes over the steps, [from:to:when] or [a|b], which is not supported; write \\[ for a bracket"
        )
    }
    if let tag = loraTag(text) {
        throw DiffusionError(
            .request, "the prompt names \(tag), but a model set has its LoRAs merged; export the set with --lora")
    }
    if style == .comfy, let name = embedding(text) {
        throw DiffusionError(.request, "the prompt names \(name), but a model set has no embeddings; leave it out")
    }
}

/// Returns the first `<lora:name...>` of a prompt.
private func loraTag(_ text: [Unicode.Scalar]) -> String? {
    for place in text.indices where text[place] == "<" {
        for name in ["<lora:", "<lyco:"] where text[place...].starts(with: name.unicodeScalars) {
            let rest = text[(place + name.unicodeScalars.count)...]
            guard let end = rest.firstIndex(where: { $0 == "<" || $0 == ">" }), text[end] == ">" else { continue }
            guard let first = rest.first, first != ":", first != ">" else { continue }
            return PromptText.string(text[place...end])
        }
    }
    return nil
}

/// Returns the first `embedding:name` of a prompt, which can mean nothing else in ComfyUI.
private func embedding(_ text: [Unicode.Scalar]) -> String? {
    let mark = Array("embedding:".unicodeScalars)
    for piece in EmphasisComfy.pieces(text) {
        for word in EmphasisComfy.words(piece.text) {
            for place in word.indices where word[place...].starts(with: mark) {
                guard place == 0 || PromptText.isSpace(word[place - 1]) else { continue }
                let name = word[(place + mark.count)...].prefix {
                    !PromptText.isSpace($0) && !",()".unicodeScalars.contains($0)
                }
                if !name.isEmpty { return PromptText.string(word[place..<name.endIndex]) }
            }
        }
    }
    return nil
}
