/// A picture of 8 bits a colour, in rows from the top: the type of pictures where there is no CoreGraphics.
public struct RGBImage: Sendable, Equatable {
    /// In pixels.
    public let width: Int
    /// In pixels.
    public let height: Int
    /// width * height * 3 numbers: red, green and blue of each pixel.
    public let bytes: [UInt8]

    /// Joins sides and colours; throws where they do not fit together.
    public init(width: Int, height: Int, bytes: [UInt8]) throws {
        guard width > 0, height > 0, bytes.count == width * height * 3 else {
            throw DiffusionError(
                .request,
                "a picture of \(width) x \(height) has \(max(width, 0) * max(height, 0) * 3) colours, not \(bytes.count)"
            )
        }
        self.init(checkedWidth: width, height: height, bytes: bytes)
    }

    init(checkedWidth width: Int, height: Int, bytes: [UInt8]) {
        (self.width, self.height, self.bytes) = (width, height, bytes)
    }

    /// Returns the size as model sets write it, for example "512x768".
    public var size: String { "\(width)x\(height)" }

    /// Rounds pixels in [-1, 1], (1, 3, height, width), to 256 levels; throws where they are not finite.
    init(pixels: Tensor) throws {
        let (height, width) = (pixels.shape[2], pixels.shape[3])
        let count = width * height
        guard pixels.shape[1] == 3 else {
            throw DiffusionError(.network, "the decoded picture has \(pixels.shape[1]) colours, not 3; export again")
        }
        guard pixels.values.allSatisfy(\.isFinite) else {
            throw DiffusionError(
                .network,
                "the decoded picture is not finite: the VAE overflows float16; run it on other units, or export it as "
                    + "float32")
        }
        var bytes = [UInt8](repeating: 0, count: 3 * count)
        for colour in 0..<3 {
            for i in 0..<count {
                let value = (min(max(pixels.values[colour * count + i], -1), 1) + 1) * 127.5
                bytes[3 * i + colour] = UInt8(value.rounded(.toNearestOrEven))
            }
        }
        self.init(checkedWidth: width, height: height, bytes: bytes)
    }

    /// Returns (1, 3, height, width) numbers, that of each level as `number` says.
    func tensor(number: (UInt8) -> Float) -> Tensor {
        let count = width * height
        let levels = (0...255).map { number(UInt8($0)) }
        var values = [Float](repeating: 0, count: 3 * count)
        for i in 0..<count {
            for colour in 0..<3 { values[colour * count + i] = levels[Int(bytes[3 * i + colour])] }
        }
        return Tensor(shape: [1, 3, height, width], values: values)
    }

    /// Returns the picture at another size, by Lanczos; itself where it has that size.
    public func resized(width: Int, height: Int) -> RGBImage {
        if (width, height) == (self.width, self.height) { return self }
        let bytes = Lanczos.resize(
            bytes, from: (self.width, self.height), to: (width, height), channels: 3)
        return RGBImage(checkedWidth: width, height: height, bytes: bytes)
    }

    /// Returns the brightness of each pixel as masks read it: ITU-R 601, as Pillow rounds it.
    var greys: [UInt8] {
        stride(from: 0, to: bytes.count, by: 3).map { i -> UInt8 in
            let red = 19595 * Int(bytes[i])
            let green = 38470 * Int(bytes[i + 1])
            let blue = 7471 * Int(bytes[i + 2])
            let sum = red + green + blue + 0x8000
            return UInt8(sum >> 16)
        }
    }
}
