import Foundation
import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct HalfFloatTests {
    /// NaN equals NaN; everything else bit for bit.
    private func same(_ first: Float, _ second: Float) -> Bool {
        first.bitPattern == second.bitPattern || (first.isNaN && second.isNaN)
    }

    @Test func everyHalfIsTheNumberThatNumPyReads() throws {
        let expected = try Goldens.floats("numbers/halves.f32")
        let widened = (0...UInt16.max).map(HalfFloat.float)
        #expect(expected.count == 65536)
        #expect(zip(widened, expected).allSatisfy(same))
    }

    @Test func everyHalfComesBack() {
        for bits in 0...UInt16.max {
            let value = HalfFloat.float(bits)
            let isNaN = bits & 0x7c00 == 0x7c00 && bits & 0x3ff != 0
            #expect(value.isNaN == isNaN)
            #expect(HalfFloat.bits(value) == (isNaN ? bits | 0x200 : bits))
        }
    }

    @Test func roundsAsNumPyAtEveryMiddleAndBesideIt() throws {
        let values = try Goldens.floats("numbers/rounded.f32")
        let expected = try Goldens.integers("numbers/rounded.u16", as: UInt16.self)
        #expect(values.count > 180_000)
        #expect(values.map(HalfFloat.bits) == expected)
    }

    @Test func tiesGoToEvenAndLargeNumbersToInfinity() {
        #expect(HalfFloat.bits(1 + 0x1p-11) == 0x3c00)
        #expect(HalfFloat.bits(1 + 0x3p-11) == 0x3c02)
        #expect(HalfFloat.bits(65519.996) == 0x7bff)
        #expect(HalfFloat.bits(65520) == 0x7c00)
        #expect(HalfFloat.bits(-.infinity) == 0xfc00)
        #expect(HalfFloat.bits(0x1p-25) == 0)
        #expect(HalfFloat.bits(Float(0x1p-25).nextUp) == 1)
        #expect(HalfFloat.bits(-0.0) == 0x8000)
        #expect(HalfFloat.float(HalfFloat.bits(.nan)).isNaN)
        #expect(HalfFloat.bits(Float(bitPattern: 0x7f80_0001)) & 0x3ff != 0, "a NaN never becomes infinity")
    }

    #if arch(arm64) || os(Linux)
        @Test func agreesWithFloat16OnRandomNumbers() {
            var random = SeededRandom(seed: 1)
            for _ in 0..<200_000 {
                let value = Float(bitPattern: UInt32(truncatingIfNeeded: random.next()))
                let half = Float16(value)
                let isSame = value.isNaN ? half.isNaN : HalfFloat.bits(value) == half.bitPattern
                #expect(isSame, "\(value)")
            }
            for bits in 0...UInt16.max { #expect(same(HalfFloat.float(bits), Float(Float16(bitPattern: bits)))) }
        }
    #endif
}
