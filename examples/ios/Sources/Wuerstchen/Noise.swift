import Foundation

/// MT19937 seeded by init_genrand, as C++'s std::mt19937 and NumPy's RandomState are.
struct Mt19937 {
    private static let size = 624
    private static let shift = 397
    private var state: [UInt32]
    private var next = size

    init(seed: UInt32) {
        state = [seed]
        for i in 1..<Mt19937.size {
            let before = state[i - 1]
            state.append(1_812_433_253 &* (before ^ (before >> 30)) &+ UInt32(i))
        }
    }

    mutating func word() -> UInt32 {
        if next == Mt19937.size { twist() }
        var y = state[next]
        next += 1
        y ^= y >> 11
        y ^= (y << 7) & 0x9d2c_5680
        y ^= (y << 15) & 0xefc6_0000
        return y ^ (y >> 18)
    }

    private mutating func twist() {
        let size = Mt19937.size
        for i in 0..<size {
            let y = (state[i] & 0x8000_0000) | (state[(i + 1) % size] & 0x7fff_ffff)
            let mixed = state[(i + Mt19937.shift) % size] ^ (y >> 1)
            state[i] = y & 1 == 1 ? mixed ^ 0x9908_b0df : mixed
        }
        next = 0
    }
}

/// Standard normal tensors, one after the other: the values of torch.randn on a CPU.
public final class TorchNoise {
    private let rules: NoiseRules
    private var words: Mt19937

    /// The noise takes the seed's low 32 bits.
    public init(_ rules: NoiseRules, seed: Int64) {
        self.rules = rules
        words = Mt19937(seed: UInt32(truncatingIfNeeded: seed))
    }

    public func draw(_ dims: [Int]) throws -> Tensor {
        let size = try valueCount(dims)
        guard size >= rules.minimum else {
            throw HostError.run("a draw of \(size) values is below the \(rules.minimum) of host.noise")
        }
        var values = [Float](repeating: 0, count: size)
        for start in stride(from: 0, through: size - rules.block, by: rules.block) {
            boxMuller(uniforms(rules.block), &values, start)
        }
        let rest = size % rules.block
        if rest > 0 {
            // The last values are drawn, then drawn anew over the end of the last whole block, as in PyTorch.
            _ = uniforms(rest)
            boxMuller(uniforms(rules.block), &values, size - rules.block)
        }
        return Tensor(dims, values)
    }

    // No more bits than a single-precision mantissa has, so that every value is exact.
    private func uniforms(_ size: Int) -> [Double] {
        let range = UInt64(1) << UInt64(rules.uniformBits)
        return (0..<size).map { _ in Double(UInt64(words.word()) & (range - 1)) / Double(range) }
    }
}

/// One block: its first half makes radii, its second half angles.
private func boxMuller(_ uniform: [Double], _ values: inout [Float], _ start: Int) {
    let half = uniform.count / 2
    for i in 0..<half {
        let radius = (-2 * log(1 - uniform[i])).squareRoot()  // 1 - u: u may be 0
        let angle = 2 * Double.pi * uniform[i + half]
        values[start + i] = Float(radius * cos(angle))
        values[start + i + half] = Float(radius * sin(angle))
    }
}
