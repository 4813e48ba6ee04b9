/// Small previews of latents without a decoder: one pixel for each latent, by a linear map to colours.
///
/// The maps are published fits: for SD 1 and 2 by Kevin Turner, for SDXL by Timothy Alexis Vass.
public enum LatentPreview {
    /// A level of 256 is offset + factor * the sum of weights * latents.
    private struct Map {
        let weights: [[Float]]  // of each channel: red, green, blue
        let factor: Float
        let offsets: [Float]
    }

    private static let small = Map(
        weights: [
            [0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473],
        ],
        factor: 127.5, offsets: [127.5, 127.5, 127.5])
    private static let large = Map(
        weights: [[60, 60, 60], [-60, -5, 10], [25, 15, -5], [-70, -50, -35]],
        factor: 1, offsets: [150, 140, 130])

    /// Returns a picture of one pixel for each latent, (1, 4, height, width); nil for latents of other channels.
    ///
    /// isXL: whether these are latents of SDXL.
    public static func image(of latents: Tensor, isXL: Bool) -> RGBImage? {
        guard latents.shape.count == 4, latents.shape[1] == 4 else { return nil }
        let map = isXL ? large : small
        let (height, width) = (latents.shape[2], latents.shape[3])
        let count = height * width
        var bytes = [UInt8](repeating: 0, count: 3 * count)
        for i in 0..<count {
            for colour in 0..<3 {
                var sum: Float = 0
                for channel in 0..<4 {
                    sum += map.weights[channel][colour] * latents.values[channel * count + i]
                }
                let level = map.offsets[colour] + map.factor * sum
                guard level.isFinite else { return nil }
                bytes[3 * i + colour] = UInt8(min(max(level, 0), 255).rounded(.toNearestOrEven))
            }
        }
        return RGBImage(checkedWidth: width, height: height, bytes: bytes)
    }
}
