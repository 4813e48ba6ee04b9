/// Draws unit noise: each call goes on in one stream, so that a seed means the same picture in every program.
public protocol NoiseGenerator: Sendable {
    /// Returns the next `count` numbers of a normal distribution with mean 0 and variance 1.
    mutating func draw(_ count: Int) -> [Float]
}

/// The programs whose noise a seed can give; the names are those of the request record.
public enum NoiseSource: String, Codable, Sendable, CaseIterable {
    /// NumPy's legacy generator, the default here and in Apple's package.
    case numpy
    /// PyTorch's generator on the CPU: diffusers, and A1111 with RNG "CPU".
    case torch
    /// PyTorch's generator on CUDA cards: A1111's default.
    case cuda

    /// Begins the stream of a seed.
    ///
    /// NumPy takes seeds up to 2^32 - 1 and any other is a DiffusionError; torch counts modulo 2^32, CUDA takes 64 bits.
    public func generator(seed: UInt64) throws -> any NoiseGenerator {
        switch self {
        case .numpy:
            guard let seed = UInt32(exactly: seed) else {
                throw DiffusionError(
                    .request, "seed \(seed) is too large for NumPy's noise, which takes 0 to \(UInt32.max)")
            }
            return NumPyNoise(seed: seed)
        case .torch: return TorchNoise(seed: seed)
        case .cuda: return PhiloxNoise(seed: seed)
        }
    }
}
