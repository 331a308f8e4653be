package wuerstchen

import kotlin.math.PI
import kotlin.math.cos
import kotlin.math.ln
import kotlin.math.sin
import kotlin.math.sqrt

/** MT19937 seeded by init_genrand, as C++'s std::mt19937 and NumPy's RandomState are. */
class Mt19937(seed: Int) {
    private val state = IntArray(SIZE)
    private var next = SIZE

    init {
        state[0] = seed
        for (i in 1 until SIZE) state[i] = 1812433253 * (state[i - 1] xor (state[i - 1] ushr 30)) + i
    }

    /** The next word's 32 bits. */
    fun word(): Int {
        if (next == SIZE) twist()
        var y = state[next]
        next += 1
        y = y xor (y ushr 11)
        y = y xor ((y shl 7) and 0x9d2c5680.toInt())
        y = y xor ((y shl 15) and 0xefc60000.toInt())
        return y xor (y ushr 18)
    }

    private fun twist() {
        for (i in 0 until SIZE) {
            val y = (state[i] and Int.MIN_VALUE) or (state[(i + 1) % SIZE] and Int.MAX_VALUE)
            val mixed = state[(i + SHIFT) % SIZE] xor (y ushr 1)
            state[i] = if (y and 1 != 0) mixed xor 0x9908b0df.toInt() else mixed
        }
        next = 0
    }

    private companion object {
        const val SIZE = 624
        const val SHIFT = 397
    }
}

/** Standard normal tensors, one after the other: the values of torch.randn on a CPU. */
class TorchNoise(private val rules: NoiseRules, seed: Long) {
    private val words = Mt19937(seed.toInt()) // its low 32 bits
    private val mask = (1L shl rules.uniformBits) - 1
    private val unit = 1.0 / (1L shl rules.uniformBits)

    fun draw(dims: LongArray): Floats {
        val size = count(dims)
        if (size < rules.minimum) throw RunError("a draw of $size values is below the ${rules.minimum} of host.noise")
        val values = FloatArray(size)
        for (start in 0..size - rules.block step rules.block) boxMuller(uniforms(rules.block), values, start)
        val rest = size % rules.block
        if (rest > 0) {
            // The last values are drawn, then drawn anew over the end of the last whole block, as in PyTorch.
            uniforms(rest)
            boxMuller(uniforms(rules.block), values, size - rules.block)
        }
        return Floats(dims, values)
    }

    // No more bits than a single-precision mantissa has, so that every value is exact.
    private fun uniforms(size: Int) = DoubleArray(size) { (words.word().toLong() and mask) * unit }
}

/** One block: its first half makes radii, its second half angles. */
private fun boxMuller(uniform: DoubleArray, into: FloatArray, start: Int) {
    val half = uniform.size / 2
    for (i in 0 until half) {
        val radius = sqrt(-2 * ln(1 - uniform[i])) // 1 - u: u may be 0
        val angle = 2 * PI * uniform[i + half]
        into[start + i] = (radius * cos(angle)).toFloat()
        into[start + i + half] = (radius * sin(angle)).toFloat()
    }
}
