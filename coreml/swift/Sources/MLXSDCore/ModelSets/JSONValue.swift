import Foundation

/// A value of a JSON file whose fields are not known before, for example a checkpoint's config.
public enum JSONValue: Codable, Sendable, Equatable {
    case null
    case bool(Bool)
    case integer(Int)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    /// Reads any JSON value; a number without a fraction is an integer.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? container.decode(Int.self) {
            self = .integer(value)
        } else if let value = try? container.decode(Double.self) {
            self = .number(value)
        } else if let value = try? container.decode(String.self) {
            self = .string(value)
        } else if let value = try? container.decode([JSONValue].self) {
            self = .array(value)
        } else {
            self = .object(try container.decode([String: JSONValue].self))
        }
    }

    /// Writes the value as it was read.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .bool(let value): try container.encode(value)
        case .integer(let value): try container.encode(value)
        case .number(let value): try container.encode(value)
        case .string(let value): try container.encode(value)
        case .array(let value): try container.encode(value)
        case .object(let value): try container.encode(value)
        }
    }

    /// Returns a field of an object; nil where there is none, or where it is null.
    public subscript(_ field: String) -> JSONValue? {
        guard case .object(let fields) = self, let value = fields[field], value != .null else { return nil }
        return value
    }

    /// Returns the value as a whole number, or nil.
    public var integer: Int? {
        if case .integer(let value) = self { return value }
        if case .number(let value) = self { return Int(exactly: value) }
        return nil
    }

    /// Returns the value as a number, or nil.
    public var number: Double? {
        if case .integer(let value) = self { return Double(value) }
        if case .number(let value) = self { return value }
        return nil
    }

    /// Returns the value as text, or nil.
    public var string: String? {
        if case .string(let value) = self { return value }
        return nil
    }

    /// Returns the value as true or false, or nil.
    public var bool: Bool? {
        if case .bool(let value) = self { return value }
        return nil
    }

    /// Returns the entries of a list; one value is a list of itself, as configs write one number for all levels.
    public var list: [JSONValue] {
        if case .array(let values) = self { return values }
        return self == .null ? [] : [self]
    }

    /// Decodes the value as a type; throws a `DecodingError` where it is of another one.
    public func decoded<T: Decodable>(as type: T.Type = T.self) throws -> T {
        try JSONDecoder().decode(type, from: JSONEncoder().encode(self))
    }
}
