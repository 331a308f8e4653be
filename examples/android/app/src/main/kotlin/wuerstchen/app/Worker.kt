package wuerstchen.app

import android.system.Os
import java.io.File
import java.util.Locale
import java.util.concurrent.Executors
import java.util.concurrent.atomic.AtomicBoolean
import wuerstchen.Bundle
import wuerstchen.Cancelled
import wuerstchen.Check
import wuerstchen.Options
import wuerstchen.OrtEngine
import wuerstchen.Picture
import wuerstchen.Plan
import wuerstchen.Provider
import wuerstchen.Run
import wuerstchen.Sessions
import wuerstchen.Watch
import wuerstchen.asOurs
import wuerstchen.checkMemory
import wuerstchen.encodePng
import wuerstchen.loadTokenizers
import wuerstchen.peakMemory
import wuerstchen.readRecording
import wuerstchen.summary
import wuerstchen.toBytes

/** Pictures and checks of the bundle in [folder], one after the other, on a thread of their own. */
class Worker(private val folder: File, private val listener: Listener) : AutoCloseable {
    /** Called on the worker's thread. */
    interface Listener {
        fun step(name: String, done: Int, total: Int)
        fun picture(made: Picture, said: String)
        fun said(text: String)
        fun idle()
    }

    private val thread = Executors.newSingleThreadExecutor()
    private val busy = AtomicBoolean(false)
    @Volatile private var stopped = false
    private val bundle by lazy { Bundle(folder) } // kept: a file is hashed once

    val isBusy get() = busy.get()

    /** The step that runs is the last one. */
    fun stop() {
        stopped = true
    }

    override fun close() {
        stop()
        thread.shutdown()
    }

    fun picture(prompt: String, seed: Long) = start {
        val begun = System.nanoTime()
        val plan = Plan(bundle.manifest, Options(prompt, seed = seed))
        checkMemory(bundle.manifest, plan, oneAtATime = true)
        val made = Sessions(engine(), oneAtATime = true).use { sessions ->
            val run = Run(bundle.manifest, sessions, loadTokenizers(bundle), plan, Steps())
            toBytes(run.image(), bundle.manifest.host.picture)
        }
        File(folder.parentFile, "picture.png").writeBytes(encodePng(made, emptyMap()))
        val seconds = (System.nanoTime() - begun) / 1e9
        val memory = peakMemory()?.let { ", peak memory ${it / 1_000_000} MB" } ?: ""
        listener.picture(made, "%.1f s%s".format(Locale.ROOT, seconds, memory))
    }

    /** The golden check on this phone: a line a kind of comparison, then the first tensor that differs. */
    fun check() = start {
        val check = Check(bundle, loadTokenizers(bundle), readRecording(bundle))
        val engine = engine()
        val lines = ArrayList<String>()
        for (one in listOf({ check.replay() }, { check.tokens() }, { check.graphs(engine) }, { check.ownRun(engine) })) {
            if (stopped) throw Cancelled()
            val compared = one()
            lines += summary(compared)
            compared.firstOrNull { !it.holds }?.let { lines += it.failure(bundle.name).message.orEmpty() }
            listener.said(lines.joinToString("\n"))
            if (compared.any { !it.holds }) return@start
        }
    }

    private fun engine(): OrtEngine {
        Os.setenv("ORT_DISABLE_TELEMETRY", "1", false) // its own builds gather and send unless told so before they load
        return OrtEngine(bundle, threads = null, Provider.CPU)
    }

    private fun start(work: () -> Unit) {
        if (!busy.compareAndSet(false, true)) return
        stopped = false
        thread.execute {
            try {
                work()
            } catch (error: Cancelled) {
                listener.said("stopped")
            } catch (error: Throwable) { // an OutOfMemoryError, too, is a line
                listener.said(asOurs(error, "the run failed").message.orEmpty())
            }
            busy.set(false)
            listener.idle()
        }
    }

    private inner class Steps : Watch {
        override fun step(name: String, done: Int, total: Int) {
            if (stopped) throw Cancelled()
            listener.step(name, done, total)
        }

        override fun truncated(prompt: String, lost: String) = listener.said("too long, cut off before '$lost'")
    }
}
