package wuerstchen

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import kotlin.math.log10
import kotlin.math.sqrt

const val GOLDEN = "golden/run.safetensors"

/** The golden run of a bundle: every tensor by its name, and the options it was made with. */
class Recording(val tensors: Tensors, val options: Options) {
    /** RunError where the golden run lacks a tensor that the manifest's host.run names. */
    fun get(name: String): Tensor =
        tensors[name] ?: throw RunError("the golden run has no '$name', which the manifest's host.run names")

    fun steps(stage: String): Int = tensors.keys.count { it.startsWith("$stage/") && it.endsWith(".epsilon") }
}

fun readRecording(bundle: Bundle): Recording {
    if (!bundle.has(GOLDEN)) throw RunError("${bundle.name} has no golden run ($GOLDEN): export without --no-golden")
    val where = "${bundle.name}: $GOLDEN"
    val (tensors, metadata) = readSafetensors(bundle.bytes(GOLDEN), where)
    fun text(name: String) = metadata[name] ?: throw RunError("$where has no '$name' in its metadata")
    fun <T : Any> number(name: String, read: (String) -> T?) =
        read(text(name)) ?: throw RunError("$where: '$name' is '${text(name)}'")
    fun steps(name: String) = if (text(name) == "default") null else number(name, String::toIntOrNull)
    return Recording(
        tensors,
        Options(
            prompt = text("prompt"),
            negative = text("negative_prompt"),
            seed = number("seed", String::toLongOrNull),
            steps = steps("steps"),
            guidance = number("guidance", String::toDoubleOrNull),
            decoderSteps = steps("decoder_steps"),
            decoderGuidance = number("decoder_guidance", String::toDoubleOrNull),
            height = number("height", String::toLongOrNull),
            width = number("width", String::toLongOrNull),
        ),
    )
}

/** Eight bytes of header length, a JSON header of offsets, then the values: fp32 or 64-bit integers. */
fun readSafetensors(bytes: ByteArray, name: String): Pair<Tensors, Map<String, String>> = try {
    val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    val length = buffer.getLong(0)
    require(length in 2..bytes.size - 8L) { "length" }
    val header = Json.parse(bytes.copyOfRange(8, 8 + length.toInt()), name).entries()
    val start = 8 + length.toInt()
    val tensors = header.filterKeys { it != "__metadata__" }.mapValues { (_, entry) -> tensorOf(entry, bytes, start) }
    Pair(tensors, header["__metadata__"]?.let(::texts).orEmpty())
} catch (error: Exception) { // not JSON, or offsets that lead out of the file, or do not fit the shape
    throw RunError("$name is no safetensors file, or it is cut off; export the bundle again")
}

private fun tensorOf(entry: Json, bytes: ByteArray, start: Int): Tensor {
    val dims = entry["shape"].list().map { within(it, 1, Int.MAX_VALUE.toLong()).toLong() }.toLongArray()
    val (from, to) = entry["data_offsets"].list().map { within(it, 0, (bytes.size - start).toLong()) }
    val values = ByteBuffer.wrap(bytes, start + from, to - from).slice().order(ByteOrder.LITTLE_ENDIAN)
    val size = count(dims)
    return when (val dtype = entry["dtype"].text()) {
        "F32" -> Floats(dims, FloatArray(size).also { require(to - from == size * 4) { "size" }; values.asFloatBuffer().get(it) })
        "I64" -> Longs(dims, LongArray(size).also { require(to - from == size * 8) { "size" }; values.asLongBuffer().get(it) })
        else -> throw RunError("${entry.place} is of type $dtype, this host knows F32 and I64")
    }
}

/** The largest absolute difference of any value; infinite for another shape. */
fun largestError(values: Tensor, recorded: Tensor): Double {
    if (!values.dims.contentEquals(recorded.dims)) return Double.POSITIVE_INFINITY
    return (0 until values.size).maxOf { i -> abs(values.at(i) - recorded.at(i)).let { if (it.isNaN()) Double.POSITIVE_INFINITY else it } }
}

/** L2 norm of the difference over that of the recorded values; infinite for another shape. */
fun relativeError(values: Tensor, recorded: Tensor): Double =
    rootOfSquares(values, recorded) / maxOf(sqrt((0 until recorded.size).sumOf { recorded.at(it) * recorded.at(it) }), Double.MIN_VALUE)

/** Signal to noise in decibels. */
fun sqnr(values: Tensor, recorded: Tensor): Double = -20 * log10(relativeError(values, recorded))

/** Peak signal to noise in decibels, of values in 0..1. */
fun psnr(values: Tensor, recorded: Tensor): Double =
    -20 * log10(rootOfSquares(values, recorded) / sqrt(recorded.size.toDouble()))

private fun rootOfSquares(values: Tensor, recorded: Tensor): Double {
    if (!values.dims.contentEquals(recorded.dims)) return Double.POSITIVE_INFINITY
    return sqrt((0 until values.size).sumOf { i -> (values.at(i) - recorded.at(i)).let { it * it } })
}
