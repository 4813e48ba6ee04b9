import Foundation

/// A complex number, for roots of negative ones; powers round as NumPy's do, because they are truncated after.
struct Complex {
    var real: Double
    var imaginary: Double

    /// Returns the root or another power that is no whole number, as Python has it.
    func power(_ exponent: Double) -> Complex {
        if real == 0, imaginary == 0 { return self }
        let length = pow((real * real + imaginary * imaginary).squareRoot(), exponent)
        let angle = atan2(imaginary, real) * exponent
        return Complex(real: length * cos(angle), imaginary: length * sin(angle))
    }

    /// Returns the power as an array has it; whole exponents multiply.
    func elementPower(_ exponent: Double) -> Complex {
        if real == 0, imaginary == 0 { return self }
        guard let integer = Int(exactly: exponent) else {
            let length = exp(exponent * logLength)
            let angle = atan2(imaginary, real) * exponent
            return Complex(real: length * cos(angle), imaginary: length * sin(angle))
        }
        if integer <= 3 { return integer == 2 ? times(self) : integer == 3 ? times(times(self)) : self }
        var (product, square, rest) = (Complex(real: 1, imaginary: 0), self, integer)
        while rest > 0 {
            if rest % 2 == 1 { product = product.times(square) }
            square = square.times(square)
            rest /= 2
        }
        return product
    }

    /// The logarithm of the length, in the cases of the C library: near 1 from the square less 1.
    private var logLength: Double {
        let (x, y) = (max(abs(real), abs(imaginary)), min(abs(real), abs(imaginary)))
        if x > 1, x < 2, y < 1 { return log1p((x - 1) * (x + 1) + y * y) / 2 }
        if x == 1 { return log1p(y * y) / 2 }
        if x >= 0.5, x < 1, x * x + y * y >= 0.5 {
            // The products' rounding errors are added last, so that what is left of 1 keeps its digits.
            let (xx, yy) = (x * x, y * y)
            let errors = (-xx).addingProduct(x, x) + (-yy).addingProduct(y, y)
            return log1p(((xx - 1) + yy) + errors) / 2
        }
        return log(hypot(x, y))
    }

    private func times(_ other: Complex) -> Complex {
        Complex(
            real: real * other.real - imaginary * other.imaginary,
            imaginary: real * other.imaginary + imaginary * other.real)
    }
}
