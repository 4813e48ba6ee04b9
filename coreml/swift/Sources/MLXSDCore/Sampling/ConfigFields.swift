/// The fields of a config that have not been read yet: a value or a field that is not supported is an error naming it.
struct ConfigFields {
    let source: String
    private(set) var unread: [String: JSONValue]

    /// Takes the fields of a config; those that begin with an underscore are bookkeeping.
    init(_ values: [String: JSONValue], source: String) {
        self.source = source
        unread = values.filter { !$0.key.hasPrefix("_") }
    }

    /// Reads a field that may be absent.
    mutating func take(_ name: String) -> JSONValue {
        unread.removeValue(forKey: name) ?? .null
    }

    /// Reads a number that may be absent.
    mutating func number(_ name: String, _ fallback: Double) throws -> Double {
        try read(name, fallback, "a number", \.number)
    }

    /// Reads a whole number that may be absent.
    mutating func integer(_ name: String, _ fallback: Int) throws -> Int {
        try read(name, fallback, "a whole number", \.integer)
    }

    private mutating func read<T>(
        _ name: String, _ fallback: T, _ kind: String, _ meaning: (JSONValue) -> T?
    ) throws -> T {
        guard let value = unread.removeValue(forKey: name) else { return fallback }
        guard let read = meaning(value) else { throw unsupported(name, value, [kind]) }
        return read
    }

    /// Reads a switch that may be absent; null is false.
    mutating func flag(_ name: String, _ fallback: Bool) -> Bool {
        unread.removeValue(forKey: name).map(\.isTrue) ?? fallback
    }

    /// Reads a text that must be absent or one of the `allowed`; absent is the first.
    mutating func only(_ name: String, _ allowed: [String?]) throws -> String? {
        guard let value = unread.removeValue(forKey: name) else { return allowed.first ?? nil }
        if value == .null, allowed.contains(nil) { return nil }
        if let text = value.string, allowed.contains(text) { return text }
        throw unsupported(name, value, allowed.map { $0 ?? "null" })
    }

    /// Drops fields that do not change anything.
    mutating func ignore(_ names: [String]) {
        for name in names { unread.removeValue(forKey: name) }
    }

    /// Returns the error for a value that is not supported.
    func unsupported(_ name: String, _ value: JSONValue, _ allowed: [String]) -> DiffusionError {
        DiffusionError(
            .files, "\(source): \(name) = \(value.shown) is not supported (only \(allowed.joined(separator: ", ")))")
    }

    /// Throws the names of the fields that nothing has read.
    func done() throws {
        guard unread.isEmpty else {
            throw DiffusionError(.files, "\(source): unknown field(s) \(unread.keys.sorted().joined(separator: ", "))")
        }
    }
}

extension JSONValue {
    /// Whether the value counts as true: null, false, 0 and empty ones do not.
    var isTrue: Bool {
        switch self {
        case .null: false
        case .bool(let value): value
        case .integer(let value): value != 0
        case .number(let value): value != 0
        case .string(let value): !value.isEmpty
        case .array(let values): !values.isEmpty
        case .object(let fields): !fields.isEmpty
        }
    }

    /// The value as text for a message.
    var shown: String {
        switch self {
        case .null: "null"
        case .bool(let value): String(value)
        case .integer(let value): String(value)
        case .number(let value): String(value)
        case .string(let value): "\"\(value)\""
        case .array(let values): "[\(values.map(\.shown).joined(separator: ", "))]"
        case .object(let fields):
            "{\(fields.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value.shown)" }.joined(separator: ", "))}"
        }
    }
}
