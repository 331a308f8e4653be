package wuerstchen

/*
 * The arithmetic between graphs, in fp32, one operation after the other.
 */

/**
 * The latents after a step: a * x + b * epsilon + c * noise. Latents and noise are (1,C,H,W), epsilon as
 * the graph gives it: both halves where [guidance], its scale, is not null.
 */
fun advance(row: Row, latents: Floats, epsilon: Floats, noise: Floats, guidance: Float?): Floats {
    val guided = if (guidance == null) epsilon.data else guide(epsilon.data, guidance)
    if (guided.size != latents.size) throw RunError("epsilon has ${guided.size} values, the latents ${latents.size}")
    val next = FloatArray(latents.size) { row.a * latents.data[it] + row.b * guided[it] + row.c * noise.data[it] }
    return Floats(latents.dims, next)
}

/** Classifier-free guidance: the conditional half comes first. */
private fun guide(epsilon: FloatArray, scale: Float): FloatArray {
    val half = epsilon.size / 2
    return FloatArray(half) { epsilon[half + it] + scale * (epsilon[it] - epsilon[half + it]) }
}

/** What Stage B is told of Stage C's latents. */
fun imageEmbedding(latents: Floats, sampling: Sampling) =
    Floats(latents.dims, FloatArray(latents.size) { latents.data[it] * sampling.latentMean - sampling.latentStd })
