import Foundation

/// Replays networks that were recorded in Python: compares every input with the recording, and returns its outputs.
///
/// The calls of a UNet, of control networks and of the decoder come in their recorded order, for each role by itself; of
/// the other networks any recorded call with these inputs is replayed. Thread-safe.
public final class RecordedBackend: NetworkBackend {
    private struct State {
        var next: [String: Int] = [:]  // role and size -> number among its calls
        var features = KeptFeatures<Tensor>()
        var calls = 0
        var loads: [String] = []
        var loaded: Set<String> = []
        var largestDistance: Float = 0
    }

    /// Of the recorded set.
    public let info: ModelSetInfo
    /// How far an input may be from the recorded one: a share of its largest number.
    public let tolerance: Float
    private let recording: Recording
    private let callsByFunction: [String: [Int]]
    private let state = Locked(State())

    /// Reads info.json, recording.json and recording.f32 of a folder.
    public init(folder: URL, tolerance: Float = 1e-4) throws {
        info = try ModelSetInfo(folder: folder)
        recording = try Recording(folder: folder)
        self.tolerance = tolerance
        callsByFunction = Dictionary(grouping: recording.calls.indices) { [recording] i in
            let call = recording.calls[i]
            return Self.key(call.role, call.size, call.package, call.function)
        }
    }

    /// The number of runs of a function so far, since the beginning or `rewind`.
    public var callCount: Int { state.withLock { $0.calls } }
    /// The number of recorded runs.
    public var recordedCount: Int { recording.calls.count }
    /// The number of deep features that are kept.
    public var featureCount: Int { state.withLock { $0.features.count } }
    /// The roles that are loaded now, as "role size".
    public var loadedRoles: Set<String> { state.withLock { $0.loaded } }
    /// Every "role size" that was loaded and "-role size" that was freed, in order.
    public var loadHistory: [String] { state.withLock { $0.loads } }
    /// The largest distance of an input to its recorded one so far: a share of its largest number.
    public var largestDistance: Float { state.withLock { $0.largestDistance } }

    /// Begins again at the first recorded call, with nothing kept and nothing counted.
    public func rewind() {
        state.withLock { state in
            let loaded = state.loaded
            state = State()
            state.loaded = loaded
        }
    }

    /// Returns whether the set has a role at a size.
    public func has(_ role: String, size: String) -> Bool { info.has(role, size: size) }

    /// Notes that a role is loaded.
    public func load(_ role: String, size: String) async throws {
        guard has(role, size: size) else { throw missing(role, size) }
        state.withLock { state in
            if state.loaded.insert("\(role) \(size)").inserted { state.loads.append("\(role) \(size)") }
        }
    }

    /// Notes that a role is freed.
    public func unload(_ role: String, size: String) async {
        state.withLock { state in
            if state.loaded.remove("\(role) \(size)") != nil { state.loads.append("-\(role) \(size)") }
        }
    }

    /// Drops kept features; nil drops all of them.
    public func forget(_ keys: [FeatureKey]?) async {
        state.withLock { $0.features.forget(keys) }
    }

    /// Compares the inputs with the next recorded run of a role, and returns what that gave.
    public func run(
        _ role: String, size: String, inputs: [String: Tensor], deepFeature: [WeightedFeature], keepAs: FeatureKey?
    ) async throws -> [String: Tensor] {
        let role = recorded(role)
        guard let steps = info.functions(of: role, size: size) else { throw missing(role, size) }
        let ports = info.inputs(of: role, size: size)
        if let unknown = inputs.keys.first(where: { ports[$0] == nil }) {
            throw DiffusionError(.network, "\(role) at \(size) has no input \(unknown)")
        }
        return try state.withLock { state in
            var feeds = inputs
            if !deepFeature.isEmpty {
                feeds[RoleInputs.deepFeature] = try sum(deepFeature, state.features, role, ports)
            }
            var results: [String: Tensor] = [:]
            for step in steps {
                let number = try choose(role, size, step, feeds, &state)
                let call = recording.calls[number]
                for name in call.inputs.keys { results[name] = nil }
                for (name, entry) in call.outputs {
                    feeds[name] = nil  // computed from here on, not compared
                    results[name] = recording.tensor(entry)
                }
                state.calls += 1
            }
            if let feature = results.removeValue(forKey: RoleInputs.deepFeature), let keepAs {
                state.features[keepAs] = feature
            }
            return results
        }
    }

    // MARK: - Comparison

    /// Returns the role whose runs were recorded: back ends of Core AI run unet_refresh in the place of unet_full.
    private func recorded(_ role: String) -> String {
        let refresh = "unet_refresh"
        return role == "unet_full" && recording.calls.contains { $0.role == refresh } ? refresh : role
    }

    private static func key(_ role: String, _ size: String, _ package: String, _ function: String) -> String {
        [role, size, package, function].joined(separator: " ")
    }

    /// Whether a role's runs depend on nothing but their inputs, so that their order means nothing.
    private static func isUnordered(_ role: String) -> Bool {
        role.hasPrefix("text_encoder") || role.hasPrefix("control_image:") || role == "vae_encoder"
    }

    /// Returns the number of the recorded call that is replayed; throws where the inputs are not its own.
    private func choose(
        _ role: String, _ size: String, _ step: ModelSetInfo.FunctionName, _ feeds: [String: Tensor],
        _ state: inout State
    ) throws -> Int {
        let key = Self.key(role, size, step.package, step.function)
        let numbers = callsByFunction[key] ?? []
        if Self.isUnordered(role) {
            let found = numbers.map { problems($0, feeds, role) }
            guard let place = found.indices.min(by: { largest(found[$0]) < largest(found[$1]) }) else {
                throw DiffusionError(.network, "the recording has no run of \(role) at \(size)")
            }
            try check(found[place], numbers[place], place, role, &state)
            return numbers[place]
        }
        let next = state.next[key, default: 0]
        guard next < numbers.count else {
            throw DiffusionError(
                .network, "run \(next + 1) of \(role) at \(size) is one too many: the recording has \(numbers.count)")
        }
        try check(problems(numbers[next], feeds, role), numbers[next], next, role, &state)
        state.next[key] = next + 1
        return numbers[next]
    }

    private func check(
        _ problems: [Problem], _ number: Int, _ place: Int, _ role: String, _ state: inout State
    ) throws {
        state.largestDistance = max(state.largestDistance, largest(problems.filter { $0.distance.isFinite }))
        guard let worst = problems.max(by: { $0.distance < $1.distance }), worst.distance > tolerance else { return }
        throw DiffusionError(
            .network, "run \(place + 1) of \(role) (call \(number + 1) of the recording): \(worst.name) \(worst.words)")
    }

    private struct Problem {
        let name: String
        let distance: Float
        let words: String
    }

    private func largest(_ problems: [Problem]) -> Float { problems.map(\.distance).max() ?? 0 }

    /// Returns the distance of each input that is handed in to the recorded one.
    private func problems(_ number: Int, _ feeds: [String: Tensor], _ role: String) -> [Problem] {
        let call = recording.calls[number]
        let computed = Set(
            (info.functions(of: role, size: call.size) ?? []).flatMap { step -> [String] in
                if step.package == call.package, step.function == call.function { return [] }
                return info.packages[step.package]?.functions[step.function].map { Array($0.outputs.keys) } ?? []
            })
        return call.inputs.map { name, entry in
            if let tensor = feeds[name] {
                let distance = recording.distance(tensor, entry)
                let words =
                    tensor.shape == entry.shape
                    ? "is \(distance) of its largest number away, more than \(tolerance)"
                    : "has the shape \(tensor.shape), not \(entry.shape)"
                return Problem(name: name, distance: distance, words: words)
            }
            if computed.contains(name) { return Problem(name: name, distance: 0, words: "") }
            if name.hasPrefix(RoleInputs.residual) {
                let zeros = Tensor(shape: entry.shape, values: Array(repeating: 0, count: entry.count))
                let distance = recording.distance(zeros, entry)
                return Problem(name: name, distance: distance, words: "is left out, and was not zero")
            }
            return Problem(name: name, distance: .infinity, words: "is missing")
        }
    }

    /// Returns the sum of kept features, the oldest first, rounded to the type of the port.
    private func sum(
        _ unordered: [WeightedFeature], _ features: KeptFeatures<Tensor>, _ role: String,
        _ ports: [String: ModelSetInfo.Port]
    ) throws -> Tensor {
        let terms = unordered.sorted { $0.key.evaluation < $1.key.evaluation }
        let tensors = try terms.map { term -> Tensor in
            guard let feature = features[term.key] else {
                throw DiffusionError(
                    .network,
                    "\(role) asks for the deep feature of evaluation \(term.key.evaluation), stream "
                        + "\(term.key.stream), which is not kept")
            }
            return feature
        }
        if terms.count == 1, terms[0].weight == 1 { return tensors[0] }
        var total = Tensor(shape: tensors[0].shape, values: Array(repeating: 0, count: tensors[0].values.count))
        for (term, tensor) in zip(terms, tensors) { total.add(tensor.scaled(term.weight)) }
        if ports[RoleInputs.deepFeature]?.dtype == .float16 {
            total.values = total.values.map { HalfFloat.float(HalfFloat.bits($0)) }
        }
        return total
    }

    private func missing(_ role: String, _ size: String) -> DiffusionError {
        DiffusionError(.files, "the recorded set has no network for \(role) at \(size)")
    }
}
