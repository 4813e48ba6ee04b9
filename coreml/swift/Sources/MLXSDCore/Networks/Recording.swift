import Foundation

/// What networks took and gave in a generation: recording.json, in the order of the calls, and recording.f32.
struct Recording: Sendable {
    /// Numbers in recording.f32.
    struct Entry: Codable, Sendable {
        let shape: [Int]
        let dtype: String
        /// In float32 numbers.
        let offset: Int

        var count: Int { shape.reduce(1, *) }
    }

    /// One run of one function of a package.
    struct Call: Codable, Sendable {
        let package: String
        let function: String
        let role: String
        let size: String
        let inputs: [String: Entry]
        let outputs: [String: Entry]
    }

    let calls: [Call]
    private let numbers: Data

    /// Reads a folder with both files; throws where one is missing or they do not fit together.
    init(folder: URL) throws {
        let file = folder.appendingPathComponent("recording.json")
        let numbersFile = folder.appendingPathComponent("recording.f32")
        do {
            calls = try JSONDecoder().decode([Call].self, from: Data(contentsOf: file))
            numbers = try Data(contentsOf: numbersFile, options: .mappedIfSafe)
        } catch {
            throw DiffusionError(
                .files, "\(folder.path) holds no recording.json and recording.f32 that can be read: \(error)")
        }
        let total = numbers.count / 4
        for (i, call) in calls.enumerated() {
            for (name, entry) in call.inputs.merging(call.outputs, uniquingKeysWith: { input, _ in input }) {
                guard entry.shape.allSatisfy({ $0 > 0 }), entry.offset >= 0, entry.offset + entry.count <= total else {
                    throw DiffusionError(
                        .files, "\(file.path) is damaged: call \(i) has \(name) beyond the end of recording.f32")
                }
            }
        }
    }

    /// Returns the numbers of an entry.
    func tensor(_ entry: Entry) -> Tensor {
        Tensor(shape: entry.shape, values: numbers.floats(from: entry.offset, count: entry.count))
    }

    /// Returns the largest difference to an entry, over its largest number; infinite for another shape or for NaN.
    func distance(_ tensor: Tensor, _ entry: Entry) -> Float {
        guard tensor.shape == entry.shape else { return .infinity }
        var difference: Float = 0
        var largest: Float = 0
        numbers.withUnsafeBytes { bytes in
            for i in 0..<entry.count {
                let place = 4 * (entry.offset + i)
                let value = Float(
                    bitPattern: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: place, as: UInt32.self)))
                let distance = abs(tensor.values[i] - value)
                difference = distance.isNaN ? .infinity : max(difference, distance)
                largest = max(largest, abs(value))
            }
        }
        return difference == 0 ? 0 : difference / max(largest, .leastNormalMagnitude)
    }
}
