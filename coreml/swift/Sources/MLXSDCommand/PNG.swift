import Foundation

/// Writes pictures as PNG where there is no CoreGraphics, without compression.
public enum PNG {
    /// Returns a PNG of RGB bytes, three for each pixel, row by row from the top.
    ///
    /// - Parameter text: keywords (Latin letters) and texts, stored as `iTXt`.
    public static func encode(_ rgb: [UInt8], width: Int, height: Int, text: [(keyword: String, text: String)] = [])
        -> Data
    {
        precondition(rgb.count == 3 * width * height, "\(rgb.count) bytes are not \(width) x \(height) pixels")
        var file = Data([0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A])
        append("IHDR", bigEndian(UInt32(width)) + bigEndian(UInt32(height)) + [8, 2, 0, 0, 0], to: &file)
        for entry in text {
            append("iTXt", Data(entry.keyword.utf8) + [0, 0, 0, 0, 0] + Data(entry.text.utf8), to: &file)
        }
        var rows = Data(capacity: height * (3 * width + 1))
        for row in 0..<height {
            rows.append(0)  // no filter
            rows.append(contentsOf: rgb[(3 * width * row)..<(3 * width * (row + 1))])
        }
        append("IDAT", zlib(rows), to: &file)
        append("IEND", Data(), to: &file)
        return file
    }

    /// Returns a zlib stream (RFC 1950) of stored blocks (RFC 1951, 3.2.4).
    static func zlib(_ bytes: Data) -> Data {
        var stream = Data([0x78, 0x01])
        var start = bytes.startIndex
        repeat {
            let end = min(start + 65_535, bytes.endIndex)
            let length = UInt16(end - start)
            stream.append(end == bytes.endIndex ? 1 : 0)
            for number in [length, ~length] {
                stream.append(contentsOf: [UInt8(number & 255), UInt8(number >> 8)])
            }
            stream.append(bytes[start..<end])
            start = end
        } while start < bytes.endIndex
        return stream + bigEndian(adler32(bytes))
    }

    /// Returns the checksum of RFC 1950.
    static func adler32(_ bytes: Data) -> UInt32 {
        var (a, b): (UInt32, UInt32) = (1, 0)
        for byte in bytes {
            a = (a + UInt32(byte)) % 65_521
            b = (b + a) % 65_521
        }
        return b << 16 | a
    }

    /// Returns the checksum of PNG's chunks (ISO 3309).
    static func crc32(_ bytes: Data) -> UInt32 {
        ~bytes.reduce(~0) { crc, byte in table[Int((crc ^ UInt32(byte)) & 255)] ^ crc >> 8 }
    }

    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 1 ? 0xEDB8_8320 ^ value >> 1 : value >> 1 }
    }

    private static func append(_ type: String, _ content: Data, to file: inout Data) {
        let chunk = Data(type.utf8) + content
        file += bigEndian(UInt32(content.count)) + chunk + bigEndian(crc32(chunk))
    }

    private static func bigEndian(_ number: UInt32) -> Data {
        Data([24, 16, 8, 0].map { UInt8(truncatingIfNeeded: number >> $0) })
    }
}
