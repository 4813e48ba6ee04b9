/// The part of an image that is painted anew, in pixels and in latents.
struct PaintingMask: Sendable {
    /// Of the image that it came with: 255 where to paint, else 0.
    let original: [UInt8]
    /// Whether to paint, for each pixel of the picture that is made.
    let pixels: [Bool]
    /// 1 where to paint, else 0, for each latent.
    let latents: [Float]

    private static let half: UInt8 = 127  // grey up to here is black

    /// Reads a mask of any size; throws where it does not fit its image, or paints nothing or everything.
    ///
    /// image: (width, height) of the image. size: of the picture. factor: pixels along each side of a latent.
    init(
        _ mask: RGBImage, image: (width: Int, height: Int), size: (width: Int, height: Int), factor: Int
    ) throws {
        let difference = abs(mask.width * image.height - mask.height * image.width)
        guard difference <= max(mask.width, mask.height, image.width, image.height) else {
            throw DiffusionError(
                .request,
                "the mask is \(mask.width) x \(mask.height) and the image \(image.width) x \(image.height); "
                    + "give one of the same shape")
        }
        let shades = Self.resized(mask.greys, (mask.width, mask.height), image)
        let brightest = shades.max() ?? 0
        guard brightest > Self.half else {
            let shade = brightest > 0 ? "darker than half grey" : "black"
            throw DiffusionError(
                .request, "the mask is \(shade) all over: nothing would be painted; make white what is to change")
        }
        guard shades.contains(where: { $0 <= Self.half }) else {
            throw DiffusionError(
                .request,
                "the mask is brighter than half grey all over: nothing of the image would be kept; leave the "
                    + "image out")
        }
        original = shades.map { $0 > Self.half ? 255 : 0 }
        let paints = Self.resized(original, image, size).map { $0 > Self.half }
        pixels = paints
        // Of each latent the first pixel decides, as in diffusers and in the training of inpainting checkpoints.
        latents = stride(from: 0, to: size.height, by: factor).flatMap { y in
            stride(from: 0, to: size.width, by: factor).map { x in paints[y * size.width + x] ? 1 : 0 }
        }
        guard latents.contains(1) else {
            throw DiffusionError(.request, "the mask is too thin to be seen in latents; make it wider")
        }
    }

    private static func resized(
        _ greys: [UInt8], _ from: (width: Int, height: Int), _ to: (width: Int, height: Int)
    ) -> [UInt8] {
        from == to ? greys : Lanczos.resize(greys, from: from, to: to, channels: 1)
    }

    /// Returns pixels (1, 3, height, width) with 0 where to paint.
    func hiding(_ image: Tensor) -> Tensor {
        var values = image.values
        for i in values.indices where pixels[i % pixels.count] { values[i] = 0 }
        return Tensor(shape: image.shape, values: values)
    }

    /// Returns latents where to paint, else those of the image with the noise of their level.
    func keeping(
        _ image: [Float], _ noise: [Float], in latents: [Float], signal: Double, deviation: Double
    ) -> [Float] {
        let signal = Float(signal)
        let deviation = Float(deviation)
        let count = self.latents.count
        var kept = latents
        for i in kept.indices {
            let mask = self.latents[i % count]
            kept[i] = (1 - mask) * (signal * image[i] + deviation * noise[i]) + mask * latents[i]
        }
        return kept
    }

    /// Returns the image with the painted part of a picture in its place.
    func finished(_ picture: RGBImage, over image: RGBImage) -> RGBImage {
        let painted = picture.resized(width: image.width, height: image.height)
        var bytes = image.bytes
        for i in bytes.indices where original[i / 3] > 0 { bytes[i] = painted.bytes[i] }
        return RGBImage(checkedWidth: image.width, height: image.height, bytes: bytes)
    }
}
