#if canImport(CoreML)
    import CoreML
    import Foundation
    import MLXSDCore

    /// A function of a package, loaded; it stays on the queue of its back end.
    final class LoadedFunction {
        let name: String
        let description: ModelSetInfo.Function
        private let model: MLModel
        private var zeros: [String: MLFeatureValue] = [:]

        /// Loads a function, and compares its ports with info.json.
        ///
        /// package: a compiled one. isOnly: whether the package has one function, which then needs no name.
        init(
            package: URL, function: String, isOnly: Bool, description: ModelSetInfo.Function, units: MLComputeUnits
        ) throws {
            name = "\(package.lastPathComponent), \(function)"
            self.description = description
            let configuration = MLModelConfiguration()
            configuration.computeUnits = units
            if !isOnly {
                guard #available(iOS 18, macOS 15, tvOS 18, watchOS 11, visionOS 2, *) else {
                    throw DiffusionError(
                        .files, "\(name) is one of several functions, which need iOS 18 or macOS 15; export chunks")
                }
                configuration.functionName = function
            }
            do {
                model = try MLModel(contentsOf: package, configuration: configuration)
            } catch {
                throw DiffusionError(
                    .files, "\(name) cannot be loaded: \(error.localizedDescription); copy or export the set again")
            }
            // Of several functions nothing says whose ports a model describes; its predictions then say what is wrong.
            guard isOnly else { return }
            try Self.check("input", model.modelDescription.inputDescriptionsByName, description.inputs, name)
            try Self.check("output", model.modelDescription.outputDescriptionsByName, description.outputs, name)
        }

        private static func check(
            _ kind: String, _ loaded: [String: MLFeatureDescription], _ described: [String: ModelSetInfo.Port],
            _ name: String
        ) throws {
            let ports = loaded.mapValues { entry -> (shape: [Int], dtype: String) in
                guard let constraint = entry.multiArrayConstraint else { return ([], "no array") }
                return (constraint.shape.map(\.intValue), MLXSDCoreML.name(of: constraint.dataType))
            }
            try RoleInputs.check(kind, loaded: ports, described: described, of: name)
        }

        /// Runs the function; the outputs are Core ML's own arrays.
        func run(_ inputs: [String: MLFeatureValue]) throws -> [String: MLFeatureValue] {
            do {
                return try pooled {
                    let outputs = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: inputs))
                    return outputs.featureNames.reduce(into: [:]) { $0[$1] = outputs.featureValue(for: $1) }
                }
            } catch let error as DiffusionError {
                throw error
            } catch {
                throw DiffusionError(.network, "\(name) failed: \(error.localizedDescription)")
            }
        }

        /// Returns an input of zeros; it is made once.
        func zeros(_ name: String, _ port: ModelSetInfo.Port) throws -> MLFeatureValue {
            if let value = zeros[name] { return value }
            let count = port.shape.reduce(1, *)
            let value = MLFeatureValue(multiArray: try array([Float](repeating: 0, count: count), port))
            zeros[name] = value
            return value
        }
    }
#endif
