#if canImport(CoreML)
    import CoreML
    import Foundation
    import MLXSDCore

    /// Runs the packages of a model set with Core ML, on a queue of its own.
    ///
    /// Models and deep features never leave the actor. It runs packages that Core ML has compiled (.mlmodelc); others
    /// (.mlpackage) it compiles first, by way of a `CompiledPackages`, which keeps the result.
    public actor CoreMLBackend: NetworkBackend {
        public nonisolated let info: ModelSetInfo
        private let folder: URL
        private let units: ComputeUnits
        private let unitsOfRoles: [String: ComputeUnits]
        private let compiled: CompiledPackages
        private var loaded: [ModelSetInfo.FunctionName: LoadedFunction] = [:]
        private var features = KeptFeatures<MLFeatureValue>()
        private let queue = OwnQueue("mlx-sd.core-ml")

        public nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }

        /// Prepares to run a set; nothing is loaded yet.
        ///
        /// - Parameters:
        ///   - folder: of the model set.
        ///   - info: of the folder.
        ///   - units: of all networks; nil is what suits the set. Networks in float32 then run on the GPU.
        ///   - unitsOfRoles: of single roles, for example ["vae_decoder": .cpuAndGPU].
        ///   - compiled: where compiled packages are kept.
        ///
        /// Throws where the set is of Core AI, or a package is not in the folder.
        public init(
            folder: URL, info: ModelSetInfo, units: ComputeUnits? = nil, unitsOfRoles: [String: ComputeUnits] = [:],
            compiled: CompiledPackages? = nil
        ) throws {
            guard info.format == .coreML else {
                throw DiffusionError(
                    .files, "\(folder.path) is a set of Core AI, which Core ML does not run; use CoreAIBackend")
            }
            for name in info.packages.keys.sorted() where Self.package(name, in: folder) == nil {
                throw DiffusionError(
                    .files, "\(folder.path) has no \(name).mlmodelc and no \(name).mlpackage; copy the set again")
            }
            (self.folder, self.info) = (folder, info)
            self.units = units ?? .suited(to: info)
            self.unitsOfRoles = units == nil ? Self.unitsOfFloat32(info).merging(unitsOfRoles) { $1 } : unitsOfRoles
            self.compiled = try compiled ?? CompiledPackages()
        }

        /// The roles whose numbers are float32, which the Neural Engine does not compute with.
        private static func unitsOfFloat32(_ info: ModelSetInfo) -> [String: ComputeUnits] {
            var roles: [String: ComputeUnits] = [:]
            for function in info.packages.values.flatMap(\.functions.values) {
                let isText = function.inputs["input_ids"] != nil
                if !isText, function.inputs.values.contains(where: { $0.dtype == .float32 }) {
                    roles[function.role] = .cpuAndGPU
                }
            }
            return roles
        }

        private static func package(_ name: String, in folder: URL) -> URL? {
            ["mlmodelc", "mlpackage"].lazy.map { folder.appendingPathComponent("\(name).\($0)") }
                .first { FileManager.default.fileExists(atPath: $0.path) }
        }

        public nonisolated func has(_ role: String, size: String) -> Bool { info.has(role, size: size) }

        public func load(_ role: String, size: String) async throws {
            for step in try RoleInputs.functions(of: role, size: size, in: info) { _ = try await function(step, role) }
        }

        public func unload(_ role: String, size: String) {
            for step in info.functions(of: role, size: size) ?? [] { loaded[step] = nil }
        }

        public func forget(_ keys: [FeatureKey]?) { features.forget(keys) }

        public func run(
            _ role: String, size: String, inputs: [String: Tensor], deepFeature: [WeightedFeature], keepAs: FeatureKey?
        ) async throws -> [String: Tensor] {
            var functions: [LoadedFunction] = []
            for step in try RoleInputs.functions(of: role, size: size, in: info) {
                functions.append(try await function(step, role))
            }
            try Task.checkCancellation()
            return try run(functions, inputs, deepFeature, keepAs)  // in one piece: nobody comes between the functions
        }

        private func run(
            _ functions: [LoadedFunction], _ inputs: [String: Tensor], _ deepFeature: [WeightedFeature],
            _ keepAs: FeatureKey?
        ) throws -> [String: Tensor] {
            var computed: [String: MLFeatureValue] = [:]
            var results: [String: MLFeatureValue] = [:]
            for function in functions {
                var values: [String: MLFeatureValue] = [:]
                for (name, port) in function.description.inputs {
                    if let known = computed[name] {
                        values[name] = known
                    } else {
                        values[name] = try value(name, port, function, inputs[name], deepFeature)
                    }
                }
                let outputs = try function.run(values)
                computed.merge(outputs) { $1 }
                results = results.filter { function.description.inputs[$0.key] == nil }.merging(outputs) { $1 }
            }
            if let keepAs {
                guard let feature = results[RoleInputs.deepFeature] else {
                    throw DiffusionError(.network, "\(functions.last?.name ?? "it") has no deep feature to keep")
                }
                features[keepAs] = feature
            }
            results[RoleInputs.deepFeature] = nil
            return try results.reduce(into: [:]) { tensors, entry in
                guard let array = entry.value.multiArrayValue else { return }
                tensors[entry.key] = try tensor(array, entry.key)
            }
        }

        /// Returns the value of an input that no function before computed.
        private func value(
            _ name: String, _ port: ModelSetInfo.Port, _ function: LoadedFunction, _ given: Tensor?,
            _ deepFeature: [WeightedFeature]
        ) throws -> MLFeatureValue {
            if name == RoleInputs.deepFeature {
                return try features.sum(
                    deepFeature, port, of: function.name,
                    numbers: { try $0.multiArrayValue.map { try tensor($0, name) } },
                    array: { MLFeatureValue(multiArray: try array($0, port)) })
            }
            guard let given else {
                guard name.hasPrefix(RoleInputs.residual) else { throw RoleInputs.missing(name, of: function.name) }
                return try function.zeros(name, port)
            }
            try RoleInputs.check(given, name, port, of: function.name)
            return MLFeatureValue(multiArray: try array(given.values, port))
        }

        private func function(_ step: ModelSetInfo.FunctionName, _ role: String) async throws -> LoadedFunction {
            if let function = loaded[step] { return function }
            guard let package = info.packages[step.package], let description = package.functions[step.function],
                let source = Self.package(step.package, in: folder)
            else { throw DiffusionError(.files, "\(folder.path) has no package \(step.package); copy the set again") }
            var path = source
            if source.pathExtension == "mlpackage" {
                path = try await compiled.url(of: source, files: info.files(of: "\(step.package).mlpackage"))
            }
            if let function = loaded[step] { return function }  // others may have come while it was compiled
            let function = try LoadedFunction(
                package: path, function: step.function, isOnly: package.functions.count == 1, description: description,
                units: (unitsOfRoles[role] ?? units).coreML)
            loaded[step] = function
            return function
        }
    }

    extension ComputeUnits {
        /// The name in Core ML.
        var coreML: MLComputeUnits {
            switch self {
            case .cpuOnly: return .cpuOnly
            case .cpuAndGPU: return .cpuAndGPU
            case .cpuAndNeuralEngine: return .cpuAndNeuralEngine
            case .all: return .all
            }
        }
    }
#endif
