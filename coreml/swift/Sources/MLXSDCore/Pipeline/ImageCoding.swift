import Foundation

/// Latents to pictures and back, by the set's autoencoder.
struct ImageCoding: Sendable {
    let runner: NetworkRunner

    static let decoder = "vae_decoder"
    static let encoder = "vae_encoder"

    /// Mean and standard deviation of a picture's latents before they are scaled; no deviation where they are certain.
    struct Posterior: Sendable {
        let mean: Tensor
        let deviation: Tensor?
    }

    /// Decodes latents of the UNet, (1, channels, height, width).
    func decode(_ latents: Tensor) async throws -> RGBImage {
        try await RGBImage(pixels: pixels(of: latents))
    }

    /// Decodes latents of the UNet to pixels about in [-1, 1], (1, 3, height, width).
    func pixels(of latents: Tensor) async throws -> Tensor {
        let outputs = try await runner.run(Self.decoder, ["z": unscaled(latents)])
        return try runner.output("image", of: outputs, role: Self.decoder)
    }

    /// Encodes pixels in [-1, 1], (1, 3, height, width).
    func posterior(of pixels: Tensor) async throws -> Posterior {
        let inputs = runner.info.inputs(of: Self.encoder, size: runner.size)
        guard let port = inputs.keys.first(where: { $0 == "x" || $0 == "image" }) else {
            throw DiffusionError(.files, "the set has no VAE encoder for \(runner.size); export it")
        }
        let outputs = try await runner.run(Self.encoder, [port: pixels])
        guard let moments = outputs["latent"] ?? outputs["latent_params"] else {
            throw DiffusionError(.network, "the VAE encoder gave no latents; export the set again")
        }
        guard moments.values.allSatisfy(\.isFinite) else {
            throw DiffusionError(
                .network,
                "the encoded picture is not finite: the VAE overflows float16; run it on other units, or export it as "
                    + "float32")
        }
        let channels = runner.info.networks.vae.latentChannels
        let shape = [1, channels] + moments.shape.dropFirst(2)
        let count = shape.reduce(1, *)
        let mean = Tensor(shape: shape, values: Array(moments.values[..<count]))
        if runner.info.networks.vae.isDeterministic || moments.values.count < 2 * count {
            return Posterior(mean: mean, deviation: nil)
        }
        let deviation = moments.values[count..<2 * count].map { exp(min(max($0, -30), 20) / 2) }
        return Posterior(mean: mean, deviation: Tensor(shape: shape, values: deviation))
    }

    /// Returns latents as the UNet takes them: the mean + deviation * the noise that `draw` gives.
    func sample(_ posterior: Posterior, draw: () -> [Float]) -> Tensor {
        guard let deviation = posterior.deviation else { return scaled(posterior.mean) }
        var latents = posterior.mean
        let noise = draw()
        for i in latents.values.indices { latents.values[i] += deviation.values[i] * noise[i] }
        return scaled(latents)
    }

    /// Returns the autoencoder's latents, about as large as the UNet takes them.
    func scaled(_ latents: Tensor) -> Tensor {
        let vae = runner.info.networks.vae
        return perChannel(latents) { channel, value in
            if vae.latentsMean.isEmpty { return (value - Float(vae.shiftFactor)) * Float(vae.scalingFactor) }
            let factor = Float(vae.scalingFactor) / Float(vae.latentsDeviation[channel])
            return (value - Float(vae.latentsMean[channel])) * factor
        }
    }

    /// Returns the UNet's latents as the autoencoder takes them.
    func unscaled(_ latents: Tensor) -> Tensor {
        let vae = runner.info.networks.vae
        return perChannel(latents) { channel, value in
            if vae.latentsMean.isEmpty { return value / Float(vae.scalingFactor) + Float(vae.shiftFactor) }
            let factor = Float(vae.latentsDeviation[channel]) / Float(vae.scalingFactor)
            return value * factor + Float(vae.latentsMean[channel])
        }
    }

    private func perChannel(_ latents: Tensor, _ body: (Int, Float) -> Float) -> Tensor {
        let size = latents.values.count / latents.shape[1]
        var values = latents.values
        for i in values.indices { values[i] = body(i / size, values[i]) }
        return Tensor(shape: latents.shape, values: values)
    }
}
