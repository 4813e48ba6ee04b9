import Foundation

/// The golden picture of a kit, with everything that it was computed from.
struct GoldenPicture: Sendable {
    struct File: Decodable, Sendable {
        let file: String
        let shape: [Int]
    }

    private struct Content: Decodable {
        struct Tolerances: Decodable {
            let states, predictions, image: Double
            let latents: [Double]

            enum CodingKeys: String, CodingKey {
                case image, latents
                case states = "encoder_hidden_states"
                case predictions = "noise_pred"
            }
        }

        let table, prompt, generator: String
        let negative: String?
        let guidance: Double?
        let seed: UInt64
        let width, height: Int
        let arrays: [String: File]
        let tolerances: Tolerances
    }

    let table: SamplerTable
    /// The negative prompt, where there is guidance, and the prompt.
    let texts: [String]
    let guidance: Float
    let noise: NoiseSource
    let seed: UInt64
    /// Of the picture, as in info.json.
    let size: String
    let arrays: [String: Tensor]
    let statesTolerance, predictionTolerance, imageTolerance: Double
    let latentsTolerance: [Double]

    /// Reads kit/picture of a model set; throws where the set has no kit, or a damaged one.
    init(kit: URL) throws {
        let content: Content = try Self.decode(kit.appendingPathComponent("picture/picture.json"))
        guard let noise = NoiseSource(rawValue: content.generator) else {
            throw DiffusionError(
                .files, "\(kit.path) has noise of \(content.generator), which this package cannot draw")
        }
        table = try SamplerTable(contentsOf: kit.appendingPathComponent(content.table))
        texts = [content.negative, content.prompt].compactMap { $0 }
        (guidance, self.noise, seed) = (Float(content.guidance ?? 0), noise, content.seed)
        size = "\(content.width)x\(content.height)"
        let folder = kit.appendingPathComponent("picture")
        arrays = try content.arrays.mapValues { try Self.tensor($0, in: folder) }
        let tolerances = content.tolerances
        statesTolerance = tolerances.states
        (predictionTolerance, imageTolerance) = (tolerances.predictions, tolerances.image)
        latentsTolerance = tolerances.latents
        let rows = table.rows.count
        for (name, count) in [("latents", rows + 1), ("noise_pred", rows), ("image", 3)] {
            guard let array = arrays[name], array.shape[0] == count else {
                throw DiffusionError(.files, "\(folder.path): \(name) has another shape; export the kit again")
            }
        }
        guard latentsTolerance.count == rows + 1, arrays["encoder_hidden_states"] != nil else {
            throw DiffusionError(.files, "\(folder.path): picture.json is damaged; export the kit again")
        }
    }

    /// Decodes a JSON file of a kit.
    static func decode<T: Decodable>(_ file: URL) throws -> T {
        do {
            return try JSONDecoder().decode(T.self, from: Data(contentsOf: file))
        } catch {
            throw DiffusionError(
                .files, "\(file.path) is missing or damaged: export the set with --kit for a self-check")
        }
    }

    /// Reads the numbers of a file of a kit.
    static func tensor(_ entry: File, in folder: URL) throws -> Tensor {
        let file = folder.appendingPathComponent(entry.file)
        let count = entry.shape.reduce(1, *)
        guard !entry.shape.isEmpty, let data = try? Data(contentsOf: file), data.count == 4 * count else {
            throw DiffusionError(.files, "\(file.path) is missing or has another length; copy the set again")
        }
        return Tensor(shape: entry.shape, values: data.floats(count: count))
    }

    /// Returns an array that `init` found.
    func array(_ name: String) -> Tensor { arrays[name] ?? Tensor(shape: [1], values: [0]) }

    /// Returns one entry along the first axis of an array.
    func entry(_ index: Int, of name: String) -> [Float] {
        let array = array(name)
        let length = array.values.count / array.shape[0]
        return Array(array.values[index * length..<(index + 1) * length])
    }
}
