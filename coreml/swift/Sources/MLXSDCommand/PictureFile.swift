import Foundation
import MLXSDKit

#if canImport(ImageIO)
    import CoreGraphics
    import ImageIO
#endif

/// Files of pictures.
enum PictureFile {
    enum Format { case png, ppm }

    /// Returns the format by the end of a name.
    static func format(of path: String) throws -> Format {
        switch (path as NSString).pathExtension.lowercased() {
        case "png": return .png
        case "ppm": return .ppm
        default: throw mistake("--output is NAME.png or NAME.ppm, not '\(path)'")
        }
    }

    /// Throws where a file cannot be written, before any work.
    static func checkWritable(_ path: String) throws {
        var isFolder: ObjCBool = false
        if FileManager.default.fileExists(atPath: path, isDirectory: &isFolder), isFolder.boolValue {
            throw mistake("--output \(path) is a folder; give the name of a file")
        }
        let folder = URL(fileURLWithPath: path).deletingLastPathComponent().path
        guard FileManager.default.fileExists(atPath: folder, isDirectory: &isFolder), isFolder.boolValue else {
            throw mistake("--output \(path): the folder \(folder) does not exist")
        }
        guard FileManager.default.isWritableFile(atPath: folder) else {
            throw mistake("--output \(path): the folder \(folder) cannot be written")
        }
    }

    /// Returns the first name for a seed that no file has.
    static func freeName(seed: UInt64) -> String {
        var name = "mlxsd-\(seed).png"
        var number = 2
        while FileManager.default.fileExists(atPath: name) {
            name = "mlxsd-\(seed)-\(number).png"
            number += 1
        }
        return name
    }

    /// Writes a picture; the request's JSON goes into a PNG, where Python's commands find it.
    static func write(_ pixels: RGBImage, to path: String, request: String) throws {
        let content: Data
        switch try format(of: path) {
        case .ppm: content = Data("P6\n\(pixels.width) \(pixels.height)\n255\n".utf8) + Data(pixels.bytes)
        case .png:
            content = PNG.encode(
                pixels.bytes, width: pixels.width, height: pixels.height, text: [("mlx-sd-swift", request)])
        }
        do {
            try content.write(to: URL(fileURLWithPath: path), options: .atomic)
        } catch {
            throw DiffusionError(.files, "\(path) cannot be written: \(error.localizedDescription)")
        }
    }

    /// Reads a picture: binary PPM anywhere, other formats where ImageIO is.
    static func read(_ path: String, option: String) throws -> RGBImage {
        guard let content = FileManager.default.contents(atPath: path) else {
            throw mistake("\(option) \(path) is missing or cannot be read")
        }
        if content.starts(with: Data("P6".utf8)) {
            guard let pixels = ppm(content) else { throw mistake("\(option) \(path) is a damaged PPM") }
            return pixels
        }
        #if canImport(ImageIO)
            guard let pixels = try decoded(content) else {
                throw mistake("\(option) \(path) is no picture that can be read")
            }
            return pixels
        #else
            throw mistake("\(option) \(path): on this system only binary PPM is read; convert it to NAME.ppm first")
        #endif
    }

    /// Returns the picture in a binary PPM of 8 bits, nil where it is damaged.
    static func ppm(_ content: Data) -> RGBImage? {
        var numbers: [Int] = []
        var position = 2
        let bytes = [UInt8](content)
        while numbers.count < 3 {
            while position < bytes.count, bytes[position] <= 32 || bytes[position] == 35 {
                if bytes[position] == 35 {  // a comment
                    while position < bytes.count, bytes[position] != 10 { position += 1 }
                } else {
                    position += 1
                }
            }
            let start = position
            while position < bytes.count, (48...57).contains(bytes[position]) { position += 1 }
            guard position - start < 7, let number = Int(String(decoding: bytes[start..<position], as: UTF8.self))
            else {
                return nil
            }
            numbers.append(number)
        }
        let (width, height) = (numbers[0], numbers[1])
        guard numbers[2] == 255, width > 0, height > 0, bytes.count >= position + 1 + 3 * width * height else {
            return nil
        }
        return try? RGBImage(
            width: width, height: height, bytes: Array(bytes[(position + 1)...].prefix(3 * width * height)))
    }

    #if canImport(ImageIO)
        /// Returns a picture of any format that the system reads, upright as its metadata says.
        static func decoded(_ content: Data) throws -> RGBImage? {
            let options: [CFString: Any] = [
                kCGImageSourceCreateThumbnailFromImageAlways: true,
                kCGImageSourceCreateThumbnailWithTransform: true,
                kCGImageSourceThumbnailMaxPixelSize: 1 << 14,
            ]
            guard let source = CGImageSourceCreateWithData(content as CFData, nil),
                let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
            else { return nil }
            return try RGBImage(cgImage: image)
        }
    #endif
}
