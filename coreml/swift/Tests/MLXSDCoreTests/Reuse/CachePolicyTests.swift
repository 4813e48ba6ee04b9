import Foundation
import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct CachePolicyTests {
    private struct Golden: Decodable {
        struct Row: Decodable {
            let plan: EvaluationPlan

            init(from decoder: any Decoder) throws {
                var values = try decoder.unkeyedContainer()
                let full = try values.decode(Bool.self)
                let deep = try values.decode([[Double]].self)
                plan = EvaluationPlan(
                    full: full, deep: deep.map { .init(evaluation: Int($0[0]), weight: Float($0[1])) },
                    forget: try values.decode([Int].self))
            }
        }

        let policy: String
        let refused, text, misfit: String?
        let logSNR: [Double]?
        let rows: [Row]?

        private enum CodingKeys: String, CodingKey {
            case policy, refused, text, misfit, rows
            case logSNR = "log_snr"
        }
    }

    @Test("Policies mean the plans that the exporter writes into tables; what Python refuses is refused")
    func plans() throws {
        let cases: [Golden] = try Goldens.json("sampling/plans.json")
        var compared = 0
        for golden in cases {
            guard golden.refused == nil else {
                #expect(throws: DiffusionError.self, "\(golden.policy)") { try CachePolicy(parsing: golden.policy) }
                continue
            }
            let policy = try CachePolicy(parsing: golden.policy)
            #expect(policy.description == golden.text)
            #expect(try CachePolicy(parsing: policy.description) == policy)
            let logSNR = try #require(golden.logSNR)
            let place = Comment("\(golden.policy) in \(logSNR.count) evaluations")
            guard let rows = golden.rows else {
                #expect(throws: DiffusionError.self, place) { try policy.plan(logSNR: logSNR) }
                continue
            }
            let plan = try policy.plan(logSNR: logSNR)
            #expect(plan.count == rows.count)
            for (ours, theirs) in zip(plan, rows.map(\.plan)) {
                #expect(ours.full == theirs.full && ours.forget == theirs.forget, place)
                #expect(ours.deep.map(\.evaluation) == theirs.deep.map(\.evaluation), place)
                for (a, b) in zip(ours.deep, theirs.deep) { #expect(abs(a.weight - b.weight) <= 1e-6, place) }
            }
            compared += 1
        }
        #expect(compared > 500)
    }

    @Test("A restart runs in full and reuses nothing from before it")
    func restarts() throws {
        let logSNR = (0..<20).map { Double($0) * 0.3 - 3 }
        let plan = try CachePolicy(parsing: "5:0+forecast1").plan(logSNR: logSNR, restarts: [7, 12])
        #expect(plan.indices.filter { plan[$0].full } == [0, 5, 7, 10, 12, 15])
        #expect(plan[8].deep == [.init(evaluation: 7, weight: 1)])
        #expect(plan[13].deep == [.init(evaluation: 12, weight: 1)])
    }

    @Test("Guidance that stops has one row fewer from there on, and the cache restarts there")
    func guidance() throws {
        let plan = try GuidancePlan(evaluations: 10, isGuided: true, stop: 6)
        #expect(plan.texts == Array(repeating: .both, count: 6) + Array(repeating: .prompt, count: 4))
        #expect(plan.restarts == [6])
        #expect(try GuidancePlan(evaluations: 10, isGuided: false).texts == Array(repeating: .prompt, count: 10))
        #expect(try GuidancePlan(evaluations: 10, isGuided: true).restarts.isEmpty)
        #expect(throws: DiffusionError.self) { try GuidancePlan(evaluations: 10, isGuided: true, stop: 10) }
        #expect(throws: DiffusionError.self) { try GuidancePlan(evaluations: 10, isGuided: true, stop: 0) }
    }

    @Test("T-GATE's numbers read as in Python")
    func tgate() throws {
        #expect(try TGate(parsing: "8,4").description == "8,4,1,2")
        #expect(try TGate(parsing: "10") == TGate())
        for text in ["", "0", "a", "1,2,3,4,5", "5,1,1,-1", "5,0"] {
            #expect(throws: DiffusionError.self, "\(text)") { try TGate(parsing: text) }
        }
    }
}
