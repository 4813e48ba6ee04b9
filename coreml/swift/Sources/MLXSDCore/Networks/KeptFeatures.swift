/// The deep features that a back end keeps, as arrays of its own.
package struct KeptFeatures<Value> {
    private var values: [FeatureKey: Value] = [:]

    package init() {}

    package var count: Int { values.count }

    package subscript(key: FeatureKey) -> Value? {
        get { values[key] }
        set { values[key] = newValue }
    }

    /// Drops features; nil drops all of them.
    package mutating func forget(_ keys: [FeatureKey]?) {
        guard let keys else { return values.removeAll() }
        for key in keys { values[key] = nil }
    }

    /// Returns the weighted sum of kept features for a port of a function; one of weight 1 is handed on as it is.
    ///
    /// numbers: of a feature, nil where it has none. array: holds numbers for the port.
    package func sum(
        _ weighted: [WeightedFeature], _ port: ModelSetInfo.Port, of function: String,
        numbers: (Value) throws -> Tensor?, array: ([Float]) throws -> Value
    ) throws -> Value {
        guard !weighted.isEmpty else { throw RoleInputs.missing(RoleInputs.deepFeature, of: function) }
        func kept(_ key: FeatureKey) throws -> Value {
            guard let value = values[key] else { throw RoleInputs.missing(key) }
            return value
        }
        if weighted.count == 1, weighted[0].weight == 1 { return try kept(weighted[0].key) }
        var total = [Float](repeating: 0, count: port.shape.reduce(1, *))
        for entry in weighted {
            guard let numbers = try numbers(kept(entry.key)) else { throw RoleInputs.missing(entry.key) }
            try RoleInputs.check(numbers, RoleInputs.deepFeature, port, of: function)
            for index in total.indices { total[index] += entry.weight * numbers.values[index] }
        }
        return try array(total)
    }
}
