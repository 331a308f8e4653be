package wuerstchen

import java.io.File
import java.io.IOException

/** Bytes that Linux, and so Android, says can be had; null where nobody says. */
fun availableMemory(): Long? = kilobytes("/proc/meminfo", "MemAvailable:")?.times(1024)

/** The most this process has held, in bytes: null where nobody says. */
fun peakMemory(): Long? = kilobytes("/proc/self/status", "VmHWM:")?.times(1024)

private fun kilobytes(file: String, name: String): Long? = try {
    File(file).readLines().firstOrNull { it.startsWith(name) }?.split(Regex("\\s+"))?.get(1)?.toLongOrNull()
} catch (error: IOException) {
    null
}

/** UsageError where weights and activations alone are more than what is free: the system would end the process. */
fun checkMemory(manifest: Manifest, plan: Plan, oneAtATime: Boolean, available: Long? = availableMemory()) {
    val each = manifest.host.run.map { bytesOf(it, manifest, plan) }
    val needed = if (oneAtATime) each.max() else each.sum()
    if (available == null || needed <= available) return
    val fits = !oneAtATime && each.max() <= available
    throw UsageError(
        "out of memory: the picture needs ${megabytes(needed)} at the least, ${megabytes(available.toDouble())} are free; " +
            if (fits) "with one graph at a time (--low-memory) it needs ${megabytes(each.max())}" else "ask for a smaller picture, or take an int8 or int4 bundle",
    )
}

/** A graph's files, and per row of the batch a constant and what grows with the latents' positions. */
private fun bytesOf(call: Call, manifest: Manifest, plan: Plan): Double {
    val graph = manifest.graphs.getValue(call.graph)
    val files = (graph.data.map { it.file } + graph.file).toSet()
    val weights = files.sumOf { manifest.files.getValue(it).size.toDouble() }
    if (graph.activations.size != 3 || call.stage.isEmpty()) return weights
    val (_, _, height, width) = plan.stage(call).shape.map { it.toDouble() }
    val positions = height * width
    val (constant, linear, square) = graph.activations
    return weights + plan.batch(call) * (constant + linear * positions + square * positions * positions)
}

private fun megabytes(bytes: Double) = "%.0f MB".format(java.util.Locale.ROOT, bytes / 1e6)
