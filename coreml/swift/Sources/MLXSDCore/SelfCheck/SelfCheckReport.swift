import Foundation

/// What a self-check measured on some processors, for an app to show and to copy into an issue.
public struct SelfCheckReport: Codable, Sendable, Equatable {
    /// A part of the way from text to picture.
    public struct Part: Codable, Sendable, Equatable {
        /// "tokens", "noise", "encoder_hidden_states", "noise_pred", "latents" or "image".
        public let name: String
        /// The largest difference over the largest number of the golden; of tokens: how many texts differ.
        public let distance: Double
        /// What the kit allows.
        public let tolerance: Double

        /// Whether the distance is within the tolerance.
        public var passed: Bool { distance <= tolerance }
    }

    /// The checkpoint's name and hash.
    public let model: String
    public let hash: String
    public let units: ComputeUnits
    public let parts: [Part]
    /// The picture against the golden one, in decibels: 35 and more is what Apple asks of a conversion; at most 200.
    public let psnr: Double
    public let loadSeconds: Double
    public let encodeSeconds: Double
    /// Of each evaluation of the golden picture.
    public let evaluationSeconds: [Double]
    public let decodeSeconds: Double

    /// Whether all parts are within their tolerances.
    public var passed: Bool { parts.allSatisfy(\.passed) }

    /// A line for each part, and one for the times.
    public var lines: [String] {
        func digits(_ value: Double) -> String { String(format: "%.2g", value) }
        let seconds = evaluationSeconds.reduce(0, +)
        return ["\(model) (\(hash)) on \(units.rawValue): \(passed ? "passed" : "failed"), \(digits(psnr)) dB"]
            + parts.map {
                "\($0.passed ? "ok  " : "FAIL") \($0.name): \(digits($0.distance)), at most \(digits($0.tolerance))"
            } + [
                "seconds: load \(digits(loadSeconds)), text \(digits(encodeSeconds)), "
                    + "\(evaluationSeconds.count) evaluations \(digits(seconds)), decode \(digits(decodeSeconds))"
            ]
    }
}

/// The same check on the CPU and on the processors that an app uses.
public struct SelfCheckComparison: Codable, Sendable, Equatable {
    public let cpu: SelfCheckReport
    public let chosen: SelfCheckReport

    /// Whether both passed.
    public var passed: Bool { cpu.passed && chosen.passed }
}
