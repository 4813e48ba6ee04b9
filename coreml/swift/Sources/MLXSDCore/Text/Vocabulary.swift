import Foundation

/// A byte-pair vocabulary: ids of tokens, and which pairs of tokens are joined in which order.
struct Vocabulary: Sendable {
    private struct Merge {
        let rank: Int32
        let joined: Int32
    }

    private let ids: [String: Int32]
    private let texts: [Int32: String]
    private let merges: [UInt64: Merge]
    private let within: [Int32?]  // the id of each byte within a word
    private let last: [Int32?]  // the id of each byte at the end of a word

    /// Reads the contents of vocab.json and merges.txt.
    init(vocabulary: Data, merges: Data) throws {
        let ids: [String: Int32]
        do {
            ids = try JSONDecoder().decode([String: Int32].self, from: vocabulary)
        } catch {
            throw DiffusionError(.files, "vocab.json is no vocabulary, an object of tokens and their ids")
        }
        self.ids = ids
        texts = Dictionary(ids.map { ($1, $0) }) { first, _ in first }
        let names = Self.byteNames()
        within = names.map { ids[$0] }
        last = names.map { ids[$0 + "</w>"] }
        self.merges = try Self.merges(merges, ids)
    }

    /// Returns the id of a token as the vocabulary writes it, `</w>` at the end of a word.
    func id(_ token: String) -> Int? { ids[token].map(Int.init) }

    /// Returns the token of an id.
    func text(_ id: Int) -> String? { Int32(exactly: id).flatMap { texts[$0] } }

    /// Appends the ids of a word: its bytes, of which the pair of the lowest rank is joined until there is none.
    ///
    /// `unknown` is the id for bytes that the vocabulary lacks.
    func append(_ word: ArraySlice<Unicode.Scalar>, unknown: Int, to result: inout [Int]) {
        let unknown = Int32(truncatingIfNeeded: unknown)
        var tokens: [Int32] = []
        for byte in word.lazy.flatMap({ UTF8.encode($0) ?? .init() }) { tokens.append(Int32(byte)) }
        guard let final = tokens.last else { return }
        tokens = tokens.dropLast().map { within[Int($0)] ?? unknown } + [last[Int(final)] ?? unknown]
        // The rank of each token with the next one, and of the last with none.
        var ranks = tokens.indices.map { rank(tokens, at: $0) }
        while let place = lowest(ranks) {
            guard let merge = merges[Self.pair(tokens[place], tokens[place + 1])] else { break }
            tokens[place] = merge.joined
            tokens.remove(at: place + 1)
            ranks.remove(at: place + 1)
            ranks[place] = rank(tokens, at: place)
            if place > 0 { ranks[place - 1] = rank(tokens, at: place - 1) }
        }
        for token in tokens { result.append(Int(token)) }
    }

    private func rank(_ tokens: [Int32], at place: Int) -> Int32 {
        guard place + 1 < tokens.count else { return .max }
        return merges[Self.pair(tokens[place], tokens[place + 1])]?.rank ?? .max
    }

    /// Returns the first place of the lowest rank; nil where no pair has any.
    private func lowest(_ ranks: [Int32]) -> Int? {
        ranks.withUnsafeBufferPointer { ranks in
            var lowest = Int32.max
            var place: Int?
            var index = 0
            while index < ranks.count {  // the innermost loop: words of other scripts have thousands of bytes
                if ranks[index] < lowest { (lowest, place) = (ranks[index], index) }
                index += 1
            }
            return place
        }
    }

    private static func pair(_ first: Int32, _ second: Int32) -> UInt64 {
        UInt64(UInt32(bitPattern: first)) << 32 | UInt64(UInt32(bitPattern: second))
    }

    private static func merges(_ data: Data, _ ids: [String: Int32]) throws -> [UInt64: Merge] {
        var merges: [UInt64: Merge] = [:]
        var rank: Int32 = 0
        let version = Array("#version".utf8)
        // Bytes are split, as "\r\n" is one Character.
        for line in data.split(whereSeparator: { $0 == 0x0a || $0 == 0x0d }) {
            let parts = line.split(whereSeparator: { $0 == 0x20 || $0 == 0x09 })
            if parts.isEmpty || line.starts(with: version) { continue }
            guard parts.count == 2 else {
                throw DiffusionError(.files, "merges.txt: merge \(rank + 1) is no pair of tokens")
            }
            let (first, second) = (String(decoding: parts[0], as: UTF8.self), String(decoding: parts[1], as: UTF8.self))
            guard let left = ids[first], let right = ids[second], let joined = ids[first + second] else {
                throw DiffusionError(
                    .files, "merges.txt: merge \(rank + 1), \(first) \(second), is not of tokens in vocab.json")
            }
            merges[pair(left, right)] = Merge(rank: rank, joined: joined)
            rank += 1
        }
        return merges
    }

    /// Returns how vocabularies write each byte: as itself where it can be seen, else as a scalar from U+0100 on.
    private static func byteNames() -> [String] {
        var spare: UInt32 = 256
        return (UInt8.min...UInt8.max).map { byte in
            switch byte {
            case 33...126, 161...172, 174...255: return String(Unicode.Scalar(byte))
            default:
                defer { spare += 1 }
                return Unicode.Scalar(spare).map { String($0) } ?? ""
            }
        }
    }
}
