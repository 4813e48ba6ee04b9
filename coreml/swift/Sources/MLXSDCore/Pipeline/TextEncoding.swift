/// Prompts as the UNet takes them: chunks of tokens, encoded one by one, weighted, and joined.
struct TextEncoding: Sendable {
    let info: ModelSetInfo
    let tokenizers: [CLIPTokenizer]

    /// The chunks of a prompt for each text encoder.
    struct Prompt: Sendable {
        let chunks: [[PromptChunk]]

        /// How many chunks the longest of them has.
        var count: Int { chunks.map(\.count).max() ?? 0 }
    }

    /// What the text encoders made of a prompt.
    struct Encoded {
        let context: Tensor  // (1, tokens, channels) of all encoders side by side
        let pooled: Tensor?  // (1, width), of the last encoder

        var zeros: Encoded { Encoded(context: context.scaled(0), pooled: pooled?.scaled(0)) }
    }

    /// Whether the UNet takes pooled text and sizes, as SDXL's does.
    var pools: Bool { info.networks.unet.addedTimeWidth != nil }

    /// Splits a prompt into chunks; second: the text for a second encoder, nil for the same one.
    func prompt(_ text: String, second: String?, style: PromptStyle) throws -> Prompt {
        Prompt(
            chunks: try tokenizers.enumerated().map { i, tokenizer in
                try promptChunks(i > 0 ? second ?? text : text, tokenizer: tokenizer, style: style)
            })
    }

    /// Encodes the prompts of a plan and returns all inputs of the UNet beside its latents.
    ///
    /// reduceMemory: frees each encoder after its last run.
    func conditions(
        of plan: GenerationPlan, runner: NetworkRunner, reduceMemory: Bool
    ) async throws -> Conditions {
        let prompts = (plan.isGuided ? [plan.negative] : []) + plan.prompts.map(\.prompt)
        var encoded = try await encode(
            prompts, chunks: plan.chunks, style: plan.style, runner: runner, reduceMemory: reduceMemory)
        if plan.isGuided, plan.zerosForNegative { encoded[0] = encoded[0].zeros }
        var inputs = ["encoder_hidden_states": hiddenStates(encoded.map(\.context))]
        if pools {
            inputs["text_embeds"] = .joined(encoded.compactMap(\.pooled))
            inputs["time_ids"] = plan.timeIDs(rows: encoded.count)
        }
        if let width = info.networks.unet.guidanceWidth {
            inputs["timestep_cond"] = Conditions.guidanceEmbedding(plan.guidance, width: width).repeated(encoded.count)
        }
        return Conditions(inputs: inputs, isGuided: plan.isGuided, weights: plan.prompts.map(\.weight))
    }

    /// Encodes prompts, each filled up to so many chunks; reduceMemory: frees each encoder after its last run.
    func encode(
        _ prompts: [Prompt], chunks count: Int, style: PromptStyle, runner: NetworkRunner, reduceMemory: Bool
    ) async throws -> [Encoded] {
        var contexts: [[Tensor]] = prompts.map { _ in [] }
        var pooled: [Tensor?] = prompts.map { _ in nil }
        for (i, part) in info.networks.textEncoders.enumerated() {
            try await runner.backend.load(part.part, size: "any")
            var empty: Tensor?
            if prompts.contains(where: {
                $0.chunks[i].count < count || PromptWeights.needEmpty($0.chunks[i], style: style)
            }) {
                empty = try await run([.empty(tokenizers[i])], part.part, runner).hidden
            }
            for (number, prompt) in prompts.enumerated() {
                let chunks = prompt.chunks[i]
                let (hidden, pool) = try await run(chunks, part.part, runner)
                pooled[number] = pool
                let weighted = try PromptWeights.apply(chunks, to: hidden, empty: empty, style: style)
                let padding = Array(repeating: empty, count: count - chunks.count).compactMap { $0 }
                let rows = Tensor.joined([weighted] + padding)
                let (tokens, width) = (rows.rows * rows.shape[1], rows.shape[2])
                contexts[number].append(Tensor(shape: [tokens, width], values: rows.values))
            }
            if reduceMemory { await runner.backend.unload(part.part, size: "any") }
        }
        return zip(contexts, pooled).map { contexts, pooled in
            let joined = Tensor.joinedChannels(contexts)
            return Encoded(
                context: Tensor(shape: [1] + joined.shape, values: joined.values), pooled: pools ? pooled : nil)
        }
    }

    /// Returns hidden states (chunks, tokens, channels), and the pooled output of the first chunk.
    private func run(
        _ chunks: [PromptChunk], _ part: String, _ runner: NetworkRunner
    ) async throws -> (hidden: Tensor, pooled: Tensor?) {
        var rows: [Tensor] = []
        var pooled: Tensor?
        for chunk in chunks {
            let input = Tensor(shape: [1, chunk.ids.count], values: chunk.ids.map(Float.init))
            let outputs = try await runner.run(part, ["input_ids": input], size: "any")
            guard let hidden = outputs["hidden_embeds"] ?? outputs["last_hidden_state"] else {
                throw DiffusionError(.network, "\(part) gave no hidden states; export the set again")
            }
            rows.append(hidden)
            pooled = pooled ?? outputs["pooled_outputs"]
        }
        return (.joined(rows), pooled)
    }

    /// Returns rows (1, tokens, channels) as the networks take them: for Core ML (rows, channels, 1, tokens).
    func hiddenStates(_ rows: [Tensor]) -> Tensor {
        let joined = Tensor.joined(rows)
        if info.isCoreAI { return joined }
        let (tokens, width) = (joined.shape[1], joined.shape[2])
        var values = [Float](repeating: 0, count: joined.values.count)
        for row in 0..<joined.rows {
            let start = row * tokens * width
            for token in 0..<tokens {
                for channel in 0..<width {
                    values[start + channel * tokens + token] = joined.values[start + token * width + channel]
                }
            }
        }
        return Tensor(shape: [joined.rows, width, 1, tokens], values: values)
    }
}
