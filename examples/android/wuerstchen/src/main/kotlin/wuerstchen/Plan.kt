package wuerstchen

import kotlin.math.ceil

/** Heights and widths of latents and picture. */
class Sizes(val stageC: LongArray, val stageB: LongArray, val picture: LongArray)

/** What a user may ask for; null takes the bundle's default, which is the checkpoint's. */
data class Options(
    val prompt: String,
    val negative: String = "",
    val seed: Long = 0,
    val steps: Int? = null,
    val guidance: Double? = null,
    val decoderSteps: Int? = null,
    val decoderGuidance: Double? = null,
    val height: Long? = null,
    val width: Long? = null,
)

/** [guidance] is null where it is off; [scale] is what was asked for. */
class Stage(val rows: List<Row>, val scale: Double, val guidance: Float?, val shape: LongArray)

/** Options with every default filled in and checked, before anything is computed. */
class Plan(manifest: Manifest, val options: Options) {
    val sizes: Sizes = sizesFor(manifest, options.height, options.width)
    val stages: Map<String, Stage> = mapOf(
        "stage_c" to stage(manifest, "stage_c", options.steps, options.guidance, sizes.stageC),
        "stage_b" to stage(manifest, "stage_b", options.decoderSteps, options.decoderGuidance, sizes.stageB),
    )
    val noise = TorchNoise(manifest.host.noise, options.seed)

    init {
        checkFixedShapes(manifest, this)
    }

    fun stage(call: Call): Stage = stages.getValue(call.stage)

    /** Whether a call's batch holds both halves of guidance. */
    fun isGuided(call: Call): Boolean = call.rows == "guided" && stage(call).guidance != null

    fun batch(call: Call): Long = if (call.rows == "prompts_and_negatives" || isGuided(call)) 2 else 1
}

private const val MOST_STEPS = 1_000_000

private fun stage(manifest: Manifest, name: String, steps: Int?, asked: Double?, latents: LongArray): Stage {
    val denoiser = manifest.sampling.denoisers.getValue(name)
    val scale = asked ?: denoiser.guidance
    if (!scale.isFinite()) throw UsageError("the guidance scale is $scale; it must be a number")
    if (steps != null && steps !in 1..MOST_STEPS) {
        throw UsageError("the number of steps is $steps; it must be 1 to $MOST_STEPS")
    }
    return Stage(
        rows = rowsFor(denoiser, manifest.host.schedule, steps),
        scale = scale,
        guidance = if (scale > manifest.host.guidanceOffAt) scale.toFloat() else null,
        shape = longArrayOf(1, denoiser.channels.toLong(), latents[0], latents[1]),
    )
}

/**
 * Latent sizes of a picture asked for in pixels; what is made may differ a little, by two roundings.
 * UsageError where Stage B's down and up path does not close, with the nearest sizes that do.
 */
fun sizesFor(manifest: Manifest, height: Long?, width: Long?): Sizes {
    if (height == null && width == null) return manifest.host.sizes[0]
    val sampling = manifest.sampling
    val cells = longArrayOf(
        cells(height ?: sampling.height, "height", sampling),
        cells(width ?: sampling.width, "width", sampling),
    )
    val latents = LongArray(2) { latentSide(cells[it], sampling) }
    return Sizes(cells, latents, LongArray(2) { latents[it] * sampling.stageAScale })
}

private fun cells(pixels: Long, name: String, sampling: Sampling): Long {
    if (pixels !in 1..LARGEST) throw UsageError("--$name is $pixels; it must be 1 to $LARGEST pixels")
    val cells = ceil(pixels / sampling.resolutionMultiple).toLong()
    if (!closes(cells, sampling)) {
        throw UsageError(
            "--$name $pixels gives Stage B a latent side of ${latentSide(cells, sampling)}, no multiple of " +
                "${sampling.stageBMultiple}; ${nearest(cells, name, sampling)}",
        )
    }
    return cells
}

private fun latentSide(cells: Long, sampling: Sampling) = (cells * sampling.latentDimScale).toLong()

private fun closes(cells: Long, sampling: Sampling): Boolean {
    val side = latentSide(cells, sampling)
    return side > 0 && side % sampling.stageBMultiple == 0L
}

private fun nearest(cells: Long, name: String, sampling: Sampling): String {
    // A multiple of Stage B's side is met within this many cells, whatever the ratio.
    val reach = 64 * sampling.stageBMultiple
    val below = (cells - 1 downTo maxOf(1, cells - reach)).firstOrNull { closes(it, sampling) }
    val above = (cells + 1 until cells + reach).firstOrNull { closes(it, sampling) }
    val sides = listOfNotNull(below, above).map { (it * sampling.resolutionMultiple).toLong() }
    return when (sides.size) {
        0 -> "no $name is valid: this checkpoint's stages do not fit together"
        1 -> "the nearest valid $name is ${sides[0]}"
        else -> "the nearest valid ${name}s are ${sides.joinToString(" and ")}"
    }
}

/** UsageError where graphs of fixed shape cannot serve this size or guidance. */
private fun checkFixedShapes(manifest: Manifest, plan: Plan) {
    val picture = plan.sizes.picture.toList()
    if (manifest.sizes.isNotEmpty() && picture !in manifest.sizes) {
        throw UsageError(
            "this bundle makes pictures of ${manifest.sizes.joinToString { it.joinToString(" x ") }} pixels (height x width) " +
                "only, this run asks for ${picture.joinToString(" x ")}; export it for that size",
        )
    }
    for (call in manifest.host.run) {
        val fixed = manifest.graphs.getValue(call.graph).inputs[0].shape[0] ?: continue
        if (fixed != plan.batch(call)) {
            throw UsageError(
                "${call.graph} was exported for a batch of $fixed, this run needs ${plan.batch(call)} (one picture, " +
                    "doubled under guidance); change guidance, or export without --static",
            )
        }
    }
}
