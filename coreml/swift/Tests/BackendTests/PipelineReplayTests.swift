import Foundation
import MLXSDCore
import StandInReplay
import Testing

/// The pipeline makes Python's picture through the back ends: what stands in for the frameworks checks every input.
@Suite struct PipelineReplayTests {
    private struct Expected: Decodable {
        let image: Image
        let latents: RecordedCase.Port
        let evaluations: Int

        struct Image: Decodable { let file: String }
    }

    static let names = [
        "deepcache", "deepcache_forecast", "batch_1", "functions", "halves", "sdxl_deepcache", "sd2v", "core_ai",
        "core_ai_deepcache", "core_ai_refresh",
    ]

    @Test(arguments: names) func thePictureIsPythons(name: String) async throws {
        let recorded = try RecordedCase(name)
        func json<T: Decodable>(_ file: String, _ type: T.Type) throws -> T {
            try JSONDecoder().decode(type, from: Data(contentsOf: recorded.folder.appendingPathComponent(file)))
        }
        let request = try json("request.json", GenerationRequest.self)
        let expected = try json("expected.json", Expected.self)
        let sd = try StableDiffusion(
            backend: BackendReplayTests.backend(recorded), info: recorded.info, folder: recorded.folder,
            reduceMemory: name == "deepcache")
        let picture = try await sd.picture(#require(request.prompt), request)
        #expect(picture.evaluations == expected.evaluations)
        #expect(distance(picture.latents.values, recorded.tensor(expected.latents).values) < 1e-4)
        let pixels = try Data(contentsOf: recorded.folder.appendingPathComponent(expected.image.file))
        #expect(picture.image.bytes.count == pixels.count)
        let off = zip(picture.image.bytes, pixels).map { abs(Int($0) - Int($1)) }.max() ?? 255
        #expect(off <= 1, "\(name): a pixel is off by \(off)")
    }
}
