import Foundation

/// Weights of a step that integrates a polynomial through earlier estimates, of the image or of the noise.
///
/// With lambda = log(signal / noise) the probability flow is d(x / noise) = exp(lambda) image dlambda, or equally
/// d(x / signal) = -exp(-lambda) eps dlambda, eps being the noise in x (Lu et al. 2022, eq. 3.4 and 4.1).
enum Quadrature {
    typealias Mix = SamplerTable.Mix

    /// Returns the weights of latents and denoised image in a step that is exact if that image is constant.
    static func drift(_ start: NoiseLevel, _ end: NoiseLevel) -> (base: Double, image: Double) {
        (end.noise / start.noise, end.signal - start.signal * end.noise / start.noise)
    }

    /// Returns the weights of the latents at `start` and of the estimates at `nodes` in a step to `end`.
    ///
    /// The polynomial is integrated exactly, except where the published methods simplify: with two nodes the slope is
    /// weighted by half of the step's own weight (kind "midpoint" or "bh2") or by half of its length ("bh1"), and
    /// `curvature` scales the quadratic term. `sde` integrates the reverse diffusion instead of the flow: its drift
    /// counts twice; its noise is left to the caller.
    static func exponential(
        _ start: NoiseLevel, _ end: NoiseLevel, _ nodes: [NoiseLevel], history: EstimateKind = .denoised,
        kind: String = "heun", curvature: Double = 1, sde: Bool = false
    ) -> Mix {
        if end.noise == 0 {
            return Mix(base: 0, estimates: [end.signal] + Array(repeating: 0, count: nodes.count - 1))
        }
        let length = end.logSNR - start.logSNR
        var rate = length
        var base = end.noise / start.noise
        var scale = end.signal
        if history == .noise {
            (rate, base, scale) = (-length, end.signal / start.signal, end.noise)
        } else if sde {
            (rate, base) = (2 * length, end.noise / start.noise * exp(-length))
        }
        var moments = moments(rate, nodes.count)
        if nodes.count == 2, kind != "heun" { moments[1] = (kind == "bh1" ? rate : moments[0]) / 2 }
        if nodes.count > 2 { moments[2] *= curvature }
        for i in moments.indices { moments[i] *= pow(length, Double(i)) * scale }
        return Mix(base: base, estimates: weights(at: nodes.map { $0.logSNR - start.logSNR }, moments))
    }

    /// Returns the weights of values at `offsets` that give moments[i] when the values are offset^i.
    static func weights(at offsets: [Double], _ moments: [Double]) -> [Double] {
        Arrays.solved(moments.indices.map { power in offsets.map { pow($0, Double(power)) } }, moments)
    }

    /// Returns the integrals of rate exp(rate (u - 1)) u^i over [0, 1], for i below `count`.
    private static func moments(_ rate: Double, _ count: Int) -> [Double] {
        // By Gauss-Legendre: the closed forms lose their digits to cancellation when steps are small.
        (0..<count).map { power in
            gaussLegendre.reduce(0.0) { sum, node in
                let u = (node.point + 1) / 2
                return sum + node.weight / 2 * rate * exp(rate * (u - 1)) * pow(u, Double(power))
            }
        }
    }

    /// The points and weights of Gauss-Legendre quadrature with 48 points on [-1, 1], by Newton's method.
    private static let gaussLegendre: [(point: Double, weight: Double)] = {
        let count = 48
        return (1...count).map { i in
            var x = cos(Double.pi * (Double(i) - 0.25) / (Double(count) + 0.5))
            var slope = 1.0
            for _ in 0..<20 {
                var (before, value) = (1.0, x)
                for k in 2...count {
                    (before, value) = (value, (Double(2 * k - 1) * x * value - Double(k - 1) * before) / Double(k))
                }
                slope = Double(count) * (x * value - before) / (x * x - 1)
                let change = value / slope
                x -= change
                if abs(change) < 1e-16 { break }
            }
            return (x, 2 / ((1 - x * x) * slope * slope))
        }
    }()
}
