import Foundation

/// The beta distribution whose quantiles space the sigmas of the schedule "beta".
enum BetaDistribution {
    /// Returns the quantile of Beta(a, b) at a probability from 0 to 1, by bisection.
    static func quantile(_ probability: Double, a: Double, b: Double) -> Double {
        if probability <= 0 { return 0 }
        if probability >= 1 { return 1 }
        // By symmetry the smaller half is searched, in logarithms, so that small quantiles keep their digits.
        if probability > cumulative(0.5, a: a, b: b) { return 1 - quantile(1 - probability, a: b, b: a) }
        var low = -745.0
        var high = log(0.5)
        for _ in 0..<200 {
            let middle = (low + high) / 2
            if middle <= low || middle >= high { break }
            if cumulative(exp(middle), a: a, b: b) < probability { low = middle } else { high = middle }
        }
        return exp((low + high) / 2)
    }

    /// Returns the regularised incomplete beta function of x up to 1/2, by its continued fraction (Lentz's method).
    static func cumulative(_ x: Double, a: Double, b: Double) -> Double {
        if x <= 0 { return 0 }
        let tiny = 1e-300
        var c = 1.0
        var d = 1 - (a + b) * x / (a + 1)
        d = 1 / (abs(d) < tiny ? tiny : d)
        var fraction = d
        for i in 1...300 {
            let m = Double(i)
            for numerator in [
                m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
            ] {
                d = 1 + numerator * d
                d = 1 / (abs(d) < tiny ? tiny : d)
                c = 1 + numerator / c
                if abs(c) < tiny { c = tiny }
                fraction *= c * d
            }
            if abs(c * d - 1) < 1e-16 { break }
        }
        let logBeta = logGamma(a) + logGamma(b) - logGamma(a + b)
        return exp(a * log(x) + b * log1p(-x) - logBeta) * fraction / a
    }

    /// Returns the logarithm of the gamma function of a positive number (Stirling's series after a shift).
    private static func logGamma(_ x: Double) -> Double {
        var shift = 0.0
        var y = x
        while y < 15 {
            shift += log(y)
            y += 1
        }
        let square = 1 / (y * y)
        let series = (1.0 / 12 - square * (1.0 / 360 - square * (1.0 / 1260 - square * (1.0 / 1680)))) / y
        return (y - 0.5) * log(y) - y + 0.5 * log(2 * Double.pi) + series - shift
    }
}
