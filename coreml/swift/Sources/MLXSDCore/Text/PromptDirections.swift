/// A prompt and the strength of its guidance beside that of the others which AND joins (Liu et al. 2022, eq. 11).
public struct PromptDirection: Sendable, Equatable {
    public let text: String
    public let weight: Double

    /// Joins a text and its weight.
    public init(text: String, weight: Double = 1) {
        self.text = text
        self.weight = weight
    }

    /// Returns the prompts between ANDs, each with the number behind its last colon, `a tent AND a moon :0.5`.
    ///
    /// Without AND the text is one prompt as it stands: a number at its end, as in "16:9", weighs nothing.
    public static func all(_ prompt: String) -> [PromptDirection] {
        let text = Array(prompt.unicodeScalars)[...]
        let places = PromptText.places(of: "AND", in: text)
        if places.isEmpty { return [PromptDirection(text: prompt)] }
        let starts = [0] + places.map(\.upperBound)
        let ends = places.map(\.lowerBound) + [text.count]
        return zip(starts, ends).map { one(text[$0..<$1]) }
    }

    private static func one(_ text: PromptText.Scalars) -> PromptDirection {
        var (text, number) = (text, 1.0)
        if let colon = text.lastIndex(of: ":"), let weight = weight(text[(colon + 1)...]) {
            (text, number) = (text[..<colon], weight)
        }
        return PromptDirection(text: PromptText.string(PromptText.withoutSpacesBehind(text)), weight: number)
    }

    private static func weight(_ text: PromptText.Scalars) -> Double? {
        let digits = PromptText.trimmed(text)
        let unsigned = digits.first == "+" || digits.first == "-" ? digits.dropFirst() : digits
        guard unsigned.allSatisfy({ $0 == "." || PromptText.digit($0) != nil }) else { return nil }
        return PromptText.number(digits)
    }
}
