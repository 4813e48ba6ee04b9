import Foundation

/// A DeepCache policy: which evaluations run the whole UNet, and how deep features are carried to the others.
///
/// As text, for example "3" or "3:0" (every third), "nonuniform:5,15,1.4", "at=0,4,9", each with ":BRANCH" and
/// "+forecast1" or "+forecast2" after it. The policies that look at the pictures ("adaptive:0.1", "sada:4") are refused,
/// and so is "spectrum:2", whose forecast is a fit.
public struct CachePolicy: Sendable, Equatable, CustomStringConvertible {
    enum Rule: Sendable, Equatable {
        case every(Int)
        /// Denser around the centre, nil standing for 3/10 of all evaluations.
        case nonUniform(interval: Int, centre: Int?, power: Double)
        case at([Int])
        /// Adaptive with an infinite threshold, which no change reaches.
        case firstAlone
    }

    let rule: Rule
    /// Where the UNet is cut, as the number of the skip connection, counted from 0.
    public let branch: Int
    /// Degree of the polynomial that carries deep features on: 0 reuses them unchanged, 1 or 2.
    public let forecast: Int

    /// Makes the policy that runs every `interval`-th evaluation in full, counted from the first.
    public init(every interval: Int, branch: Int = 0) throws {
        try self.init(parsing: "\(interval):\(branch)")
    }

    /// Reads a policy as `deepcache` of a request takes it; throws `DiffusionError(.request)` for anything else.
    public init(parsing text: String) throws {
        var rest = Substring(text)
        var degree = 0
        if let mark = rest.range(of: "+forecast", options: .backwards) {
            degree = try Self.digits(rest[mark.upperBound...], text)
            rest = rest[..<mark.lowerBound]
        }
        var prefix = ""
        let letters = rest.prefix { $0.isASCII && ($0.isLetter || $0 == "_" || $0 == "-") }
        if !letters.isEmpty, let mark = rest.dropFirst(letters.count).first, mark == ":" || mark == "=" {
            prefix = String(letters) + String(mark)
            rest = rest.dropFirst(prefix.count)
        }
        let parts = rest.split(separator: ":", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), !parts[0].isEmpty else { throw Self.unreadable(text) }
        branch = parts.count == 2 ? try Self.digits(parts[1], text) : 0
        forecast = degree
        let values = parts[0].split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        rule = try Self.rule(prefix, values, text)
        guard forecast <= 2 else {
            throw DiffusionError(.request, "DeepCache forecasts of degree 0, 1 or 2, not \(forecast)")
        }
    }

    /// The policy as `init(parsing:)` reads it, with all its numbers.
    public var description: String {
        let suffix = forecast > 0 ? "+forecast\(forecast)" : ""
        switch rule {
        case .every(let interval): return "\(interval):\(branch)\(suffix)"
        case .nonUniform(let interval, let centre, let power):
            return "nonuniform:\(interval),\(centre.map(String.init) ?? ""),\(power):\(branch)\(suffix)"
        case .at(let evaluations):
            return "at=\(evaluations.map(String.init).joined(separator: ",")):\(branch)\(suffix)"
        case .firstAlone: return "adaptive:inf:\(branch)\(suffix)"
        }
    }

    // ------------------------------------------------------------------------------------------------ text

    private static func rule(_ prefix: String, _ values: [String], _ text: String) throws -> Rule {
        switch prefix {
        case "":
            guard values.count == 1 else { throw unreadable(text) }
            return .every(try interval(values[0], text))
        case "nonuniform:":
            guard values.count <= 3 else { throw unreadable(text) }
            let centre = values.count > 1 && !values[1].isEmpty ? try whole(values[1], text) : nil
            var power = 1.4
            if values.count > 2, !values[2].isEmpty {
                guard let number = Double(values[2].filter { $0 != " " }) else { throw unreadable(text) }
                power = number
            }
            if let centre, centre < 0 {
                throw DiffusionError(.request, "the centre of a nonuniform DeepCache must be at least 0, not \(centre)")
            }
            guard power > 1, power <= 10 else {
                throw DiffusionError(
                    .request, "the power of a nonuniform DeepCache must be above 1, to 10, not \(power)")
            }
            return .nonUniform(interval: try interval(values[0], text), centre: centre, power: power)
        case "at=":
            let listed = try values.map { try whole($0, text) }
            guard listed[0] == 0, zip(listed, listed.dropFirst()).allSatisfy({ $0 < $1 }) else {
                throw DiffusionError(
                    .request,
                    "DeepCache's full evaluations must begin with 0 and go up, not \(values.joined(separator: ","))")
            }
            return .at(listed)
        case "adaptive:":
            guard values.count == 1, let threshold = Double(values[0]) else { throw unreadable(text) }
            guard threshold == .infinity else {
                throw DiffusionError(
                    .request,
                    "the DeepCache policy \(text) decides while a picture is made, which packages cannot do; choose an "
                        + "interval such as 3:0")
            }
            return .firstAlone
        case "spectrum:", "sada:":
            throw DiffusionError(
                .request,
                "the DeepCache policy \(text) is of Python alone; choose an interval such as 3:0")
        default: throw unreadable(text)
        }
    }

    private static func interval(_ text: String, _ policy: String) throws -> Int {
        let interval = try whole(text, policy)
        guard interval >= 1 else {
            throw DiffusionError(.request, "the DeepCache interval must be at least 1, not \(interval)")
        }
        return interval
    }

    private static func whole(_ text: String, _ policy: String) throws -> Int {
        guard let number = Int(text.filter { $0 != " " }) else { throw unreadable(policy) }
        return number
    }

    private static func digits(_ text: Substring, _ policy: String) throws -> Int {
        guard !text.isEmpty, text.allSatisfy({ $0.isASCII && $0.isNumber }), let number = Int(text) else {
            throw unreadable(policy)
        }
        return number
    }

    private static func unreadable(_ text: String) -> DiffusionError {
        DiffusionError(
            .request,
            "deepcache takes N or N:BRANCH, for example 3 or 3:1, nonuniform:5 or at=0,4,9, and after any of them "
                + "+forecast1, not \"\(text)\"")
    }
}

extension CachePolicy: Codable {
    /// Reads a whole number or a text.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let interval = try? container.decode(Int.self) {
            try self.init(parsing: String(interval))
        } else {
            try self.init(parsing: container.decode(String.self))
        }
    }

    /// Writes the policy as text.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}
