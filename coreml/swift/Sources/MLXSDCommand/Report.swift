import Foundation
import MLXSDKit

/// What --json prints about a picture: one line.
struct Report: Encodable {
    struct Seconds: Encodable {
        let encode: Double
        let evaluations: [Double]
        let decode: Double
    }

    let output: String
    let width: Int
    let height: Int
    let seed: UInt64
    let evaluations: Int
    let full: Int
    let seconds: Seconds
    let units: String?
    let request: GenerationRequest

    init(_ picture: GeneratedPicture, path: String, options: Arguments) {
        output = path
        (width, height, seed) = (picture.image.width, picture.image.height, picture.seed)
        (evaluations, full) = (picture.evaluations, picture.fullEvaluations)
        seconds = Seconds(
            encode: picture.encodeSeconds, evaluations: picture.evaluationSeconds, decode: picture.decodeSeconds)
        units = options.units
        request = picture.request
    }

    var line: String {
        get throws { try Self.json(self) }
    }

    /// Returns a value as JSON with sorted keys, in one line.
    static func json(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }
}
