import Foundation
import GoldenFiles
import MLXSDCore
import Testing

/// info.json reads as the exporter wrote it; what is wrong with a file is one line.
@Suite struct ModelSetInfoTests {
    static let names = [
        "text_to_image", "functions", "halves", "sdxl", "sd2v", "controls", "inpainting_network", "batch_1",
    ]

    private func info(_ name: String) throws -> ModelSetInfo {
        try ModelSetInfo(folder: Goldens.url("recordings/\(name)"))
    }

    @Test(arguments: names) func itIsTheSameAfterWritingAndReading(name: String) throws {
        let info = try info(name)
        let again = try ModelSetInfo(json: JSONEncoder().encode(info), path: "again")
        #expect(again == info)
    }

    @Test func itKnowsWhatAPipelineAsks() throws {
        let tiny = try info("text_to_image")
        #expect(tiny.sizes == ["64x64"] && tiny.format == .coreML && tiny.prediction == "v_prediction")
        #expect(tiny.batch(of: "unet_shallow", size: "64x64") == 2)
        #expect(tiny.inputs(of: "unet_shallow", size: "64x64")["deep_feature"]?.shape == [2, 64, 8, 8])
        #expect(tiny.outputs(of: "unet_deep", size: "64x64").keys.sorted() == ["deep_feature"])
        #expect(tiny.networks.textEncoders.map(\.part) == ["text_encoder"] && tiny.networks.unet.inChannels == 4)
        #expect(!tiny.has("unet", size: "64x64") && !tiny.has("unet_deep", size: "any"))
        #expect(try info("functions").sizes == ["64x64", "64x128"])
        #expect(try info("inpainting_network").networks.unet.inChannels == 9)
        #expect(try info("batch_1").batch(of: "unet_deep", size: "64x64") == 1)
        let xl = try info("sdxl")
        #expect(xl.networks.textEncoders.map(\.projection) == [nil, 24] && xl.networks.unet.addedTimeWidth == 8)
        #expect(xl.pipeline["force_zeros_for_empty_prompt"]?.bool == true)
        let controls = try info("controls")
        #expect(controls.controls.keys.sorted() == ["Depth", "Edges"] && controls.isControlled)
        #expect(controls.has("control_shallow:Depth", size: "64x64"))
    }

    @Test func aRoleOfSeveralPackagesTakesWhatNoneOfThemComputes() throws {
        let halves = try info("halves")
        let inputs = halves.inputs(of: "unet", size: "64x64").keys.sorted()
        #expect(inputs == ["encoder_hidden_states", "sample", "timestep"])
        #expect(halves.outputs(of: "unet", size: "64x64").keys.sorted() == ["noise_pred"])
    }

    private static let digest = String(repeating: "a", count: 64)
    /// Changes of a good file: the path of a field, its new JSON, nil for none, and what the message says.
    static let damages: [(path: [String], json: String?, message: String)] = [
        (["format"], #""another program""#, "not of the format of a model set"),
        (["format"], nil, "not of the format of a model set"),
        (["version"], "4", "of version 4, and this package reads 1 to 3; update it"),
        (["version"], #""3""#, "has no version"),
        (["tokens"], #"{"codebook": 1024}"#, "its pictures are tokens, of which this package has no sampler"),
        (["latents"], nil, "latents is missing; export again"),
        (["latents", "factor"], #""8""#, "latents.factor is of another type"),
        (["latents", "factor"], "0", "channels, factor and scaling_factor are above 0"),
        (["networks", "unet", "in_channels"], nil, "networks.unet.in_channels is missing"),
        (["networks", "text_encoder", "hidden_size"], nil, "networks.text_encoder.hidden_size is missing"),
        (["packages", "VAEDecoder", "functions", "main", "inputs", "z", "dtype"], #""float8""#, "z.dtype has a"),
        (["packages", "VAEDecoder", "functions", "main", "inputs", "z", "shape"], "[0, 4]", "z has the shape [0, 4]"),
        (["packages", "../VAEDecoder"], #"{"functions": {}}"#, "is no name of a package"),
        (["roles", "64x64", "vae_decoder"], #"[["VAEDecoder", "other"]]"#, "VAEDecoder, other, which is no function"),
        (["roles", "64x64", "vae_decoder"], #"[["VAEDecoder"]]"#, "roles.64x64.vae_decoder[0] is of another type"),
        (["roles", "64x64", "vae_decoder"], "[]", "vae_decoder has no function"),
        (["roles", "big"], "{}", "big is no size"),
        (["tokenizers"], "[]", "there are 0 for 1 text encoders"),
        (["files", "../secret"], #"{"bytes": 1, "sha256": "\#(digest)"}"#, "leads out"),
        (["files", "vocab.json", "sha256"], #""abc""#, "files.vocab.json has"),
    ]

    @Test(arguments: damages.indices) func aDamagedFieldIsOneLine(number: Int) throws {
        let damage = Self.damages[number]
        let data = try Data(contentsOf: Goldens.url("recordings/text_to_image/info.json"))
        let object = try #require(JSONSerialization.jsonObject(with: data) as? [String: Any])
        let value = try damage.json.map {
            try JSONSerialization.jsonObject(with: Data($0.utf8), options: .fragmentsAllowed)
        }
        let changed = try JSONSerialization.data(withJSONObject: Self.changed(object, damage.path, value))
        #expect(throws: DiffusionError.self) { try ModelSetInfo(json: changed, path: "info.json") }
        do {
            _ = try ModelSetInfo(json: changed, path: "info.json")
        } catch let error as DiffusionError {
            #expect(error.description.contains(damage.message), "\(error.description)")
            #expect(error.kind == .files && !error.description.contains("\n"))
        }
    }

    @Test func whatIsNoModelSetIsSaid() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        func message() -> String {
            do {
                _ = try ModelSetInfo(folder: folder)
                return ""
            } catch { return "\(error)" }
        }
        #expect(message().contains("is not a folder"))
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        #expect(message().contains("has no info.json"))
        try Data("{".utf8).write(to: folder.appendingPathComponent("info.json"))
        #expect(message().contains("it is no JSON object"))
        try FileManager.default.removeItem(at: folder)
    }

    @Test func earlierVersionsHaveNoFilesAndNoControls() throws {
        let data = try Data(contentsOf: Goldens.url("recordings/text_to_image/info.json"))
        var object = try #require(JSONSerialization.jsonObject(with: data) as? [String: Any])
        object["version"] = 1
        (object["files"], object["controls"]) = (nil, nil)
        let info = try ModelSetInfo(json: JSONSerialization.data(withJSONObject: object), path: "info.json")
        #expect(info.files.isEmpty && info.controls.isEmpty)
    }

    private static func changed(_ object: [String: Any], _ path: [String], _ value: Any?) -> [String: Any] {
        var object = object
        if path.count == 1 {
            object[path[0]] = value
        } else {
            object[path[0]] = changed(object[path[0]] as? [String: Any] ?? [:], Array(path.dropFirst()), value)
        }
        return object
    }
}
