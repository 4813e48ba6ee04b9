#if canImport(CoreGraphics)
    import CoreGraphics
    import Foundation

    /// The type of pictures in Apple's names.
    public typealias PlatformImage = CGImage

    extension RGBImage {
        /// Copies a picture as sRGB; transparent parts lie over white. Throws where CoreGraphics cannot draw it.
        public init(cgImage: CGImage) throws {
            let (width, height) = (cgImage.width, cgImage.height)
            var pixels = [UInt8](repeating: 255, count: 4 * width * height)
            let isDrawn = pixels.withUnsafeMutableBytes { buffer -> Bool in
                guard let space = CGColorSpace(name: CGColorSpace.sRGB),
                    let context = CGContext(
                        data: buffer.baseAddress, width: width, height: height, bitsPerComponent: 8,
                        bytesPerRow: 4 * width,
                        space: space, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
                else { return false }
                let all = CGRect(x: 0, y: 0, width: width, height: height)
                context.setFillColor(red: 1, green: 1, blue: 1, alpha: 1)
                context.fill(all)
                context.draw(cgImage, in: all)
                return true
            }
            guard isDrawn else {
                throw DiffusionError(.request, "the picture of \(width) x \(height) cannot be drawn as sRGB")
            }
            var bytes: [UInt8] = []
            bytes.reserveCapacity(3 * width * height)
            for i in 0..<width * height { bytes += pixels[4 * i..<4 * i + 3] }
            try self.init(width: width, height: height, bytes: bytes)
        }

        /// Returns the picture as sRGB; nil where there is no memory for it.
        public var cgImage: CGImage? {
            guard let space = CGColorSpace(name: CGColorSpace.sRGB),
                let provider = CGDataProvider(data: Data(bytes) as CFData)
            else { return nil }
            return CGImage(
                width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 24, bytesPerRow: 3 * width,
                space: space,
                bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue), provider: provider, decode: nil,
                shouldInterpolate: true, intent: .defaultIntent)
        }

        /// Returns the picture as Apple's names have it.
        public var platformImage: PlatformImage? { cgImage }

        /// Reads a picture of Apple's names.
        public init(platformImage: PlatformImage) throws { try self.init(cgImage: platformImage) }
    }
#else
    /// The type of pictures in Apple's names; without CoreGraphics our own.
    public typealias PlatformImage = RGBImage

    extension RGBImage {
        /// Returns the picture as Apple's names have it.
        public var platformImage: PlatformImage? { self }

        /// Reads a picture of Apple's names.
        public init(platformImage: PlatformImage) throws { self = platformImage }
    }
#endif
