// Stands in for Apple's framework on Linux: the names that the back end uses, as documented, and models that replay
// recordings. Every name is listed in ../SURFACE.md.
import Dispatch
import Foundation
@_exported import StandInReplay

public enum MLComputeUnits: Int, Sendable {
    case cpuOnly = 0
    case cpuAndGPU = 1
    case all = 2
    case cpuAndNeuralEngine = 3
}

public enum MLMultiArrayDataType: Int, Sendable {
    case double = 65600
    case float32 = 65568
    case float16 = 65552
    case int32 = 131104

    init(_ dtype: String) { self = dtype == "float16" ? .float16 : dtype == "int32" ? .int32 : .float32 }
    var dtype: String { self == .float16 ? "float16" : self == .int32 ? "int32" : "float32" }
}

open class MLMultiArray: NSObject {
    public let shape: [NSNumber]
    public let dataType: MLMultiArrayDataType
    public let strides: [NSNumber]
    let storage: StridedStorage

    public convenience init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        self.init(StridedStorage(shape: shape.map(\.intValue), dtype: dataType.dtype, padded: false))
    }

    init(_ storage: StridedStorage) {
        self.storage = storage
        shape = storage.shape.map { NSNumber(value: $0) }
        strides = storage.strides.map { NSNumber(value: $0) }
        dataType = MLMultiArrayDataType(storage.dtype)
    }

    public var count: Int { storage.shape.reduce(1, *) }

    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try body(UnsafeRawBufferPointer(storage.bytes))
    }

    public func withUnsafeMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> R) rethrows -> R {
        try body(storage.bytes, storage.strides)
    }
}

open class MLFeatureValue: NSObject {
    public let multiArrayValue: MLMultiArray?

    public init(multiArray value: MLMultiArray) { multiArrayValue = value }
}

public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    private let dictionary: [String: MLFeatureValue]

    public init(dictionary: [String: Any]) throws {
        self.dictionary = dictionary.compactMapValues { $0 as? MLFeatureValue }
    }

    public var featureNames: Set<String> { Set(dictionary.keys) }
    public func featureValue(for featureName: String) -> MLFeatureValue? { dictionary[featureName] }
}

open class MLModelConfiguration: NSObject {
    public var computeUnits: MLComputeUnits = .all
    public var functionName: String?
}

open class MLMultiArrayConstraint: NSObject {
    public let shape: [NSNumber]
    public let dataType: MLMultiArrayDataType

    init(_ port: Replay.Port) {
        shape = port.shape.map { NSNumber(value: $0) }
        dataType = MLMultiArrayDataType(port.dtype)
    }
}

open class MLFeatureDescription: NSObject {
    public let multiArrayConstraint: MLMultiArrayConstraint?

    init(_ port: Replay.Port) { multiArrayConstraint = MLMultiArrayConstraint(port) }
}

open class MLModelDescription: NSObject {
    public let inputDescriptionsByName: [String: MLFeatureDescription]
    public let outputDescriptionsByName: [String: MLFeatureDescription]

    init(_ function: Replay.Function) {
        inputDescriptionsByName = function.inputs.mapValues { MLFeatureDescription($0) }
        outputDescriptionsByName = function.outputs.mapValues { MLFeatureDescription($0) }
    }
}

open class MLModel: NSObject {
    private let replay: Replay
    private let function: String
    private let place = CallPlace()
    public let modelDescription: MLModelDescription
    public let configuration: MLModelConfiguration

    public convenience init(contentsOf url: URL, configuration: MLModelConfiguration) throws {
        guard url.pathExtension == "mlmodelc" else {
            throw CocoaError(.fileReadUnsupportedScheme, userInfo: [NSFilePathErrorKey: url.path])
        }
        try self.init(Replay(package: url), configuration)
    }

    private init(_ replay: Replay, _ configuration: MLModelConfiguration) throws {
        let names = replay.functions.keys.sorted()
        let function = configuration.functionName ?? names.first ?? "main"
        guard let ports = replay.functions[function] else {
            throw CocoaError(.featureUnsupported, userInfo: [NSLocalizedDescriptionKey: "no function \(function)"])
        }
        (self.replay, self.function, self.configuration) = (replay, function, configuration)
        modelDescription = MLModelDescription(ports)
        ReplayLog.shared.add(.load, of: replay.package)
    }

    deinit { ReplayLog.shared.add(.free, of: replay.package) }

    open class func compileModel(at url: URL) async throws -> URL {
        let name = url.deletingPathExtension().lastPathComponent
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        let target = folder.appendingPathComponent("\(name).mlmodelc")
        try Replay.compile(url, to: target)
        return target
    }

    open func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        try place.check(replay.package.lastPathComponent)
        var inputs: [String: Replay.Input] = [:]
        for name in input.featureNames { inputs[name] = input.featureValue(for: name)?.multiArrayValue?.storage.input }
        let run = try replay.run(of: function, inputs: inputs)
        let outputs = run.outputs.mapValues { port -> MLFeatureValue in
            let storage = StridedStorage(shape: port.shape, dtype: port.dtype, padded: true)
            storage.values = replay.values(of: port)
            return MLFeatureValue(multiArray: MLMultiArray(storage))
        }
        return try MLDictionaryFeatureProvider(dictionary: outputs)
    }
}
