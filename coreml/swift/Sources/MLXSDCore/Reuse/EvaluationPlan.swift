/// What one evaluation of the UNet runs and reuses.
public struct EvaluationPlan: Sendable, Equatable {
    /// A full evaluation whose deep features are reused, and their weight in the sum.
    public struct Reused: Sendable, Equatable {
        public let evaluation: Int
        public let weight: Float

        /// Joins both; evaluations count from 0.
        public init(evaluation: Int, weight: Float) {
            self.evaluation = evaluation
            self.weight = weight
        }
    }

    /// Whether the whole UNet runs; its deep features are kept under the evaluation's number.
    public let full: Bool
    /// What is reused otherwise, the newest first.
    public let deep: [Reused]
    /// The evaluations whose features nothing needs after this one, in rising order.
    public let forget: [Int]

    /// Joins the three.
    public init(full: Bool, deep: [Reused], forget: [Int]) {
        self.full = full
        self.deep = deep
        self.forget = forget
    }

    /// Returns the plan of a run without a cache: every evaluation is full, and nothing stays.
    public static func allFull(_ evaluations: Int) -> [EvaluationPlan] {
        (0..<evaluations).map { EvaluationPlan(full: true, deep: [], forget: [$0]) }
    }

    /// Returns the plan for what each evaluation reuses; one that reuses nothing is full.
    static func of(_ reused: [[Reused]]) -> [EvaluationPlan] {
        var lastUse = Array(reused.indices)
        for (evaluation, deep) in reused.enumerated() {
            for feature in deep { lastUse[feature.evaluation] = evaluation }
        }
        return reused.indices.map { evaluation in
            let done = (0...evaluation).filter { lastUse[$0] == evaluation && reused[$0].isEmpty }
            return EvaluationPlan(full: reused[evaluation].isEmpty, deep: reused[evaluation], forget: done)
        }
    }
}
