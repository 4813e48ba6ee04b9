import Dispatch
import Foundation

/// The recorded runs of one package: what stands in for Apple's frameworks checks inputs against them, and replays
/// outputs. A package is a folder with replay.json, which `tests/support/swift_goldens/recorder.py` writes.
public final class Replay: Sendable {
    /// An input or an output; the offset, in numbers, is that of a run.
    public struct Port: Codable, Sendable, Equatable {
        public let shape: [Int]
        public let dtype: String
        public let offset: Int?
    }

    /// The ports of a function.
    public struct Function: Codable, Sendable {
        public let inputs: [String: Port]
        public let outputs: [String: Port]
        public let states: [String]
    }

    /// One run of a function.
    public struct Run: Codable, Sendable {
        public let function: String
        public let inputs: [String: Port]
        public let outputs: [String: Port]
    }

    private struct File: Codable {
        var numbers: String
        let functions: [String: Function]
        let runs: [Run]
    }

    public let package: URL
    public let functions: [String: Function]
    private let runs: [Run]
    private let numbers: Data

    /// Reads the recording of a package; throws `ReplayError` where it has none.
    public init(package: URL) throws {
        self.package = package
        let file = try Self.file(of: package)
        (functions, runs) = (file.functions, file.runs)
        let path = URL(fileURLWithPath: file.numbers, relativeTo: package)
        numbers = try Data(contentsOf: path, options: .alwaysMapped)
    }

    private static func file(of package: URL) throws -> File {
        guard let data = try? Data(contentsOf: package.appendingPathComponent("replay.json")) else {
            throw ReplayError("\(package.lastPathComponent) cannot be opened")
        }
        return try JSONDecoder().decode(File.self, from: data)
    }

    /// Writes the recording of a package into another folder, as a compiler would.
    public static func compile(_ package: URL, to target: URL) throws {
        var file = try file(of: package)
        file.numbers = URL(fileURLWithPath: file.numbers, relativeTo: package).standardizedFileURL.path
        try FileManager.default.createDirectory(at: target, withIntermediateDirectories: true)
        try JSONEncoder().encode(file).write(to: target.appendingPathComponent("replay.json"))
    }

    /// Returns the numbers of a port of a run.
    public func values(of port: Port) -> [Float] {
        let (start, count) = (port.offset ?? 0, port.shape.reduce(1, *))
        return [Float](unsafeUninitializedCapacity: count) { values, written in
            numbers.withUnsafeBytes { bytes in
                let source = UnsafeRawBufferPointer(rebasing: bytes[4 * start..<4 * (start + count)])
                UnsafeMutableRawBufferPointer(values).copyMemory(from: source)
            }
            written = count
        }
    }

    /// An input as a caller gives it.
    public struct Input {
        public let shape: [Int]
        public let dtype: String
        public let values: [Float]

        /// Joins shape, type and numbers in row-major order.
        public init(shape: [Int], dtype: String, values: [Float]) {
            (self.shape, self.dtype, self.values) = (shape, dtype, values)
        }
    }

    /// Returns the recorded run of a function with these inputs; throws `ReplayError` where there is none.
    ///
    /// `exempt` are inputs whose type and shape alone are compared: states are written, not read.
    public func run(of function: String, inputs: [String: Input], exempt: Set<String> = []) throws -> Run {
        let name = "\(package.lastPathComponent), \(function)"
        guard let ports = functions[function] else { throw ReplayError("\(name): there is no such function") }
        let names = (Set(inputs.keys).sorted(), Set(ports.inputs.keys).sorted())
        guard names.0 == names.1 else { throw ReplayError("\(name): the inputs are \(names.1), not \(names.0)") }
        for (input, port) in ports.inputs {
            guard let value = inputs[input], value.shape == port.shape, value.dtype == port.dtype else {
                let actual = inputs[input].map { "\($0.shape) \($0.dtype)" } ?? "none"
                throw ReplayError("\(name): \(input) is \(port.shape) \(port.dtype), not \(actual)")
            }
        }
        ReplayLog.shared.add(.run(function), of: package)
        var problem = "it was never run"
        var most = -1
        for run in runs where run.function == function {
            var equal = 0
            var different: String?
            for (input, value) in inputs.sorted(by: { $0.value.values.count < $1.value.values.count })
            where !exempt.contains(input) {
                guard let port = run.inputs[input], different == nil else { continue }
                different = difference(of: value, from: values(of: port), lenient: input == "deep_feature")
                    .map { "\(input) \($0)" }
                equal += different == nil ? 1 : 0
            }
            guard let different else { return run }
            if equal > most { (problem, most) = (different, equal) }
        }
        throw ReplayError("\(name): no recorded run has these inputs; of the nearest, \(problem)")
    }

    /// Returns how an input differs from a recorded one, or nil where it does not.
    ///
    /// Single numbers may be rounded to the other neighbour; an input of which many are was rounded in another way.
    /// lenient: skips that, for sums that another order of additions changes.
    private func difference(of input: Input, from recorded: [Float], lenient: Bool) -> String? {
        let isHalf = input.dtype == "float16"
        var largest: Float = 0
        var off: Float = 0
        var others = 0
        for index in 0..<recorded.count {
            let expected = isHalf ? Float(Float16(recorded[index])) : recorded[index]
            let value = input.values[index]
            guard value.isFinite else { return "is not finite" }
            if value == expected {
                largest = max(largest, abs(expected))
                continue
            }
            (largest, off) = (max(largest, abs(expected)), max(off, abs(value - expected)))
            others += 1
        }
        let limit = input.dtype == "int32" ? 0 : (isHalf ? 1.2e-3 : 1e-4) * largest
        guard off <= limit else { return "is off by \(off), of a largest number of \(largest)" }
        if isHalf, !lenient, others > recorded.count / 8, recorded.count >= 64 {
            return "has \(others) of \(recorded.count) numbers rounded otherwise"
        }
        return nil
    }
}

/// A mistake that a real framework would report, or should.
public struct ReplayError: Error, CustomStringConvertible, LocalizedError {
    public let description: String
    public var errorDescription: String? { description }

    init(_ description: String) { self.description = description }
}

/// What happened to the packages below a folder.
public final class ReplayLog: @unchecked Sendable {
    public enum Event: Sendable, Equatable {
        case load, free
        case run(String)
    }

    public static let shared = ReplayLog()
    private let lock = NSLock()
    private var events: [(package: String, event: Event)] = []

    /// Notes an event.
    public func add(_ event: Event, of package: URL) {
        lock.withLock { events.append((package.standardizedFileURL.path, event)) }
    }

    /// Returns the events of all packages in a folder, in their order, as "load UnetChunk1.mlmodelc".
    public func lines(in folder: URL) -> [String] {
        let prefix = folder.standardizedFileURL.path + "/"
        return lock.withLock { events.filter { $0.package.hasPrefix(prefix) } }.map { package, event in
            let name = String(package.dropFirst(prefix.count))
            switch event {
            case .load: return "load \(name)"
            case .free: return "free \(name)"
            case .run(let function): return "run \(name) \(function)"
            }
        }
    }
}

/// Returns the label of a queue, of the current one for nil; Swift on Linux does not import it.
@_silgen_name("dispatch_queue_get_label")
private func queueLabel(_ queue: OpaquePointer?) -> UnsafePointer<CChar>

/// Remembers the queue of its first call, and refuses calls from others.
public final class CallPlace: @unchecked Sendable {
    private let lock = NSLock()
    private var label: String?

    public init() {}

    /// Throws `ReplayError` where the caller runs on another queue than at first, or on a thread of the shared pool.
    public func check(_ name: String) throws {
        let current = String(cString: queueLabel(nil))
        let first = lock.withLock {
            label = label ?? current
            return label
        }
        guard first == current else { throw ReplayError("\(name) is called on \(current), and was on \(first ?? "")") }
        guard !current.isEmpty, !current.hasPrefix("com.apple.root"), !current.contains("Swift global") else {
            throw ReplayError("\(name) blocks a thread of the shared pool")
        }
    }
}

/// Returns strides of rows that are padded to 32 numbers, and the number of numbers that they take.
public func paddedStrides(_ shape: [Int]) -> (strides: [Int], count: Int) {
    var strides = [Int](repeating: 1, count: shape.count)
    var step = 1
    for axis in shape.indices.reversed() {
        strides[axis] = step
        step *= shape[axis]
        if axis == shape.count - 1 { step = (step + 31) / 32 * 32 }
    }
    return (strides, step)
}

/// Returns strides of rows that follow each other, and the number of numbers that they take.
public func contiguousStrides(_ shape: [Int]) -> (strides: [Int], count: Int) {
    var strides = [Int](repeating: 1, count: shape.count)
    var step = 1
    for axis in shape.indices.reversed() {
        strides[axis] = step
        step *= shape[axis]
    }
    return (strides, step)
}

/// Returns the place of the number with a row-major index.
public func place(of index: Int, shape: [Int], strides: [Int]) -> Int {
    var rest = index
    var place = 0
    for axis in shape.indices.reversed() {
        place += rest % shape[axis] * strides[axis]
        rest /= shape[axis]
    }
    return place
}
