/// Weights as in ComfyUI: (text) is 1.1 times as strong, also inside others; (text:1.3) is 1.3, whatever it is in.
///
/// Square brackets are ordinary text. A backslash makes a round bracket ordinary text.
enum EmphasisComfy {
    // Scalars that no prompt has, in the place of escaped brackets.
    private static let mark: Unicode.Scalar = "\0"
    private static let opening: Unicode.Scalar = "\u{2}"
    private static let closing: Unicode.Scalar = "\u{1}"

    /// Returns the pieces of a prompt, at least one.
    static func pieces(_ text: [Unicode.Scalar]) -> [PromptPiece] {
        let marked = replaced(replaced(text, ["\\", "("], [mark, opening]), ["\\", ")"], [mark, closing])
        let pieces = weighted(marked).map { piece in
            let text = replaced(replaced(piece.text, [mark, opening], ["("]), [mark, closing], [")"])
            return PromptPiece(text: text, weight: piece.weight)
        }
        return pieces.isEmpty ? [PromptPiece(text: [])] : pieces
    }

    /// Returns the words of a piece, which are tokenized one by one.
    static func words(_ text: [Unicode.Scalar]) -> [[Unicode.Scalar]] {
        text.split { $0 == " " || $0 == "\n" }.map(Array.init)
    }

    /// Returns pieces whose texts still have marks; brackets that are not closed are text.
    private static func weighted(_ text: [Unicode.Scalar]) -> [PromptPiece] {
        var result: [PromptPiece] = []
        var pending = [PromptPiece(text: text)]  // the next piece last
        while let piece = pending.popLast() {
            let parts = split(piece.text)
            if parts == [piece.text], !isClosed(piece.text) {
                result.append(piece)
                continue
            }
            let inner = parts.map { part in
                isClosed(part) ? bracket(part, inside: piece.weight) : PromptPiece(text: part, weight: piece.weight)
            }
            pending += inner.reversed()
        }
        return result
    }

    /// Returns what a pair of brackets holds, with its weight.
    private static func bracket(_ part: [Unicode.Scalar], inside weight: Double) -> PromptPiece {
        let content = part[1..<part.count - 1]
        if let colon = content.lastIndex(of: ":"), colon > content.startIndex,
            let number = PromptText.number(content[(colon + 1)...])
        {
            return PromptPiece(text: Array(content[..<colon]), weight: number)
        }
        return PromptPiece(text: Array(content), weight: weight * 1.1)
    }

    /// Returns the text in parts: what is in a pair of brackets of the outermost level, with them, and what is not.
    private static func split(_ text: [Unicode.Scalar]) -> [[Unicode.Scalar]] {
        var parts: [[Unicode.Scalar]] = []
        var current: [Unicode.Scalar] = []
        var level = 0
        for scalar in text {
            if scalar == "(", level == 0, !current.isEmpty {
                parts.append(current)
                current = []
            }
            current.append(scalar)
            if scalar == "(" {
                level += 1
            } else if scalar == ")" {
                level -= 1
                if level == 0 {
                    parts.append(current)
                    current = []
                }
            }
        }
        return current.isEmpty ? parts : parts + [current]
    }

    private static func isClosed(_ part: [Unicode.Scalar]) -> Bool {
        part.count >= 2 && part.first == "(" && part.last == ")"
    }

    private static func replaced(
        _ text: [Unicode.Scalar], _ old: [Unicode.Scalar], _ new: [Unicode.Scalar]
    ) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        var place = 0
        while place < text.count {
            if text[place...].starts(with: old) {
                result += new
                place += old.count
            } else {
                result.append(text[place])
                place += 1
            }
        }
        return result
    }
}
