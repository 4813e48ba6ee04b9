import Foundation
import GoldenFiles
import MLXSDCore

/// A picture that Python made with an exported set, and every number that went into the set's networks.
struct RecordedCase {
    struct PictureFile: Decodable {
        let file: String
        let width: Int
        let height: Int
        let channels: Int
    }

    struct Inputs: Decodable {
        let image: PictureFile?
        let mask: PictureFile?
        let controls: [PictureFile]?

        enum CodingKeys: String, CodingKey {
            case mask, controls
            case image = "init_image"
        }
    }

    struct Numbers: Decodable {
        let shape: [Int]
        let offset: Int
    }

    struct Expected: Decodable {
        let evaluations: Int
        let full: Int
        let estimates: [Numbers]
        let latents: Numbers
        let image: PictureFile
    }

    let folder: URL
    let request: GenerationRequest
    let pictures: InputPictures
    let expected: Expected

    init(_ name: String) throws {
        let folder = try Goldens.url("recordings/\(name)")
        func decoded<T: Decodable>(_ file: String, _ type: T.Type) throws -> T {
            try JSONDecoder().decode(type, from: Data(contentsOf: folder.appendingPathComponent(file)))
        }
        self.folder = folder
        request = try Self.request(Data(contentsOf: folder.appendingPathComponent("request.json")))
        expected = try decoded("expected.json", Expected.self)
        let inputs = try decoded("inputs.json", Inputs.self)
        pictures = InputPictures(
            image: try inputs.image.map { try Self.picture($0, folder) },
            mask: try inputs.mask.map { try Self.picture($0, folder) },
            controls: try (inputs.controls ?? []).map { try Self.picture($0, folder) })
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
    var prompt: String { request.prompt ?? "" }

    /// Returns networks that replay the recording.
    func backend(tolerance: Float = 1e-4) throws -> RecordedBackend {
        try RecordedBackend(folder: folder, tolerance: tolerance)
    }

    /// Returns the pipeline over networks.
    func pipeline(
        _ backend: some NetworkBackend, reduceMemory: Bool = false, whenBusy: BusyRule = .waits
    ) throws -> StableDiffusion {
        try StableDiffusion(
            backend: backend, info: ModelSetInfo(folder: folder), folder: folder, reduceMemory: reduceMemory,
            whenBusy: whenBusy)
    }

    /// Returns the picture that Python made.
    func expectedImage() throws -> RGBImage { try Self.picture(expected.image, folder) }

    /// Returns recorded numbers.
    func numbers(_ numbers: Numbers) throws -> [Float] {
        let file = try FileHandle(forReadingFrom: folder.appendingPathComponent("recording.f32"))
        defer { try? file.close() }
        try file.seek(toOffset: UInt64(4 * numbers.offset))
        let data = try file.read(upToCount: 4 * numbers.shape.reduce(1, *)) ?? Data()
        return data.withUnsafeBytes { bytes in
            (0..<data.count / 4).map {
                Float(bitPattern: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self)))
            }
        }
    }

    private static func picture(_ picture: PictureFile, _ folder: URL) throws -> RGBImage {
        var bytes = [UInt8](try Data(contentsOf: folder.appendingPathComponent(picture.file)))
        if picture.channels == 1 { bytes = bytes.flatMap { [$0, $0, $0] } }
        return try RGBImage(width: picture.width, height: picture.height, bytes: bytes)
    }
}

/// Returns the largest difference of two lists, over the largest number of the second; infinite for other lengths.
func distance(_ numbers: [Float], _ expected: [Float]) -> Float {
    guard numbers.count == expected.count else { return .infinity }
    let largest = expected.map(abs).max() ?? 0
    return (zip(numbers, expected).map { abs($0 - $1) }.max() ?? 0) / max(largest, .leastNormalMagnitude)
}

/// Returns the largest difference of two pictures in levels; 256 for other sizes.
func levels(_ picture: RGBImage, _ expected: RGBImage) -> Int {
    guard picture.size == expected.size else { return 256 }
    return zip(picture.bytes, expected.bytes).map { abs(Int($0) - Int($1)) }.max() ?? 0
}

/// A list that several tasks append to.
actor Collected<Element: Sendable> {
    private(set) var elements: [Element] = []

    func append(_ element: Element) { elements.append(element) }
}
