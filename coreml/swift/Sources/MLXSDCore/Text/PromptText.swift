/// What Python's regular expressions and `float` understand, so that prompts are read alike in both languages.
enum PromptText {
    typealias Scalars = ArraySlice<Unicode.Scalar>

    /// Returns whether a scalar is a space, `\s`.
    static func isSpace(_ scalar: Unicode.Scalar) -> Bool {
        (0x1c...0x1f).contains(scalar.value) || scalar.properties.isWhitespace
    }

    /// Returns whether a scalar is part of a word, `\w`.
    static func isWord(_ scalar: Unicode.Scalar) -> Bool {
        if scalar == "_" || scalar.properties.numericType != nil { return true }
        switch scalar.properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: return true
        default: return false
        }
    }

    /// Returns a decimal digit of any script as its value, `\d`.
    static func digit(_ scalar: Unicode.Scalar) -> Int? {
        guard scalar.properties.generalCategory == .decimalNumber else { return nil }
        return scalar.properties.numericValue.map { Int($0) }
    }

    /// Returns a text without spaces around it.
    static func trimmed(_ text: Scalars) -> Scalars {
        withoutSpacesBehind(text.drop(while: isSpace))
    }

    /// Returns a text without spaces at its end.
    static func withoutSpacesBehind(_ text: Scalars) -> Scalars {
        var text = text
        while let last = text.last, isSpace(last) { text.removeLast() }
        return text
    }

    /// Returns scalars as text.
    static func string(_ scalars: some Sequence<Unicode.Scalar>) -> String {
        String(String.UnicodeScalarView(scalars))
    }

    /// Returns the ranges of a word, such as BREAK, that stands by itself: `\bBREAK\b`.
    static func places(of word: String, in text: Scalars) -> [Range<Int>] {
        let word = Array(word.unicodeScalars)
        var places: [Range<Int>] = []
        var place = text.startIndex
        while place < text.endIndex {
            let end = place + word.count
            let fits =
                text[place...].starts(with: word) && (place == text.startIndex || !isWord(text[place - 1]))
                && (end == text.endIndex || !isWord(text[end]))
            if fits { places.append(place..<end) }
            place = fits ? end : place + 1
        }
        return places
    }

    /// Returns the number that Python's `float` reads in a text; nil where it reads none.
    static func number(_ text: Scalars) -> Double? {
        var ascii = ""
        var before: Unicode.Scalar?
        let text = trimmed(text)
        for (place, scalar) in zip(text.indices, text) {
            if let digit = digit(scalar) {
                ascii.append(String(digit))
            } else if scalar == "_" {  // between digits alone
                guard let before, self.digit(before) != nil, place + 1 < text.endIndex,
                    digit(text[place + 1]) != nil
                else { return nil }
            } else {
                ascii.unicodeScalars.append(scalar)
            }
            before = scalar
        }
        let word = ascii.lowercased().drop { $0 == "+" || $0 == "-" }
        let isNamed = ["inf", "infinity", "nan"].contains(String(word)) && ascii.count - word.count <= 1
        let isDecimal = ascii.unicodeScalars.allSatisfy { "0123456789+-.eE".unicodeScalars.contains($0) }
        return isNamed || isDecimal ? Double(ascii) : nil
    }
}

/// A part of a prompt that goes to the tokenizer as it is, and the weight of its tokens.
struct PromptPiece: Equatable, Sendable {
    var text: [Unicode.Scalar]
    var weight = 1.0

    /// Returns pieces with neighbours of equal weight made one; without any, one empty piece.
    static func joined(_ pieces: some Sequence<PromptPiece>) -> [PromptPiece] {
        var result: [PromptPiece] = []
        for piece in pieces {
            if let last = result.last, last.weight == piece.weight {
                result[result.count - 1].text += piece.text
            } else {
                result.append(piece)
            }
        }
        return result.isEmpty ? [PromptPiece(text: [])] : result
    }
}
