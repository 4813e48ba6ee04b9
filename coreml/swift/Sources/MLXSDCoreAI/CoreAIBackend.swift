#if canImport(CoreAI)
    import CoreAI
    import Foundation
    import MLXSDCore

    /// Runs the assets of a model set with Core AI. Deep features never leave the actor.
    @available(iOS 27.0, macOS 27.0, tvOS 27.0, watchOS 27.0, visionOS 27.0, *)
    public actor CoreAIBackend: NetworkBackend {
        public nonisolated let info: ModelSetInfo
        private let folder: URL
        private let units: ComputeUnits
        private var loaded: [ModelSetInfo.FunctionName: InferenceFunction] = [:]
        private var loading: [ModelSetInfo.FunctionName: Task<InferenceFunction, any Error>] = [:]
        private var features = KeptFeatures<NDArray>()
        private var zeros: [ModelSetInfo.FunctionName: [String: NDArray]] = [:]

        /// Prepares to run a set; nothing is loaded yet.
        ///
        /// units: of all networks; nil is what suits the set. Throws where the set is of Core ML, or an asset is not in
        /// the folder.
        public init(folder: URL, info: ModelSetInfo, units: ComputeUnits? = nil) throws {
            guard info.format == .coreAI else {
                throw DiffusionError(
                    .files, "\(folder.path) is a set of Core ML, which Core AI does not run; use CoreMLBackend")
            }
            for name in info.packages.keys.sorted() {
                let asset = Self.asset(name, in: folder)
                guard FileManager.default.fileExists(atPath: asset.path) else {
                    throw DiffusionError(.files, "\(asset.path) is missing; copy the set again")
                }
            }
            (self.folder, self.info, self.units) = (folder, info, units ?? .suited(to: info))
        }

        private static func asset(_ name: String, in folder: URL) -> URL {
            folder.appendingPathComponent("\(name).aimodel")
        }

        private static func name(of step: ModelSetInfo.FunctionName) -> String {
            "\(step.package).aimodel, \(step.function)"
        }

        public nonisolated func has(_ role: String, size: String) -> Bool { info.has(role, size: size) }

        public func load(_ role: String, size: String) async throws {
            for step in try functions(of: role, size: size) { _ = try await function(step) }
        }

        public func unload(_ role: String, size: String) {
            for step in (try? functions(of: role, size: size)) ?? [] { (loaded[step], zeros[step]) = (nil, nil) }
        }

        public func forget(_ keys: [FeatureKey]?) { features.forget(keys) }

        /// Returns the functions of a role; where there is one that writes the deep feature in place, it takes the place
        /// of unet_full.
        private func functions(of role: String, size: String) throws -> [ModelSetInfo.FunctionName] {
            let refreshes = role == "unet_full" && info.has("unet_refresh", size: size)
            return try RoleInputs.functions(of: refreshes ? "unet_refresh" : role, size: size, in: info)
        }

        public func run(
            _ role: String, size: String, inputs: [String: Tensor], deepFeature: [WeightedFeature], keepAs: FeatureKey?
        ) async throws -> [String: Tensor] {
            var computed: [String: NDArray] = [:]
            var results: [String: NDArray] = [:]
            for step in try functions(of: role, size: size) {
                let function = try await function(step)
                guard let description = info.packages[step.package]?.functions[step.function] else { continue }
                try Task.checkCancellation()
                let states = description.states ?? []
                var values: [String: NDArray] = [:]
                for (input, port) in description.inputs where !states.contains(input) {
                    if let known = computed[input] {
                        values[input] = known
                    } else {
                        values[input] = try value(
                            input, port, step, function, inputs[input], deepFeature)
                    }
                }
                let outputs = try await run(function, Self.name(of: step), description, values)
                computed.merge(outputs) { $1 }
                results = results.filter { description.inputs[$0.key] == nil }.merging(outputs) { $1 }
            }
            if let keepAs {
                guard let feature = results[RoleInputs.deepFeature] else {
                    throw DiffusionError(.network, "\(role) has no deep feature to keep")
                }
                features[keepAs] = feature
            }
            results[RoleInputs.deepFeature] = nil
            return try results.reduce(into: [:]) { $0[$1.key] = try tensor($1.value, $1.key) }
        }

        /// Runs a function; returns its outputs and the states that it wrote.
        private func run(
            _ function: InferenceFunction, _ name: String, _ description: ModelSetInfo.Function,
            _ values: [String: NDArray]
        ) async throws -> [String: NDArray] {
            var results: [String: NDArray] = [:]
            do {
                // Views of states cannot be kept in a list: this package has one state, the deep feature.
                if let port = description.inputs[RoleInputs.deepFeature],
                    description.states == [RoleInputs.deepFeature]
                {
                    var state = NDArray(shape: port.shape, scalarType: scalarType(port.dtype))
                    var views = InferenceFunction.MutableViews()
                    views.insert(state.mutableRawView(), for: RoleInputs.deepFeature)
                    var outputs = try await function.run(inputs: values, states: consume views)
                    for output in description.outputs.keys { results[output] = outputs.remove(output)?.ndArray }
                    results[RoleInputs.deepFeature] = state
                } else {
                    var outputs = try await function.run(inputs: values)
                    for output in description.outputs.keys { results[output] = outputs.remove(output)?.ndArray }
                }
            } catch {
                throw DiffusionError(.network, "\(name) failed: \(error.localizedDescription)")
            }
            for output in description.outputs.keys where results[output] == nil {
                throw DiffusionError(.network, "\(name) gave no \(output)")
            }
            return results
        }

        /// Returns the value of an input that no function before computed.
        private func value(
            _ input: String, _ port: ModelSetInfo.Port, _ step: ModelSetInfo.FunctionName,
            _ function: InferenceFunction, _ given: Tensor?, _ deepFeature: [WeightedFeature]
        ) throws -> NDArray {
            let name = Self.name(of: step)
            guard case .ndArray(let descriptor) = function.descriptor.inputDescriptor(of: input) else {
                throw RoleInputs.missing(input, of: name)
            }
            func array(_ values: [Float]) throws -> NDArray {
                var array = NDArray(descriptor: descriptor)
                try write(values, into: &array, input)
                return array
            }
            if input == RoleInputs.deepFeature {
                return try features.sum(
                    deepFeature, port, of: name, numbers: { try tensor($0, input) }, array: array)
            }
            if let given {
                try RoleInputs.check(given, input, port, of: name)
                return try array(given.values)
            }
            guard input.hasPrefix(RoleInputs.residual) else { throw RoleInputs.missing(input, of: name) }
            if let value = zeros[step]?[input] { return value }
            let value = try array([Float](repeating: 0, count: port.shape.reduce(1, *)))
            zeros[step, default: [:]][input] = value
            return value
        }

        /// Returns a loaded function; callers at the same time wait for one load.
        private func function(_ step: ModelSetInfo.FunctionName) async throws -> InferenceFunction {
            if let function = loaded[step] { return function }
            let asset = Self.asset(step.package, in: folder)
            let task =
                loading[step]
                ?? Task { [info, units] in
                    try await Self.load(step, asset, info.packages[step.package]?.functions[step.function], units)
                }
            loading[step] = task
            defer { loading[step] = nil }
            let function = try await task.value
            loaded[step] = function
            return function
        }

        private static func load(
            _ step: ModelSetInfo.FunctionName, _ asset: URL, _ description: ModelSetInfo.Function?,
            _ units: ComputeUnits
        ) async throws -> InferenceFunction {
            let name = name(of: step)
            let function: InferenceFunction?
            do {
                function = try await AIModel(contentsOf: asset, options: options(units)).loadFunction(
                    named: step.function)
            } catch {
                throw DiffusionError(
                    .files, "\(name) cannot be loaded: \(error.localizedDescription); copy or export the set again")
            }
            guard let function, let description else {
                throw DiffusionError(.files, "\(name) does not exist in the asset; copy or export the set again")
            }
            let states = description.states ?? []
            let inputs = description.inputs.filter { !states.contains($0.key) }
            try check("input", function.descriptor.inputNames, inputs, name) {
                guard case .ndArray(let descriptor) = function.descriptor.inputDescriptor(of: $0) else { return nil }
                return descriptor
            }
            try check("output", function.descriptor.outputNames, description.outputs, name) {
                guard case .ndArray(let descriptor) = function.descriptor.outputDescriptor(of: $0) else { return nil }
                return descriptor
            }
            return function
        }

        private static func check(
            _ kind: String, _ names: [String], _ described: [String: ModelSetInfo.Port], _ name: String,
            _ descriptor: (String) -> NDArrayDescriptor?
        ) throws {
            var ports: [String: (shape: [Int], dtype: String)] = [:]
            for port in names {
                guard let entry = descriptor(port) else { continue }
                ports[port] = (Array(entry.shape), MLXSDCoreAI.name(of: entry.scalarType))
            }
            try RoleInputs.check(kind, loaded: ports, described: described, of: name)
        }

        private static func options(_ units: ComputeUnits) -> SpecializationOptions {
            switch units {
            case .cpuOnly: return .cpuOnly
            case .cpuAndGPU: return SpecializationOptions(preferredComputeUnitKind: .gpu)
            case .cpuAndNeuralEngine: return SpecializationOptions(preferredComputeUnitKind: .neuralEngine)
            case .all: return .default
            }
        }

        private func scalarType(_ dtype: ModelSetInfo.PortType) -> NDArray.ScalarType {
            switch dtype {
            case .float16: return .float16
            case .float32: return .float32
            case .int32: return .int32
            }
        }
    }
#endif
