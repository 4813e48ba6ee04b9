import Foundation

/// Turns text into token ids, exactly as the Python side and transformers' CLIPTokenizer: byte pairs of words that a
/// pattern cuts.
public struct CLIPTokenizer: Sendable {
    /// The ids of the special tokens.
    public let start, end, pad: Int
    /// The tokens of a chunk, start and end included: 77.
    public let length: Int

    let vocabulary: Vocabulary
    private let specials: [(text: [Unicode.Scalar], id: Int)]  // the longest first

    /// Reads the contents of vocab.json and merges.txt; the ids of special tokens are those of info.json's `tokenizers`.
    ///
    /// Throws DiffusionError where the files are no vocabulary, or do not fit together or to the ids.
    public init(vocabulary: Data, merges: Data, start: Int, end: Int, pad: Int, length: Int) throws {
        let vocabulary = try Vocabulary(vocabulary: vocabulary, merges: merges)
        try self.init(vocabulary: vocabulary, start: start, end: end, pad: pad, length: length)
    }

    /// Takes a vocabulary, which tokenizers may share; throws as the other.
    init(vocabulary: Vocabulary, start: Int, end: Int, pad: Int, length: Int) throws {
        guard length > 2 else {
            throw DiffusionError(.files, "a tokenizer's length is above 2, not \(length)")
        }
        var specials: [(text: [Unicode.Scalar], id: Int)] = []
        for (name, id) in [("start", start), ("end", end), ("pad", pad)] {
            guard let text = vocabulary.text(id), !text.isEmpty else {
                throw DiffusionError(
                    .files, "vocab.json has no token with the id \(id), which info.json says is the \(name) token")
            }
            if !specials.contains(where: { $0.id == id }) { specials.append((Array(text.unicodeScalars), id)) }
        }
        self.vocabulary = vocabulary
        self.specials = specials.sorted { $0.text.count > $1.text.count }
        (self.start, self.end, self.pad, self.length) = (start, end, pad, length)
    }

    /// Returns the ids of a text between the start and the end token, cut at `length`, not padded.
    public func encode(_ text: String) -> [Int] {
        [start] + words(text).prefix(length - 2) + [end]
    }

    /// Returns the ids of a text of any length, without special tokens around them.
    public func words(_ text: String) -> [Int] {
        let scalars = Array(text.unicodeScalars)
        var ids: [Int] = []
        var ordinary = 0  // where the text since the last special token begins
        var place = 0
        while place < scalars.count {
            guard let special = special(in: scalars, at: place) else {
                place += 1
                continue
            }
            append(scalars[ordinary..<place], to: &ids)
            ids.append(special.id)
            place += special.text.count
            ordinary = place
        }
        append(scalars[ordinary...], to: &ids)
        return ids
    }

    private func special(in scalars: [Unicode.Scalar], at place: Int) -> (text: [Unicode.Scalar], id: Int)? {
        for special in specials where special.text[0] == scalars[place] {
            if scalars[place...].starts(with: special.text) { return special }
        }
        return nil
    }

    /// Returns the id of a word that is one token; nil for any other.
    public func token(_ word: String) -> Int? {
        vocabulary.id(word + "</w>")
    }

    /// Appends the ids of text without special tokens.
    private func append(_ scalars: ArraySlice<Unicode.Scalar>, to ids: inout [Int]) {
        if scalars.isEmpty { return }
        let text = Self.lowercased(UnicodeForms.composed(Array(scalars)))
        for word in CLIPPattern.words(text) { vocabulary.append(text[word], unknown: end, to: &ids) }
    }

    /// Returns scalars in lower case, each by itself: a final sigma is no special case.
    private static func lowercased(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        result.reserveCapacity(scalars.count)
        for scalar in scalars {
            switch scalar.value {
            case 0x41...0x5a: result.append(Unicode.Scalar(UInt8(scalar.value + 0x20)))
            case ..<0x80: result.append(scalar)
            default: result.append(contentsOf: scalar.properties.lowercaseMapping.unicodeScalars)
            }
        }
        return result
    }
}
