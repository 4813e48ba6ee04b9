import Foundation
import MLXSDKit
import Testing

@testable import MLXSDCommand

@Suite struct PNGTests {
    @Test func checksumsAreThoseOfTheirStandards() {
        #expect(PNG.crc32(Data("123456789".utf8)) == 0xCBF4_3926)
        #expect(PNG.adler32(Data("Wikipedia".utf8)) == 0x11E6_0398)
    }

    /// Reads the stored blocks of a zlib stream as RFC 1951 has them; nil where they are not whole.
    private func stored(_ stream: Data) -> Data? {
        var (bytes, content, isLast) = ([UInt8](stream.dropFirst(2)), Data(), false)
        while !isLast {
            guard bytes.count >= 5, bytes[0] & 6 == 0 else { return nil }
            isLast = bytes[0] == 1
            let length = Int(bytes[1]) | Int(bytes[2]) << 8
            guard length ^ 0xFFFF == Int(bytes[3]) | Int(bytes[4]) << 8, bytes.count >= 5 + length else { return nil }
            content += bytes[5..<(5 + length)]
            bytes.removeFirst(5 + length)
        }
        return bytes.count == 4 ? content : nil
    }

    @Test(arguments: [0, 1, 65_534, 65_535, 65_536, 131_070, 200_001])
    func blocksHoldTheBytesWhateverTheirNumber(count: Int) {
        let bytes = Data((0..<count).map { UInt8(truncatingIfNeeded: $0 * 7) })
        #expect(stored(PNG.zlib(bytes)) == bytes)
    }

    @Test func aPPMReadsBackAndDamagedOnesAreNone() throws {
        let image = try RGBImage(width: 3, height: 2, bytes: (0..<18).map { UInt8($0 * 10) })
        let content = Data("P6\n3 2\n255\n".utf8) + Data(image.bytes)
        #expect(PictureFile.ppm(content) == image)
        #expect(PictureFile.ppm(Data("P6 # a comment\n3 # another\n2 255\n".utf8) + Data(image.bytes)) == image)
        #expect(PictureFile.ppm(content.dropLast()) == nil)
        for header in ["P6\n0 2\n255\n", "P6\n3 2\n65535\n", "P6\n-3 2\n255\n", "P6\n99999999999 2\n255\n", "P6", ""] {
            #expect(PictureFile.ppm(Data(header.utf8) + Data(image.bytes)) == nil)
        }
    }
}
