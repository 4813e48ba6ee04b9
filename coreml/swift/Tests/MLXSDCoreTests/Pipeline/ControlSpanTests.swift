import Testing

@testable import MLXSDCore

/// A control network acts at the evaluations at which diffusers' pipelines let it act.
@Suite struct ControlSpanTests {
    private func acting(_ span: ClosedRange<Double>, of count: Int, scale: Float = 1) -> [Int] {
        let network = ControlNetworks.Network(
            name: "Edges", image: Tensor(shape: [1], values: [0]), scale: scale, span: span, pools: false)
        return (0..<count).filter { network.acts($0, of: count) }
    }

    @Test func anEvaluationActsWhereAllOfItLiesWithinTheSpan() {
        #expect(acting(0...1, of: 4) == [0, 1, 2, 3])
        #expect(acting(0.25...0.75, of: 4) == [1, 2])
        #expect(acting(0.2...0.5, of: 10) == [2, 3, 4])
        #expect(acting(0.2...0.55, of: 10) == [2, 3, 4])
        #expect(acting(0.15...0.5, of: 10) == [2, 3, 4])
        #expect(acting(0.9...0.95, of: 10) == [])
    }

    @Test func aScaleOfZeroNeverActs() {
        #expect(acting(0...1, of: 4, scale: 0) == [])
    }
}
