import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct UnicodeFormsTests {
    struct Case: Decodable {
        let text: String
        let composed: String
    }

    @Test func compositionIsPythons() throws {
        let cases: [Case] = try Goldens.json("text/forms.json")
        #expect(cases.count > 5000)
        let wrong = cases.filter { form in
            Array(form.composed.unicodeScalars) != UnicodeForms.composed(Array(form.text.unicodeScalars))
        }
        #expect(wrong.isEmpty, "\(wrong.count), first \(wrong.first.map { "\($0)" } ?? "")")
    }

    @Test func hangulAndPlanesBeyondTheFirstCompose() {
        func composed(_ values: [UInt32]) -> [UInt32] {
            UnicodeForms.composed(values.compactMap(Unicode.Scalar.init)).map(\.value)
        }
        #expect(composed([0x1112, 0x1161, 0x11ab]) == [0xd55c])
        #expect(composed([0xd558, 0x11ab]) == [0xd55c])
        #expect(composed([0x1043a, 0x301]) == [0x1043a, 0x301])
        #expect(composed([0x11099, 0x110ba]) == [0x1109a])
        #expect(composed([0x212b]) == [0xc5])
        #expect(composed([0x61, 0x327, 0x301]) == [0xe1, 0x327], "a mark below is no obstacle for one above")
        #expect(composed([0x1d15e]) == [0x1d157, 0x1d165], "some are never composed")
    }
}
