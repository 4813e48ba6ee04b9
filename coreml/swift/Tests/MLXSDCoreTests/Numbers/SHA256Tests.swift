import Foundation
import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct SHA256Tests {
    private func message(_ count: Int) -> Data {
        Data((0..<count).map { UInt8(truncatingIfNeeded: 7 * $0 + count) })
    }

    @Test(arguments: [
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        ),
    ])
    func hashesTheVectorsOfNIST(_ text: String, _ expected: String) {
        #expect(SHA256.hex(of: Data(text.utf8)) == expected)
    }

    @Test func hashesAMillionLetters() {
        let expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
        #expect(SHA256.hex(of: Data(repeating: UInt8(ascii: "a"), count: 1_000_000)) == expected)
    }

    @Test func hashesMessagesOfManyLengthsAsPython() throws {
        let hashes: [String: String] = try Goldens.json("numbers/hashes.json")
        #expect(hashes.count > 200)
        for (length, expected) in hashes {
            let count = try #require(Int(length))
            #expect(SHA256.hex(of: message(count)) == expected, "\(count) bytes")
        }
    }

    @Test func piecesHashAsAllAtOnce() {
        var random = SeededRandom(seed: 2)
        for _ in 0..<200 {
            let bytes = message(Int.random(in: 0...700, using: &random))
            var hash = SHA256()
            var rest = bytes
            while !rest.isEmpty {
                let count = min(Int.random(in: 0...150, using: &random), rest.count)
                hash.update(Data(rest.prefix(count)))
                rest = rest.dropFirst(count)
                _ = hash.digest  // which changes nothing
            }
            #expect(hash.hex == SHA256.hex(of: bytes))
        }
    }

    @Test func hashesAFileInPieces() throws {
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID().uuidString).bin")
        defer { try? FileManager.default.removeItem(at: file) }
        let bytes = message(3 << 20 | 17)
        try bytes.write(to: file)
        #expect(try SHA256.hex(of: file) == SHA256.hex(of: bytes))
    }

    @Test func namesAFileThatIsNotThere() {
        let file = URL(fileURLWithPath: "/nowhere/at all.bin")
        #expect {
            try SHA256.hex(of: file)
        } throws: { error in
            (error as? DiffusionError)?.description.contains("/nowhere/at all.bin cannot be read") == true
        }
    }
}
