import Foundation
import GoldenFiles
import MLXSDCore

/// A recording, and its runs as calls of roles.
struct RecordedCase {
    struct Port: Decodable {
        let shape: [Int]
        let dtype: String
        let offset: Int
    }

    struct Run: Decodable {
        let package: String
        let function: String
        let role: String
        let size: String
        let inputs: [String: Port]
        let outputs: [String: Port]
    }

    let folder: URL
    let info: ModelSetInfo
    let runs: [Run]
    private let numbers: [Float]

    init(_ name: String) throws {
        try self.init(folder: Goldens.url("recordings/\(name)"))
    }

    init(folder: URL) throws {
        self.folder = folder
        info = try ModelSetInfo(folder: folder)
        runs = try JSONDecoder().decode(
            [Run].self, from: Data(contentsOf: folder.appendingPathComponent("recording.json")))
        let data = try Data(contentsOf: folder.appendingPathComponent("recording.f32"))
        numbers = data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }

    func tensor(_ port: Port) -> Tensor {
        let count = port.shape.reduce(1, *)
        return Tensor(shape: port.shape, values: Array(numbers[port.offset..<port.offset + count]))
    }

    /// The runs of packages that follow each other in one call of a role.
    var calls: [[Run]] {
        var calls: [[Run]] = []
        for run in runs {
            let steps = info.functions(of: run.role, size: run.size)?.count ?? 1
            if let last = calls.last, last.count < steps, last[0].role == run.role {
                calls[calls.count - 1].append(run)
            } else {
                calls.append([run])
            }
        }
        return calls
    }

    /// Copies the recording into a folder of its own, so that a test may spoil it.
    func copy() throws -> URL {
        let target = FileManager.default.temporaryDirectory.appendingPathComponent("case-\(UUID().uuidString)")
        try FileManager.default.copyItem(at: folder, to: target)
        return target
    }
}
