/// The Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), seeded as NumPy and PyTorch seed theirs.
public struct MersenneTwister: Sendable {
    private var state: [UInt32]
    private var position = 624

    /// Begins the stream of a seed.
    public init(seed: UInt32) {
        state = [UInt32](repeating: seed, count: 624)
        for i in 1..<624 { state[i] = 1_812_433_253 &* (state[i - 1] ^ (state[i - 1] >> 30)) &+ UInt32(i) }
    }

    /// Returns the next 32 random bits.
    public mutating func next() -> UInt32 {
        if position == 624 { refill() }
        var word = state[position]
        position += 1
        word ^= word >> 11
        word ^= (word << 7) & 0x9d2c_5680
        word ^= (word << 15) & 0xefc6_0000
        return word ^ (word >> 18)
    }

    private mutating func refill() {
        state.withUnsafeMutableBufferPointer { state in
            func mix(_ i: Int, _ next: Int, _ far: Int) {
                let joined = (state[i] & 0x8000_0000) | (state[next] & 0x7fff_ffff)
                state[i] = state[far] ^ (joined >> 1) ^ (joined & 1 == 0 ? 0 : 0x9908_b0df)
            }
            for i in 0..<227 { mix(i, i + 1, i + 397) }
            for i in 227..<623 { mix(i, i + 1, i - 227) }
            mix(623, 0, 396)
        }
        position = 0
    }
}
