/// Prompts that change while a picture is made, as in A1111: `[from:to:when]`, `[to:when]`, `[from::when]`, `[a|b]`.
///
/// They are told from ordinary brackets here, as A1111's grammar reads them, so that they can be refused.
struct PromptEditing {
    private let text: [Unicode.Scalar]
    private var groups: [Int: (changes: Bool, end: Int)] = [:]  // of the brackets that are closed, by their place

    /// Returns whether a prompt in A1111's style has other texts at some steps.
    static func changes(_ text: [Unicode.Scalar]) -> Bool {
        guard text.contains("[") else { return false }
        var reader = PromptEditing(text: text)
        for place in text.indices.reversed() where text[place] == "[" || text[place] == "(" {
            if let group = reader.group(place) { reader.groups[place] = group }
        }
        var (changes, place) = (false, 0)
        while place < text.count {
            let (inner, end) = reader.sequence(place)
            changes = changes || inner
            // A bar outside of brackets, or a backslash at the end, makes everything ordinary text.
            if end < text.count, text[end] == "|" || text[end] == "\\" { return false }
            place = end + 1
        }
        return changes
    }

    private init(text: [Unicode.Scalar]) {
        self.text = text
    }

    /// Returns whether parts from a place on change, up to a scalar that ends them, and the place of that scalar.
    private func sequence(_ start: Int) -> (changes: Bool, end: Int) {
        var (changes, place) = (false, start)
        while place < text.count {
            if let group = groups[place] {
                changes = changes || group.changes
                place = group.end
                continue
            }
            var end = place
            while end < text.count {
                if text[end] == "\\", end + 1 < text.count, text[end + 1] != "\n" {
                    end += 2  // a scalar that is meant as it stands
                } else if "[]():|\\".unicodeScalars.contains(text[end]) {
                    break
                } else {
                    end += 1
                }
            }
            if end == place { break }
            place = end
        }
        return (changes, place)
    }

    /// Returns what the bracket at a place opens; nil where it opens nothing that is closed.
    private func group(_ start: Int) -> (changes: Bool, end: Int)? {
        var (changes, end) = sequence(start + 1)
        if text[start] == "(" {
            if scalar(end) == ":" {
                let (second, last) = sequence(end + 1)
                (changes, end) = (changes || second, last)
            }
            return scalar(end) == ")" ? (changes, end + 1) : nil
        }
        switch scalar(end) {
        case "]": return (changes, end + 1)
        case "|":
            while scalar(end) == "|" { end = sequence(end + 1).end }
            return scalar(end) == "]" ? (true, end + 1) : nil
        case ":":
            if let last = number(end + 1) { return (true, last) }
            end = sequence(end + 1).end
            guard scalar(end) == ":", let last = number(end + 1) else { return nil }
            return (true, last)
        default: return nil
        }
    }

    private func scalar(_ place: Int) -> Unicode.Scalar? {
        place < text.count ? text[place] : nil
    }

    /// Returns the place after a number that a closing square bracket follows.
    private func number(_ start: Int) -> Int? {
        guard let close = text[min(start, text.count)...].firstIndex(of: "]") else { return nil }
        let digits = PromptText.trimmed(text[start..<close])
        let isPlain = digits.allSatisfy { PromptText.digit($0) != nil || "+-.eE".unicodeScalars.contains($0) }
        return isPlain && PromptText.number(digits) != nil ? close + 1 : nil
    }
}
