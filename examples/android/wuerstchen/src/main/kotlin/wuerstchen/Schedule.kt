package wuerstchen

import kotlin.math.PI
import kotlin.math.cos
import kotlin.math.pow
import kotlin.math.sin
import kotlin.math.sqrt

/*
 * Timesteps, the steps between them and their embeddings, for numbers of steps that the manifest does not
 * tabulate. In fp32 at every operation: a timestep that differs in its last bit moves the embedding's
 * angles, up to 10000, by 6e-4.
 */

/** The steps of a denoiser: the manifest's own, or [steps] even ones. */
fun rowsFor(denoiser: Denoiser, rules: ScheduleRules, steps: Int?): List<Row> =
    if (steps == null) denoiser.rows else computedRows(denoiser, rules, evenTimesteps(steps))

/** Rows of any timesteps, from the manifest's constants. */
fun computedRows(denoiser: Denoiser, rules: ScheduleRules, timesteps: FloatArray): List<Row> {
    val share = timesteps.map { alphaCumprod(it, denoiser, rules) }
    return List(timesteps.size - 1) { i ->
        step(timesteps[i], share[i], share[i + 1], timesteps[i + 1] == 0f, embedding(timesteps[i], denoiser, rules))
    }
}

/** [steps] even steps from 1 to 0, bit-equal to torch.linspace(1, 0, steps + 1). */
fun evenTimesteps(steps: Int): FloatArray {
    val step = -1f / steps
    // PyTorch computes the first half from the start and the second from the end. Each product is exact in
    // fp64, so that one rounding remains, as with its fused multiply-add.
    fun rising(i: Int) = (1.0 + step.toDouble() * i).toFloat()
    fun falling(i: Int) = (0.0 - step.toDouble() * (steps - i)).toFloat()
    return FloatArray(steps + 1) { i -> if (i < (steps + 1) / 2) rising(i) else falling(i) }
}

/** The cosine schedule's share of signal at t, clamped. */
private fun alphaCumprod(t: Float, denoiser: Denoiser, rules: ScheduleRules): Float {
    val halfPi = PI.toFloat() * 0.5f
    val offset = denoiser.s.toFloat()
    fun squaredCosine(at: Float): Float {
        val cosine = cos(((at + offset) / (1f + offset) * halfPi).toDouble()).toFloat()
        return cosine * cosine
    }
    val share = squaredCosine(bent(t, denoiser.scaler)) / squaredCosine(0f)
    return share.coerceIn(rules.alphaLeast, rules.alphaMost)
}

private fun bent(t: Float, scaler: Double): Float {
    fun raised(value: Float) = value.toDouble().pow(scaler.toFloat().toDouble()).toFloat()
    return if (scaler > 1) 1f - raised(1f - t) else if (scaler < 1) raised(t) else t
}

/** x' = a * x + b * epsilon + c * noise, from one share of signal to the next. */
private fun step(t: Float, now: Float, then: Float, last: Boolean, embedding: FloatArray): Row {
    val alpha = now / then
    val a = root(1f / alpha)
    val b = -a * (1f - alpha) / root(1f - now)
    val variance = (1f - alpha) * (1f - then) / (1f - now)
    return Row(t, a, b, if (last) 0f else root(variance), embedding)
}

private fun root(value: Float) = sqrt(value.toDouble()).toFloat()

/** Sines, cosines, padding. */
private fun embedding(t: Float, denoiser: Denoiser, rules: ScheduleRules): FloatArray {
    val scaled = t * rules.timestepScale
    val angles = FloatArray(denoiser.frequencies.size) { scaled * denoiser.frequencies[it] }
    val sines = FloatArray(angles.size) { sin(angles[it].toDouble()).toFloat() }
    val cosines = FloatArray(angles.size) { cos(angles[it].toDouble()).toFloat() }
    return sines + cosines + FloatArray(denoiser.padding)
}
