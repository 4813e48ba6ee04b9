/// How weights of tokens change what a text encoder returns.
public enum PromptWeights {
    /// Of a chunk's mean, as a share of its standard deviation, below which it is not restored.
    private static let leastMean: Float = 1e-4

    /// Returns whether weights in a style need the hidden states of an empty text too.
    public static func needEmpty(_ chunks: [PromptChunk], style: PromptStyle) -> Bool {
        style == .comfy && chunks.contains(where: \.hasWeights)
    }

    /// Returns hidden states with the weights of their tokens, as the Python side does; weights of 1 change none.
    ///
    /// - Parameters:
    ///   - chunks: of one prompt.
    ///   - hidden: (chunks, tokens, channels), what the text encoder returns for them.
    ///   - empty: (1, tokens, channels), what it returns for `PromptChunk.empty`; needed where `needEmpty` says so.
    /// - Throws: DiffusionError for shapes that do not fit.
    public static func apply(
        _ chunks: [PromptChunk], to hidden: Tensor, empty: Tensor? = nil, style: PromptStyle = .a1111
    ) throws -> Tensor {
        guard let channels = hidden.shape.last, let length = chunks.first?.ids.count,
            hidden.shape == [chunks.count, length, channels]
        else {
            throw DiffusionError(
                .network,
                "hidden states are of shape (chunks, tokens, channels) of \(chunks.count) chunks, "
                    + "not \(hidden.shape)")
        }
        guard chunks.contains(where: \.hasWeights) else { return hidden }
        guard style == .comfy else { return scaled(chunks, hidden, channels) }
        guard let empty, empty.shape == [1, length, channels] else {
            throw DiffusionError(
                .network, "weights in ComfyUI's style need an empty text's hidden states (1, \(length), \(channels))")
        }
        return interpolated(chunks, hidden, empty.values, channels)
    }

    /// Multiplies the rows of tokens by their weights, then each chunk so that its mean is what it was, as A1111.
    private static func scaled(_ chunks: [PromptChunk], _ hidden: Tensor, _ channels: Int) -> Tensor {
        var values = hidden.values
        for (number, chunk) in chunks.enumerated() where chunk.hasWeights {
            let size = chunk.ids.count * channels
            let rows = number * size..<(number + 1) * size
            let before = mean(values[rows])
            for (row, weight) in chunk.weights.enumerated() where weight != 1 {
                let start = rows.lowerBound + row * channels
                for place in start..<start + channels { values[place] *= weight }
            }
            let after = mean(values[rows])
            guard abs(after) > Double(leastMean) * deviation(values[rows], mean: after) else { continue }
            let factor = Float(before / after)
            for place in rows { values[place] *= factor }
        }
        return Tensor(shape: hidden.shape, values: values)
    }

    /// Moves the rows of tokens away from those of an empty text, e + w (z - e), as ComfyUI; others stay as they are.
    private static func interpolated(
        _ chunks: [PromptChunk], _ hidden: Tensor, _ empty: [Float], _ channels: Int
    ) -> Tensor {
        var values = hidden.values
        for (number, chunk) in chunks.enumerated() {
            for (row, weight) in chunk.weights.enumerated() where weight != 1 {
                let start = (number * chunk.ids.count + row) * channels
                for channel in 0..<channels {
                    let base = empty[row * channels + channel]
                    values[start + channel] = base + weight * (values[start + channel] - base)
                }
            }
        }
        return Tensor(shape: hidden.shape, values: values)
    }

    private static func mean(_ values: ArraySlice<Float>) -> Double {
        values.reduce(0) { $0 + Double($1) } / Double(values.count)
    }

    private static func deviation(_ values: ArraySlice<Float>, mean: Double) -> Double {
        (values.reduce(0) { $0 + (Double($1) - mean) * (Double($1) - mean) } / Double(values.count)).squareRoot()
    }
}
