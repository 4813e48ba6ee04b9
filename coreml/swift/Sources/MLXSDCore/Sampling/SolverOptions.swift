/// Settings of a sampler; nil is the sampler's default. `Samplers` says who takes which, and its range.
public struct SolverOptions: Codable, Sendable, Equatable {
    /// Fresh noise: 0 none, 1 as much as the diffusion process itself adds.
    public var eta: Double?
    /// Of TCD: how far below its end a step goes before noise brings it back.
    public var gamma: Double?
    /// Order of convergence, before what a sampler loses at the start and the end.
    public var order: Int?
    /// How the second order is reached: "midpoint" or "heun", of unipc "bh1" or "bh2".
    public var kind: String?
    /// Whether UniPC's corrector follows each evaluation.
    public var corrector: Bool?
    /// How unevenly the karras schedules are spaced.
    public var rho: Double?
    /// Noise that edm adds over all steps together, at sigmas from `sTMin` to `sTMax`.
    public var sChurn: Double?
    public var sTMin: Double?
    public var sTMax: Double?
    /// Standard deviation of that noise.
    public var sNoise: Double?

    enum CodingKeys: String, CodingKey, CaseIterable {
        case eta, gamma, order, kind, corrector, rho
        case sChurn = "s_churn"
        case sTMin = "s_tmin"
        case sTMax = "s_tmax"
        case sNoise = "s_noise"
    }

    /// Makes options; every one is the sampler's default unless it is set.
    public init(
        eta: Double? = nil, gamma: Double? = nil, order: Int? = nil, kind: String? = nil, corrector: Bool? = nil,
        rho: Double? = nil, sChurn: Double? = nil, sTMin: Double? = nil, sTMax: Double? = nil, sNoise: Double? = nil
    ) {
        (self.eta, self.gamma, self.order, self.kind, self.corrector) = (eta, gamma, order, kind, corrector)
        (self.rho, self.sChurn, self.sTMin, self.sTMax, self.sNoise) = (rho, sChurn, sTMin, sTMax, sNoise)
    }

    /// Returns the options with those of another record in the place of nil.
    func completed(by other: SolverOptions) -> SolverOptions {
        SolverOptions(
            eta: eta ?? other.eta, gamma: gamma ?? other.gamma, order: order ?? other.order, kind: kind ?? other.kind,
            corrector: corrector ?? other.corrector, rho: rho ?? other.rho, sChurn: sChurn ?? other.sChurn,
            sTMin: sTMin ?? other.sTMin, sTMax: sTMax ?? other.sTMax, sNoise: sNoise ?? other.sNoise)
    }

    /// Returns the numbers that are set, by their names in JSON.
    var numbers: [(name: String, value: Double)] {
        let all: [(CodingKeys, Double?)] = [
            (.eta, eta), (.gamma, gamma), (.order, order.map(Double.init)), (.rho, rho), (.sChurn, sChurn),
            (.sTMin, sTMin), (.sTMax, sTMax), (.sNoise, sNoise),
        ]
        return all.compactMap { key, value in value.map { (key.rawValue, $0) } }
    }
}
