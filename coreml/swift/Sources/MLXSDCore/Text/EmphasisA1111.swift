/// Weights as in A1111: (text) is 1.1 times as strong, [text] 1.1 times weaker, (text:1.3) 1.3 times; they multiply.
///
/// A backslash makes a bracket ordinary text. A bracket that is not closed reaches to the end. BREAK begins a new chunk.
struct EmphasisA1111 {
    private var pieces: [PromptPiece] = []
    private var breaks: [Int] = []  // numbers of the pieces before which a section begins
    private var round: [Int] = []  // numbers of the pieces at which a bracket opened
    private var square: [Int] = []

    /// Returns the sections of a prompt between its BREAKs, at least one, each of pieces with weights.
    static func sections(_ text: [Unicode.Scalar]) -> [[PromptPiece]] {
        var reader = EmphasisA1111()
        var place = 0
        while place < text.count { place = reader.read(text, from: place) }
        for start in reader.round { reader.multiply(from: start, by: 1.1) }
        for start in reader.square { reader.multiply(from: start, by: 1 / 1.1) }
        let bounds = [0] + reader.breaks + [reader.pieces.count]
        return zip(bounds, bounds.dropFirst()).map { PromptPiece.joined(reader.pieces[$0..<$1]) }
    }

    /// Reads what begins at a place, and returns the place after it.
    private mutating func read(_ text: [Unicode.Scalar], from start: Int) -> Int {
        let next = start + 1
        switch text[start] {
        case "\\":
            guard next < text.count, "()[]\\".unicodeScalars.contains(text[next]) else {
                pieces.append(PromptPiece(text: []))
                return next
            }
            pieces.append(PromptPiece(text: [text[next]]))
            return next + 1
        case "(":
            round.append(pieces.count)
            return next
        case "[":
            square.append(pieces.count)
            return next
        case ":":
            guard let (digits, end) = closingWeight(text, from: next) else { break }
            if let weight = PromptText.number(digits), let opened = round.popLast() {
                multiply(from: opened, by: weight)
            } else {
                append(text[start..<end])
            }
            return end
        case ")":
            guard let opened = round.popLast() else { break }
            multiply(from: opened, by: 1.1)
            return next
        case "]":
            guard let opened = square.popLast() else { break }
            multiply(from: opened, by: 1 / 1.1)
            return next
        default:
            let end = text[start...].firstIndex { "\\()[]:".unicodeScalars.contains($0) } ?? text.count
            append(text[start..<end])
            return end
        }
        append(text[start..<next])
        return next
    }

    /// Returns the number in `: 1.3 )` and the place after the bracket.
    private func closingWeight(_ text: [Unicode.Scalar], from start: Int) -> (PromptText.Scalars, Int)? {
        let rest = text[start...].drop(while: PromptText.isSpace)
        var end = rest.startIndex
        if let sign = rest.first, sign == "+" || sign == "-" { end += 1 }
        let digits = text[end...].prefix { $0 == "." || PromptText.digit($0) != nil }
        let after = text[digits.endIndex...].drop(while: PromptText.isSpace)
        guard !digits.isEmpty, after.first == ")" else { return nil }
        return (text[rest.startIndex..<digits.endIndex], after.startIndex + 1)
    }

    /// Adds text, which BREAKs with the spaces around them cut into sections.
    private mutating func append(_ text: PromptText.Scalars) {
        var start = text.startIndex
        for place in PromptText.places(of: "BREAK", in: text) {
            pieces.append(PromptPiece(text: Array(PromptText.withoutSpacesBehind(text[start..<place.lowerBound]))))
            breaks.append(pieces.count)
            start = text[place.upperBound...].drop(while: PromptText.isSpace).startIndex
        }
        pieces.append(PromptPiece(text: Array(text[start...])))
    }

    private mutating func multiply(from start: Int, by factor: Double) {
        for place in start..<pieces.count { pieces[place].weight *= factor }
    }
}
