import Foundation
import MLXSDCore

/// Networks of the right shapes whose outputs are a formula of all inputs: for what recordings do not hold.
///
/// Each output is a hash of the inputs' numbers, smoothed, so that any other input gives another output.
final class FormulaBackend: NetworkBackend, @unchecked Sendable {
    struct Call: Sendable {
        let role: String
        let inputs: [String: Tensor]
        let deepFeature: [WeightedFeature]
        let keepAs: FeatureKey?
    }

    let info: ModelSetInfo
    private let delay: Duration
    private let lock = NSLock()
    private var storedCalls: [Call] = []
    private var storedKept: Set<FeatureKey> = []
    private var storedRunning = 0
    private var storedMost = 0
    private var storedMostKept = 0

    /// delay: that each run takes.
    init(_ info: ModelSetInfo, delay: Duration = .zero) {
        (self.info, self.delay) = (info, delay)
    }

    var calls: [Call] { lock.withLock { storedCalls } }
    var kept: Set<FeatureKey> { lock.withLock { storedKept } }
    /// The number of runs that have begun and not ended.
    var running: Int { lock.withLock { storedRunning } }
    /// The most deep features that were kept at the same time.
    var mostKept: Int { lock.withLock { storedMostKept } }
    /// The most that ran at the same time.
    var most: Int { lock.withLock { storedMost } }

    func has(_ role: String, size: String) -> Bool { info.has(role, size: size) }
    func load(_ role: String, size: String) async throws {}
    func unload(_ role: String, size: String) async {}

    func forget(_ keys: [FeatureKey]?) async {
        lock.withLock {
            storedKept = keys.map { storedKept.subtracting($0) } ?? []
        }
    }

    func run(
        _ role: String, size: String, inputs: [String: Tensor], deepFeature: [WeightedFeature], keepAs: FeatureKey?
    ) async throws -> [String: Tensor] {
        lock.withLock {
            storedCalls.append(Call(role: role, inputs: inputs, deepFeature: deepFeature, keepAs: keepAs))
            storedRunning += 1
            storedMost = max(storedMost, storedRunning)
            if let keepAs { storedKept.insert(keepAs) }
            storedMostKept = max(storedMostKept, storedKept.count)
        }
        defer { lock.withLock { storedRunning -= 1 } }
        if delay > .zero { try? await Task.sleep(for: delay) }
        for feature in deepFeature where !lock.withLock({ storedKept.contains(feature.key) }) {
            throw DiffusionError(.network, "the deep feature of evaluation \(feature.key.evaluation) is not kept")
        }
        return info.outputs(of: role, size: size).filter { $0.key != "deep_feature" }.mapValues { port in
            Tensor(shape: port.shape, values: Self.numbers(inputs, port.shape))
        }
    }

    /// Returns numbers from -1 to 1; a row depends on that row of the inputs alone.
    private static func numbers(_ inputs: [String: Tensor], _ shape: [Int]) -> [Float] {
        let rows = shape[0]
        let length = shape.reduce(1, *) / rows
        return (0..<rows).flatMap { row -> [Float] in
            var sum: Float = 0
            for (name, tensor) in inputs.sorted(by: { $0.key < $1.key }) {
                let count = tensor.values.count / tensor.shape[0]
                let start = min(row, tensor.shape[0] - 1) * count
                for i in 0..<count { sum += tensor.values[start + i] * Float(i % 7 + name.count) / Float(count) }
            }
            return (0..<length).map { sin(sum + Float($0)) }
        }
    }
}
