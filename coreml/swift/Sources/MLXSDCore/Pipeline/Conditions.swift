import Foundation

/// The UNet's inputs of a picture beside latents and timestep: where guided the negative prompt's row, then one for each
/// of the prompts that AND joins.
struct Conditions: Sendable {
    /// `encoder_hidden_states`, `time_ids`, ... by name, of `rows` rows each.
    let inputs: [String: Tensor]
    let isGuided: Bool
    /// Of the guidance of each prompt; [1] without AND.
    let weights: [Float]

    var rows: Int { weights.count + (isGuided ? 1 : 0) }

    /// Returns the rows of the prompts alone.
    var prompts: Conditions {
        isGuided ? Conditions(inputs: inputs.mapValues { $0.rows(1..<rows) }, isGuided: false, weights: weights) : self
    }

    /// Returns the embedding of a guidance scale, (1, width), as latent consistency models take it (Luo et al. 2023).
    static func guidanceEmbedding(_ guidance: Float, width: Int) -> Tensor {
        let half = width / 2
        let value = 1000 * (guidance - 1)
        let angles = (0..<half).map { i -> Float in
            let rate = -Float(log(10000.0)) * Float(i) / Float(half - 1)
            return value * exp(rate)
        }
        return Tensor(shape: [1, 2 * half], values: angles.map { sin($0) } + angles.map { cos($0) })
    }
}

/// Guidance: the prediction without a prompt, moved towards the one with it.
enum Guidance {
    /// Returns u + scale (c - u) of rows u, c_1, c_2, ..., where c = u + the sum of weight_k (c_k - u).
    ///
    /// rescale: how far the contrast is taken back to that of c (Lin et al. 2023, eq. 15 and 16).
    static func guide(_ rows: Tensor, weights: [Float], scale: Float, rescale: Float) -> [Float] {
        let count = rows.values.count / rows.rows
        let base = rows.values[..<count]
        var target = Array(rows.values[count..<2 * count])
        if weights != [1] {
            target = Array(base)
            for (k, weight) in weights.enumerated() {
                for i in 0..<count { target[i] += weight * (rows.values[(k + 1) * count + i] - base[i]) }
            }
        }
        var guided = Array(base)
        guided.withUnsafeMutableBufferPointer { guided in
            target.withUnsafeBufferPointer { target in
                for i in 0..<count { guided[i] += scale * (target[i] - guided[i]) }
            }
        }
        if rescale == 0 { return guided }
        let factor = rescale * (deviation(target) / deviation(guided)) + (1 - rescale)
        return guided.map { $0 * factor }
    }

    private static func deviation(_ values: [Float]) -> Float {
        let count = Double(values.count)
        let mean = values.reduce(0.0) { $0 + Double($1) } / count
        let squares = values.reduce(0.0) { $0 + (Double($1) - mean) * (Double($1) - mean) }
        return Float((squares / (count - 1)).squareRoot())
    }
}
