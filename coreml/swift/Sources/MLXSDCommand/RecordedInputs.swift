import Foundation
import MLXSDKit

/// The pictures of a recording: `inputs.json` names files of raw bytes.
struct RecordedInputs: Decodable {
    struct File: Decodable {
        let file: String
        let width: Int
        let height: Int
        let channels: Int
    }

    let image: File?
    let mask: File?
    let controls: [File]

    private enum CodingKeys: String, CodingKey {
        case image = "init_image"
        case mask, controls
    }

    /// Returns the pictures in a recording's folder; none where it has no list of them.
    static func pictures(in folder: URL) throws -> InputPictures {
        let list = folder.appendingPathComponent("inputs.json")
        guard let content = FileManager.default.contents(atPath: list.path) else { return InputPictures() }
        let inputs: RecordedInputs
        do {
            inputs = try JSONDecoder().decode(RecordedInputs.self, from: content)
        } catch {
            throw DiffusionError(.files, "\(list.path) is no list of a recording's pictures; record again")
        }
        func picture(_ file: File) throws -> RGBImage {
            let path = folder.appendingPathComponent(file.file).path
            guard var bytes = FileManager.default.contents(atPath: path).map({ [UInt8]($0) }) else {
                throw DiffusionError(.files, "\(path) is missing; record again")
            }
            if file.channels == 1 { bytes = bytes.flatMap { [$0, $0, $0] } }
            return try RGBImage(width: file.width, height: file.height, bytes: bytes)
        }
        return InputPictures(
            image: try inputs.image.map(picture), mask: try inputs.mask.map(picture),
            controls: try inputs.controls.map(picture))
    }
}
