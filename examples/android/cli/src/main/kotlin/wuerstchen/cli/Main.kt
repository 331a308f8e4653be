package wuerstchen.cli

import java.io.File
import java.io.IOException
import java.nio.file.Files
import java.nio.file.StandardCopyOption
import java.util.Locale
import kotlin.system.exitProcess
import wuerstchen.Bundle
import wuerstchen.Check
import wuerstchen.Compared
import wuerstchen.OrtEngine
import wuerstchen.Plan
import wuerstchen.Run
import wuerstchen.RunError
import wuerstchen.Sessions
import wuerstchen.UsageError
import wuerstchen.Watch
import wuerstchen.asOurs
import wuerstchen.checkMemory
import wuerstchen.encodePng
import wuerstchen.loadTokenizers
import wuerstchen.oneLine
import wuerstchen.peakMemory
import wuerstchen.readRecording
import wuerstchen.summary
import wuerstchen.toBytes

/** A bundle and a prompt to a PNG file, on a desktop: what the app does, for tests and measurements. */
fun main(words: Array<String>) {
    try {
        val line = CommandLine(words)
        when {
            line.help -> println(HELP)
            line.check || line.replay -> check(line)
            else -> makePicture(line)
        }
    } catch (error: Throwable) { // an OutOfMemoryError, too, is one line
        val ours = asOurs(error, "the run failed")
        System.err.println("error: ${ours.message}")
        exitProcess(ours.exitCode)
    }
}

private fun makePicture(line: CommandLine) {
    checkWritable(File(line.output))
    val start = System.nanoTime()
    val bundle = Bundle(File(line.bundle))
    val plan = Plan(bundle.manifest, line.options)
    checkMemory(bundle.manifest, plan, line.lowMemory)
    val engine = OrtEngine(bundle, line.threads, line.provider)
    Sessions(engine, line.lowMemory).use { sessions ->
        val run = Run(bundle.manifest, sessions, loadTokenizers(bundle), plan, Progress(line.quiet))
        val picture = toBytes(run.image(), bundle.manifest.host.picture)
        save(File(line.output), encodePng(picture, mapOf("wuerstchen" to json(parameters(plan)))))
        report(line, plan, run, (System.nanoTime() - start) / 1e9)
    }
}

private class Progress(private val quiet: Boolean) : Watch {
    override fun step(name: String, done: Int, total: Int) {
        if (!quiet && done == total) System.err.println("$name: $done of $total")
    }

    override fun truncated(prompt: String, lost: String) =
        System.err.println("warning: '${prompt.take(40)}'...: too long, cut off before '$lost'")
}

/** What the picture says of itself. */
private fun parameters(plan: Plan): Map<String, Any?> = linkedMapOf(
    "prompt" to plan.options.prompt,
    "negative_prompt" to plan.options.negative,
    "seed" to listOf(plan.options.seed),
    "height" to plan.sizes.picture[0],
    "width" to plan.sizes.picture[1],
    "steps" to plan.stages.getValue("stage_c").rows.size,
    "guidance" to plan.stages.getValue("stage_c").scale,
    "decoder_steps" to plan.stages.getValue("stage_b").rows.size,
    "decoder_guidance" to plan.stages.getValue("stage_b").scale,
)

private fun report(line: CommandLine, plan: Plan, run: Run, total: Double) {
    val (height, width) = plan.sizes.picture.toList()
    val peak = peakMemory()
    if (line.json) {
        val graphs = run.spent.mapValues { (_, spent) -> mapOf("load" to spent.load, "run" to spent.run, "runs" to spent.runs) }
        val seconds = mapOf("total" to total, "graphs" to graphs)
        println(json(mapOf("picture" to line.output, "height" to height, "width" to width, "seconds" to seconds, "peak_bytes" to peak)))
    } else if (!line.quiet) {
        val memory = peak?.let { ", peak memory ${it / 1_000_000} MB" } ?: ""
        println("${line.output}: $height x $width in ${"%.1f".format(Locale.ROOT, total)} s$memory")
    }
}

/** The checks in their order; RunError names the first tensor that differs. */
private fun check(line: CommandLine) {
    val bundle = Bundle(File(line.bundle))
    val check = Check(bundle, loadTokenizers(bundle), readRecording(bundle))
    val checks = mutableListOf<() -> List<Compared>>(check::replay, check::tokens)
    if (line.check) {
        val engine = OrtEngine(bundle, line.threads, line.provider)
        checks += { check.graphs(engine) }
        checks += { check.ownRun(engine) }
    }
    val all = ArrayList<Compared>()
    for (one in checks) {
        val compared = one()
        all += compared
        if (!line.json && !line.quiet) summary(compared).forEach(::println)
        compared.firstOrNull { !it.holds }?.let { throw it.failure(line.bundle) }
    }
    if (!line.quiet) check.leftOut.distinct().forEach {
        System.err.println("left out: '${it.take(40)}' has characters that this Java's Unicode does not know")
    }
    if (line.json) {
        println(json(all.map { mapOf("what" to it.what, "tensor" to it.tensor, "error" to it.error, "limit" to it.limit, "decibels" to it.decibels) }))
    }
}

private fun checkWritable(file: File) {
    val folder = file.absoluteFile.parentFile
    when {
        !folder.isDirectory -> throw UsageError("--output $file: the folder $folder does not exist")
        file.isDirectory -> throw UsageError("--output $file: it is a folder; give another file name")
        !Files.isWritable(folder.toPath()) -> throw UsageError("--output $file: the folder $folder cannot be written to")
    }
}

/** All or nothing: an older picture stays where this one cannot be written. */
private fun save(file: File, bytes: ByteArray) {
    val part = File("$file.part")
    try {
        part.writeBytes(bytes)
        Files.move(part.toPath(), file.toPath(), StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE)
    } catch (error: IOException) {
        part.delete()
        throw RunError("$file: ${oneLine(error)}")
    }
}

/** Maps, lists, texts, numbers and null as JSON; a number that is none in JSON becomes null. */
private fun json(value: Any?): String = when (value) {
    is Map<*, *> -> value.entries.joinToString(", ", "{", "}") { (key, item) -> "${json("$key")}: ${json(item)}" }
    is List<*> -> value.joinToString(", ", "[", "]") { json(it) }
    is String -> value.toList().joinToString("", "\"", "\"") { if (it < ' ' || it in "\"\\") "\\u%04x".format(it.code) else "$it" }
    is Double -> if (value.isFinite()) "$value" else "null"
    else -> "$value"
}
