/// The nearest right name for one that is spelled wrong.
package enum Suggestions {
    /// Returns the error for a name of some kind that is not among `names`.
    static func unknown(_ kind: String, _ name: String, _ names: [String]) -> DiffusionError {
        let hint = closest(name, names).map { " did you mean \"\($0)\"?" } ?? ""
        return DiffusionError(
            .request, "unknown \(kind) \"\(name)\";\(hint) there are \(names.joined(separator: ", "))")
    }

    /// Returns the name that needs the fewest changes of letters; nil where none is close.
    static func closest(_ name: String, _ names: [String]) -> String? {
        let letters = Array(name.lowercased().prefix(60))
        let ranked = names.map { (distance(letters, Array($0.lowercased())), $0) }.min { $0.0 < $1.0 }
        guard let (changes, nearest) = ranked, changes <= max(1, nearest.count / 3) else { return nil }
        return nearest
    }

    /// Returns how many letters must be put in, left out or replaced between two names.
    package static func distance<Letter: Equatable>(_ a: [Letter], _ b: [Letter]) -> Int {
        var row = Array(0...b.count)
        for (i, letter) in a.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, other) in b.enumerated() {
                let change = min(row[j] + 1, row[j + 1] + 1, diagonal + (letter == other ? 0 : 1))
                diagonal = row[j + 1]
                row[j + 1] = change
            }
        }
        return row[b.count]
    }
}
