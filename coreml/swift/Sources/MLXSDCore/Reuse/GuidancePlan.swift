/// T-GATE's four numbers under the authors' names: "GATE[,SP[,FI[,WARM_UP]]]" as text.
public struct TGate: Sendable, Equatable, CustomStringConvertible {
    /// The first evaluation that reuses cross-attention and drops guidance, at least 1; evaluations count from 0.
    public let gateStep: Int
    /// Before the gate, after evaluation `warmUp`, self-attention is computed at multiples of this number.
    public let spInterval: Int
    /// The same from the gate on.
    public let fiInterval: Int
    /// The last of the first evaluations that all compute self-attention.
    public let warmUp: Int

    /// Makes the settings; throws `DiffusionError(.request)` for a number out of range.
    public init(gateStep: Int = 10, spInterval: Int = 5, fiInterval: Int = 1, warmUp: Int = 2) throws {
        for (name, number) in [("gate_step", gateStep), ("sp_interval", spInterval), ("fi_interval", fiInterval)] {
            guard number >= 1 else {
                throw DiffusionError(.request, "T-GATE's \(name) must be at least 1, not \(number)")
            }
        }
        guard warmUp >= 0 else {
            throw DiffusionError(.request, "T-GATE's warm_up must be at least 0, not \(warmUp)")
        }
        (self.gateStep, self.spInterval) = (gateStep, spInterval)
        (self.fiInterval, self.warmUp) = (fiInterval, warmUp)
    }

    /// Reads "10" or "10,5,1,2"; throws `DiffusionError(.request)` for anything else.
    public init(parsing text: String) throws {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false)
        let numbers = parts.compactMap { Int($0.filter { $0 != " " }) }
        guard numbers.count == parts.count, numbers.count <= 4 else {
            throw DiffusionError(
                .request, "tgate takes GATE[,SP[,FI[,WARM_UP]]], for example 10 or 10,5,1,2, not \"\(text)\"")
        }
        let completed = numbers + [10, 5, 1, 2].dropFirst(numbers.count)
        try self.init(
            gateStep: completed[0], spInterval: completed[1], fiInterval: completed[2], warmUp: completed[3])
    }

    /// The settings as `init(parsing:)` reads them.
    public var description: String { "\(gateStep),\(spInterval),\(fiInterval),\(warmUp)" }
}

extension TGate: Codable {
    /// Reads a whole number or a text.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let gate = try? container.decode(Int.self) {
            try self.init(gateStep: gate)
        } else {
            try self.init(parsing: container.decode(String.self))
        }
    }

    /// Writes the settings as text.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}

/// Which texts the UNet sees at each evaluation: guidance may stop, so that the negative prompt is no longer computed.
///
/// The networks of a model set attend as they were exported, so that T-GATE's kept attention is not possible with them.
/// Guidance that stops at an evaluation is: it is not T-GATE, and makes another picture than Python's `tgate`.
public struct GuidancePlan: Sendable, Equatable {
    /// The texts of one evaluation.
    public enum Texts: Sendable, Equatable {
        /// The negative prompt and the prompt, guided.
        case both
        /// The prompt alone, unguided.
        case prompt
    }

    /// The texts of each evaluation.
    public let texts: [Texts]

    /// Makes the plan of a run.
    ///
    /// - Parameters:
    ///   - evaluations: how many the run has.
    ///   - isGuided: whether there is guidance at all.
    ///   - stop: the first evaluation without guidance, counted from 0; nil guides to the end.
    ///
    /// Throws `DiffusionError(.request)` where the run ends before `stop`.
    public init(evaluations: Int, isGuided: Bool, stop: Int? = nil) throws {
        if let stop, !(1..<max(evaluations, 1)).contains(stop) {
            throw DiffusionError(
                .request,
                "guidance is to stop at evaluation \(stop), but there are only \(evaluations), from 0 to "
                    + "\(evaluations - 1); choose 1 or more, an earlier one, or more steps")
        }
        texts = (0..<evaluations).map { isGuided && $0 < stop ?? evaluations ? .both : .prompt }
    }

    /// Where the batch changes its size, so that no earlier deep features fit: restarts of a `CachePolicy`.
    public var restarts: Set<Int> {
        Set(texts.indices.dropFirst().filter { texts[$0] != texts[$0 - 1] })
    }
}
