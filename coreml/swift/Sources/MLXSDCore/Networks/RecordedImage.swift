import Foundation

/// A picture of a recording: a file of raw bytes, of three colours or of one shade.
package struct RecordedImage: Decodable, Sendable {
    let file: String
    let width: Int
    let height: Int
    let channels: Int

    /// Reads the picture from the recording's folder.
    package func read(in folder: URL) throws -> RGBImage {
        let path = folder.appendingPathComponent(file).path
        guard var bytes = FileManager.default.contents(atPath: path).map({ [UInt8]($0) }) else {
            throw DiffusionError(.files, "\(path) is missing; record again")
        }
        if channels == 1 { bytes = bytes.flatMap { [$0, $0, $0] } }
        return try RGBImage(width: width, height: height, bytes: bytes)
    }
}

extension InputPictures {
    private struct Files: Decodable {
        let image: RecordedImage?
        let mask: RecordedImage?
        let controls: [RecordedImage]

        enum CodingKeys: String, CodingKey {
            case image = "init_image"
            case mask, controls
        }
    }

    /// Reads the pictures that a recording began with: `inputs.json` lists them; none where its folder has no list.
    package init(recording folder: URL) throws {
        self.init()
        let list = folder.appendingPathComponent("inputs.json")
        guard let content = FileManager.default.contents(atPath: list.path) else { return }
        let files: Files
        do {
            files = try JSONDecoder().decode(Files.self, from: content)
        } catch {
            throw DiffusionError(.files, "\(list.path) is no list of a recording's pictures; record again")
        }
        image = try files.image?.read(in: folder)
        mask = try files.mask?.read(in: folder)
        controls = try files.controls.map { try $0.read(in: folder) }
    }
}
