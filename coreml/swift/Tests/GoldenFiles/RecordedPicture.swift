import Foundation
import MLXSDCore

/// A picture that Python made with an exported set, and what it was asked for.
public struct RecordedPicture: Sendable {
    /// Where numbers are in recording.f32.
    public struct Numbers: Decodable, Sendable {
        public let shape: [Int]
        public let offset: Int
    }

    /// What Python counted and computed.
    public struct Expected: Decodable, Sendable {
        public let evaluations: Int
        public let full: Int
        public let estimates: [Numbers]
        public let latents: Numbers
        let image: RecordedImage
    }

    public let folder: URL
    public let request: GenerationRequest
    public let pictures: InputPictures
    public let expected: Expected
    public let expectedImage: RGBImage

    public init(_ name: String) throws {
        folder = try Goldens.url("recordings/\(name)")
        request = try Self.request(Goldens.data("recordings/\(name)/request.json"))
        pictures = try InputPictures(recording: folder)
        expected = try Goldens.json("recordings/\(name)/expected.json")
        expectedImage = try expected.image.read(in: folder)
    }

    /// Reads a request whose control images are elsewhere.
    private static func request(_ data: Data) throws -> GenerationRequest {
        guard var fields = try JSONSerialization.jsonObject(with: data) as? [String: Any] else {
            throw CocoaError(.coderReadCorrupt)
        }
        if let controls = fields["controls"] as? [[String: Any]] {
            fields["controls"] = controls.map { $0.merging(["image": "elsewhere"]) { old, _ in old } }
        }
        return try JSONDecoder().decode(GenerationRequest.self, from: JSONSerialization.data(withJSONObject: fields))
    }

    /// Returns the prompt of the request.
    public var prompt: String { request.prompt ?? "" }

    /// Returns recorded numbers.
    public func numbers(_ numbers: Numbers) throws -> [Float] {
        let file = try FileHandle(forReadingFrom: folder.appendingPathComponent("recording.f32"))
        defer { try? file.close() }
        try file.seek(toOffset: UInt64(4 * numbers.offset))
        let data = try file.read(upToCount: 4 * numbers.shape.reduce(1, *)) ?? Data()
        return data.floats(count: data.count / 4)
    }
}
