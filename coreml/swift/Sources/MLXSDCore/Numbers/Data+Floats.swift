import Foundation

extension Data {
    /// Returns float32 numbers in little-endian order, `count` of them from the number `index` on.
    package func floats(from index: Int = 0, count: Int) -> [Float] {
        withUnsafeBytes { bytes in
            (index..<index + count).map {
                Float(bitPattern: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self)))
            }
        }
    }
}
