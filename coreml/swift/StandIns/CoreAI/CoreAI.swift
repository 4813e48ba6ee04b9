// Stands in for Apple's framework of the systems 27 on Linux: the names that the back end uses, as documented, and
// functions that replay recordings. Every name is listed in ../SURFACE.md.
import Foundation
@_exported import StandInReplay

public enum ComputeUnitKind: Hashable, Sendable { case cpu, gpu, neuralEngine }

public struct SpecializationOptions: Sendable, Equatable {
    public static let `default` = SpecializationOptions()
    public static let cpuOnly = SpecializationOptions(preferredComputeUnitKind: .cpu)
    public let preferredComputeUnitKind: ComputeUnitKind?

    init() { preferredComputeUnitKind = nil }

    public init(preferredComputeUnitKind: ComputeUnitKind) {
        self.preferredComputeUnitKind = preferredComputeUnitKind
    }
}

public struct NDArray: Sendable {
    public enum ScalarType: Sendable {
        case float16, float32, int32

        init(_ dtype: String) { self = dtype == "float16" ? .float16 : dtype == "int32" ? .int32 : .float32 }
        var dtype: String { self == .float16 ? "float16" : self == .int32 ? "int32" : "float32" }
    }

    var storage: StridedStorage

    public init(descriptor: NDArrayDescriptor) {
        storage = StridedStorage(shape: descriptor.shape, dtype: descriptor.scalarType.dtype, padded: true)
    }

    public init(shape: [Int], scalarType: ScalarType) {
        storage = StridedStorage(shape: shape, dtype: scalarType.dtype, padded: false)
    }

    init(_ port: Replay.Port, _ values: [Float]) {
        storage = StridedStorage(shape: port.shape, dtype: port.dtype, padded: true)
        storage.values = values
    }

    public var shape: [Int] { storage.shape }
    public var strides: [Int] { storage.strides }
    public var scalarType: ScalarType { ScalarType(storage.dtype) }

    public struct InterleaveLayout: Sendable {}

    /// Always nil here: numbers of several channels beside each other.
    public var interleaveLayout: InterleaveLayout? { nil }

    // The real views cannot escape. Their closures give shape and strides too, as spans, which nobody uses here.
    public struct RawView {
        let storage: StridedStorage

        public func withUnsafeBytes<R>(_ body: (UnsafeRawPointer, [Int], [Int]) throws -> R) rethrows -> R {
            guard let start = storage.bytes.baseAddress else { fatalError("no numbers") }
            return try body(UnsafeRawPointer(start), storage.shape, storage.strides)
        }
    }

    public struct MutableRawView {
        let storage: StridedStorage

        public func withUnsafeMutableBytes<R>(
            _ body: (UnsafeMutableRawPointer, [Int], [Int]) throws -> R
        ) rethrows -> R {
            guard let start = storage.bytes.baseAddress else { fatalError("no numbers") }
            return try body(start, storage.shape, storage.strides)
        }
    }

    public func rawView() -> RawView { RawView(storage: storage) }

    public mutating func mutableRawView() -> MutableRawView {
        if !isKnownUniquelyReferenced(&storage) { storage = storage.copy() }
        return MutableRawView(storage: storage)
    }
}

public struct NDArrayDescriptor: Sendable {
    public let shape: [Int]
    public let scalarType: NDArray.ScalarType

    init(_ port: Replay.Port) { (shape, scalarType) = (port.shape, NDArray.ScalarType(port.dtype)) }
}

public struct InferenceValue: Sendable {
    public enum Descriptor: Sendable { case ndArray(NDArrayDescriptor) }
    public let ndArray: NDArray?
}

public struct InferenceFunctionDescriptor: Sendable {
    let ports: Replay.Function

    public var inputNames: [String] { ports.inputs.keys.filter { !ports.states.contains($0) }.sorted() }
    public var outputNames: [String] { ports.outputs.keys.sorted() }
    public var stateNames: [String] { ports.states.sorted() }

    public func inputDescriptor(of name: String) -> InferenceValue.Descriptor? {
        ports.states.contains(name) ? nil : ports.inputs[name].map { .ndArray(NDArrayDescriptor($0)) }
    }

    public func outputDescriptor(of name: String) -> InferenceValue.Descriptor? {
        ports.outputs[name].map { .ndArray(NDArrayDescriptor($0)) }
    }

    public func stateDescriptor(of name: String) -> InferenceValue.Descriptor? {
        ports.states.contains(name) ? ports.inputs[name].map { .ndArray(NDArrayDescriptor($0)) } : nil
    }
}

public struct AIModel: Sendable {
    private let replay: Replay
    public let options: SpecializationOptions

    public init(contentsOf url: URL, options: SpecializationOptions = .default) async throws {
        (replay, self.options) = (try Replay(package: url), options)
        ReplayLog.shared.add(.load, of: url)
    }

    public var functionNames: [String] { replay.functions.keys.sorted() }

    public func loadFunction(named name: String) throws -> InferenceFunction? {
        replay.functions[name].map { InferenceFunction(replay: replay, name: name, ports: $0) }
    }
}

public struct InferenceFunction: Sendable {
    public struct MutableViews: ~Copyable {
        var arrays: [String: StridedStorage] = [:]

        public init() {}

        public mutating func insert(_ view: NDArray.MutableRawView, for name: String) {
            arrays[name] = view.storage
        }
    }

    public struct Outputs: ~Copyable, Sendable {
        var values: [String: NDArray]

        public mutating func remove(_ name: String) -> InferenceValue? {
            values.removeValue(forKey: name).map { InferenceValue(ndArray: $0) }
        }
    }

    let replay: Replay
    let name: String
    let ports: Replay.Function

    public var descriptor: InferenceFunctionDescriptor { InferenceFunctionDescriptor(ports: ports) }

    public func run(
        inputs: [String: NDArray], states: consuming MutableViews = MutableViews(),
        outputViews: consuming MutableViews = MutableViews()
    ) async throws -> Outputs {
        let written = states.arrays
        if let state = ports.states.first(where: { inputs[$0] != nil }) {
            throw CocoaError(.featureUnsupported, userInfo: [NSLocalizedDescriptionKey: "\(state) is a state"])
        }
        var arrays = inputs.mapValues(\.storage.input)
        for (name, storage) in written {
            arrays[name] = Replay.Input(shape: storage.shape, dtype: storage.dtype, values: [])
        }
        let run = try replay.run(of: name, inputs: arrays, exempt: Set(ports.states))
        var outputs: [String: NDArray] = [:]
        for (name, port) in run.outputs {
            if let storage = written[name] {
                storage.values = replay.values(of: port)
            } else {
                outputs[name] = NDArray(port, replay.values(of: port))
            }
        }
        return Outputs(values: outputs)
    }
}
