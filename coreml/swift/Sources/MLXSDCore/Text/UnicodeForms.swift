/// Unicode's normalization form C by its own table, so that text means the same tokens on every system: Foundation's
/// form on Linux is wrong beyond the first plane and for Hangul.
enum UnicodeForms {
    /// Returns the canonical composition (NFC) of scalars.
    static func composed(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
        if scalars.allSatisfy({ $0.value < 0x300 }) { return scalars }
        return compose(ordered(decomposed(scalars)))
    }

    private struct Mark {
        let scalar: Unicode.Scalar
        let combiningClass: UInt8
    }

    private static let hangulSyllables: UInt32 = 0xac00
    private static let leading: UInt32 = 0x1100
    private static let vowel: UInt32 = 0x1161
    private static let trailing: UInt32 = 0x11a7

    private static func decomposed(_ scalars: [Unicode.Scalar]) -> [Mark] {
        var result: [Mark] = []
        result.reserveCapacity(scalars.count)
        for scalar in scalars { decompose(scalar, into: &result) }
        return result
    }

    private static func decompose(_ scalar: Unicode.Scalar, into result: inout [Mark]) {
        if scalar.value < 0xc0 {
            result.append(Mark(scalar: scalar, combiningClass: 0))
        } else if case let offset = scalar.value &- hangulSyllables, offset < 11172 {
            for value in [leading + offset / 588, vowel + offset % 588 / 28, trailing + offset % 28]
            where value != trailing {
                if let part = Unicode.Scalar(value) { result.append(Mark(scalar: part, combiningClass: 0)) }
            }
        } else if let (first, second) = tables.parts[scalar] {
            decompose(first, into: &result)
            if let second { decompose(second, into: &result) }
        } else {
            let order = scalar.properties.canonicalCombiningClass.rawValue
            result.append(Mark(scalar: scalar, combiningClass: order))
        }
    }

    /// Returns marks with each run of combining ones in the order of their classes.
    private static func ordered(_ marks: [Mark]) -> [Mark] {
        var result = marks
        for start in result.indices.dropFirst() where result[start].combiningClass != 0 {
            var place = start
            while place > 0, result[place - 1].combiningClass > result[place].combiningClass {
                result.swapAt(place - 1, place)
                place -= 1
            }
        }
        return result
    }

    private static func compose(_ marks: [Mark]) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        result.reserveCapacity(marks.count)
        var starter: Int?  // place of the last scalar of class 0
        var last: UInt8 = 0  // class of the scalar before, within the run behind the starter
        for mark in marks {
            // A mark is blocked by one of its own class or above between it and the starter.
            if let starter, starter == result.count - 1 || last < mark.combiningClass,
                let joined = pair(result[starter], mark.scalar)
            {
                result[starter] = joined
                continue
            }
            if mark.combiningClass == 0 { starter = result.count }
            last = mark.combiningClass
            result.append(mark.scalar)
        }
        return result
    }

    private static func pair(_ first: Unicode.Scalar, _ second: Unicode.Scalar) -> Unicode.Scalar? {
        if case let lead = first.value &- leading, lead < 19, case let middle = second.value &- vowel, middle < 21 {
            return Unicode.Scalar(hangulSyllables + (lead * 21 + middle) * 28)
        }
        if case let syllable = first.value &- hangulSyllables, syllable < 11172, syllable % 28 == 0,
            case let tail = second.value &- trailing, 1..<28 ~= tail
        {
            return Unicode.Scalar(first.value + tail)
        }
        return tables.pairs[UInt64(first.value) << 32 | UInt64(second.value)]
    }

    private struct Tables {
        var parts: [Unicode.Scalar: (Unicode.Scalar, Unicode.Scalar?)] = [:]
        var pairs: [UInt64: Unicode.Scalar] = [:]
    }

    private static let tables: Tables = {
        var tables = Tables()
        var next: UInt32 = 0
        for entry in Decompositions.entries.utf8.split(whereSeparator: { $0 == 0x20 || $0 == 0x0a }) {
            if entry.first == UInt8(ascii: "@") {
                next = hexadecimal(entry.dropFirst())
                continue
            }
            let excluded = entry.last == UInt8(ascii: "!")
            let parts = entry.split(separator: UInt8(ascii: "+")).map(hexadecimal).compactMap(Unicode.Scalar.init)
            if let scalar = Unicode.Scalar(next), let first = parts.first {
                let second = parts.count > 1 ? parts[1] : nil
                tables.parts[scalar] = (first, second)
                if let second, !excluded { tables.pairs[UInt64(first.value) << 32 | UInt64(second.value)] = scalar }
            }
            next += 1
        }
        return tables
    }()

    private static func hexadecimal(_ digits: Substring.UTF8View) -> UInt32 {
        digits.reduce(0) { value, digit in
            switch digit {
            case 0x30...0x39: value << 4 | UInt32(digit - 0x30)
            case 0x41...0x46: value << 4 | UInt32(digit - 0x37)
            default: value  // the mark of what is never composed
            }
        }
    }
}
