import Foundation
import GoldenFiles
import Testing

@testable import MLXSDCore

/// Pictures, masks and guidance are those of the Python side.
@Suite struct NumbersTests {
    struct Picture: Decodable {
        let width: Int
        let height: Int
        let channels: Int
        let bytes: [UInt8]

        var rgb: RGBImage {
            get throws {
                let colours = channels == 3 ? bytes : bytes.flatMap { [$0, $0, $0] }
                return try RGBImage(width: width, height: height, bytes: colours)
            }
        }
    }

    struct Resized: Decodable {
        let from: Picture
        let to: Picture
    }

    struct Greys: Decodable {
        let from: Picture
        let to: [UInt8]
    }

    struct Mask: Decodable {
        let mask: Picture
        let image: [Int]
        let size: [Int]
        let original: [UInt8]
        let pixels: [Int]
        let latents: [Float]
    }

    struct Guided: Decodable {
        let scale: Float
        let rescale: Float
        let weights: [Float]
        let rows: [Float]
        let values: [Float]
    }

    struct Embedded: Decodable {
        let guidance: Float
        let values: [Float]
    }

    struct Rounded: Decodable {
        let pixels: [Float]
        let bytes: [UInt8]
    }

    struct Golden: Decodable {
        let resized: [Resized]
        let greys: Greys
        let masks: [Mask]
        let guided: [Guided]
        let embedded: [Embedded]
        let rounded: Rounded
    }

    let golden: Golden

    init() throws {
        golden = try Goldens.json("pictures/pictures.json")
    }

    @Test func lanczosIsPillows() throws {
        for entry in golden.resized {
            let picture = try entry.from.rgb.resized(width: entry.to.width, height: entry.to.height)
            #expect(try levels(picture, entry.to.rgb) == 0, "\(entry.from.width) to \(entry.to.width)")
        }
    }

    @Test func brightnessIsPillows() throws {
        #expect(try golden.greys.from.rgb.greys == golden.greys.to)
    }

    @Test func masksArePythons() throws {
        for entry in golden.masks {
            let mask = try PaintingMask(
                entry.mask.rgb, image: (entry.image[0], entry.image[1]), size: (entry.size[0], entry.size[1]), factor: 8
            )
            #expect(mask.original.map { $0 / 255 } == entry.original)
            #expect(mask.pixels == entry.pixels.map { $0 == 1 })
            #expect(mask.latents == entry.latents)
        }
    }

    @Test func guidanceIsPythons() {
        for entry in golden.guided {
            let rows = Tensor(shape: [1 + entry.weights.count, 4, 8, 8], values: entry.rows)
            let guided = Guidance.guide(rows, weights: entry.weights, scale: entry.scale, rescale: entry.rescale)
            #expect(distance(guided, entry.values) < 1e-6)
        }
    }

    @Test func theEmbeddedCheckpointHasAGuidanceOfItsOwn() {
        let tiny = ModelSetInfo.Model(name: "tiny", hash: "0")
        let other = ModelSetInfo.Model(name: "small", hash: "0")
        #expect(tiny.defaultGuidance(isXL: false) == 3)
        #expect(other.defaultGuidance(isXL: false) == 7.5 && other.defaultGuidance(isXL: true) == 5)
    }

    @Test func guidanceIsEmbeddedAsInPython() {
        for entry in golden.embedded {
            let embedded = Conditions.guidanceEmbedding(entry.guidance, width: entry.values.count)
            #expect(embedded.shape == [1, entry.values.count])
            // Angles are 1000 (guidance - 1) times a frequency, each rounded to float32.
            let tolerance = 1e-7 * max(1000 * (entry.guidance - 1), 10)
            #expect(distance(embedded.values, entry.values) < tolerance)
        }
    }

    @Test func picturesAreRoundedAsInPython() throws {
        let pixels = Tensor(shape: [1, 3, 8, 8], values: golden.rounded.pixels)
        #expect(try RGBImage(pixels: pixels).bytes == golden.rounded.bytes)
    }

    @Test func picturesThatAreNotFiniteAreAnError() {
        #expect(throws: DiffusionError.self) {
            try RGBImage(pixels: Tensor(shape: [1, 3, 1, 1], values: [0, .nan, 0]))
        }
    }

    @Test(arguments: [UInt8(0), 100, 200, 255]) func masksOfOneShadeAreRefused(shade: UInt8) throws {
        let mask = try RGBImage(width: 64, height: 64, bytes: Array(repeating: shade, count: 64 * 64 * 3))
        #expect(throws: DiffusionError.self) {
            try PaintingMask(mask, image: (64, 64), size: (64, 64), factor: 8)
        }
    }

    /// A preview has one pixel for each latent; brighter latents of the first channel are brighter pixels.
    @Test(arguments: [false, true]) func previewsFollowTheLatents(isXL: Bool) throws {
        let dark = Tensor(shape: [1, 4, 2, 3], values: Array(repeating: -1, count: 24))
        let bright = Tensor(shape: [1, 4, 2, 3], values: (0..<24).map { $0 < 6 ? 2 : -1 })
        let pictures = try [dark, bright].map { try #require(LatentPreview.image(of: $0, isXL: isXL)) }
        #expect(pictures[0].size == "3x2")
        #expect(zip(pictures[0].bytes, pictures[1].bytes).allSatisfy { $0 < $1 })
        #expect(LatentPreview.image(of: Tensor(shape: [1, 5, 1, 1], values: [0, 0, 0, 0, 0]), isXL: isXL) == nil)
    }
}
