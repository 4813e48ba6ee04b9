/// Converts between float32 numbers and the 16 bits of float16 numbers, on every processor: `Float16` does not exist on
/// Intel Macs.
public enum HalfFloat {
    /// The bits of 0.5: added to a number below 2^-14, it moves the bits of a subnormal half to the end.
    private static let subnormalShift = Float(bitPattern: 126 << 23)
    /// 2^-14 as the single whose exponent a subnormal half is given before it is taken away again.
    private static let smallestNormal = Float(bitPattern: 113 << 23)

    /// Rounds a number to the nearest half, ties to even, and returns its bits; from 65,520 on it is infinity.
    @inline(__always)
    public static func bits(_ value: Float) -> UInt16 {
        let pattern = value.bitPattern
        let sign = UInt16(truncatingIfNeeded: pattern >> 16) & 0x8000
        let magnitude = pattern & 0x7fff_ffff
        if magnitude >= 0x4780_0000 {  // 65,536, infinity and NaN
            guard magnitude > 0x7f80_0000 else { return sign | 0x7c00 }
            return sign | 0x7e00 | UInt16(truncatingIfNeeded: magnitude >> 13) & 0x1ff
        }
        if magnitude < 0x3880_0000 {  // below 2^-14: the addition rounds
            let shifted = Float(bitPattern: magnitude) + subnormalShift
            return sign | UInt16(truncatingIfNeeded: shifted.bitPattern &- subnormalShift.bitPattern)
        }
        let odd = (magnitude >> 13) & 1
        let rebiased = magnitude &- (112 << 23) &+ 0xfff &+ odd
        return sign | UInt16(truncatingIfNeeded: rebiased >> 13)
    }

    /// Returns the number that the bits of a half mean, which is exact.
    @inline(__always)
    public static func float(_ bits: UInt16) -> Float {
        let sign = UInt32(bits & 0x8000) << 16
        let magnitude = UInt32(bits & 0x7fff) << 13
        switch magnitude & 0x0f80_0000 {
        case 0x0f80_0000:  // infinity and NaN, which becomes a quiet one
            let quiet: UInt32 = magnitude & 0x007f_ffff == 0 ? 0 : 0x0040_0000
            return Float(bitPattern: sign | 0x7f80_0000 | magnitude | quiet)
        case 0:  // zero and subnormal halves
            let value = Float(bitPattern: magnitude &+ (113 << 23)) - smallestNormal
            return Float(bitPattern: value.bitPattern | sign)
        default:
            return Float(bitPattern: sign | (magnitude &+ (112 << 23)))
        }
    }
}
