/// The pattern by which OpenAI's CLIP cuts text into words, scanned by hand:
/// `<|startoftext|>`, `<|endoftext|>`, `'s 't 're 've 'm 'll 'd`, letters, one digit, or a run of anything but spaces.
enum CLIPPattern {
    private static let contractions = ["s", "t", "re", "ve", "m", "ll", "d"].map { Array($0.unicodeScalars) }
    private static let marks = ["<|startoftext|>", "<|endoftext|>"].map { Array($0.unicodeScalars) }

    /// Returns the ranges of the words of a text in lower case.
    static func words(_ text: [Unicode.Scalar]) -> [Range<Int>] {
        var words: [Range<Int>] = []
        var place = 0
        while place < text.count {
            let scalar = text[place]
            if scalar == "'", let tail = contractions.first(where: { text[(place + 1)...].starts(with: $0) }) {
                words.append(place..<place + 1 + tail.count)
                place += 1 + tail.count
                continue
            }
            if scalar == "<", let mark = marks.first(where: { text[place...].starts(with: $0) }) {
                // The bytes' own pattern cuts the brackets off once more.
                let end = place + mark.count
                words += [place..<place + 2, place + 2..<end - 2, end - 2..<end]
                place = end
                continue
            }
            let kind = Kind(scalar)
            var end = place + 1
            if kind == .letter || kind == .other {
                while end < text.count, Kind(text[end]) == kind { end += 1 }
            }
            if kind != .space { words.append(place..<end) }
            place = end
        }
        return words
    }

    private enum Kind {
        case letter, number, space, other

        init(_ scalar: Unicode.Scalar) {
            if scalar.isASCII {
                switch scalar.value {
                case 0x61...0x7a, 0x41...0x5a: self = .letter
                case 0x30...0x39: self = .number
                case 0x20, 0x09...0x0d: self = .space
                default: self = .other
                }
                return
            }
            switch scalar.properties.generalCategory {
            case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: self = .letter
            case .decimalNumber, .letterNumber, .otherNumber: self = .number
            default: self = scalar.properties.isWhitespace ? .space : .other
            }
        }
    }
}
