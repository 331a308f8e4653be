package wuerstchen.app

import android.app.Activity
import android.graphics.Bitmap
import android.os.Bundle
import android.view.WindowManager
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.ProgressBar
import android.widget.TextView
import java.io.File
import wuerstchen.Picture

/** One screen: prompt, seed, progress, picture. The bundle is the folder `bundle` of the app's own files. */
class MainActivity : Activity() {
    private lateinit var worker: Worker
    private val prompt by lazy { findViewById<EditText>(R.id.prompt) }
    private val seed by lazy { findViewById<EditText>(R.id.seed) }
    private val make by lazy { findViewById<Button>(R.id.make) }
    private val check by lazy { findViewById<Button>(R.id.check) }
    private val progress by lazy { findViewById<ProgressBar>(R.id.progress) }
    private val status by lazy { findViewById<TextView>(R.id.status) }
    private val picture by lazy { findViewById<ImageView>(R.id.picture) }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        worker = Worker(File(getExternalFilesDir(null), "bundle"), Screen())
        make.setOnClickListener { if (worker.isBusy) worker.stop() else start { makePicture() } }
        check.setOnClickListener { start { worker.check() } }
    }

    override fun onDestroy() {
        worker.close()
        super.onDestroy()
    }

    private fun makePicture() {
        val number = seed.text.toString().ifEmpty { "0" }.toBigIntegerOrNull()
        if (number == null) {
            status.text = "the seed is '${seed.text}'; it must be a whole number such as 7"
        } else {
            worker.picture(prompt.text.toString(), number.toLong())
        }
    }

    private fun start(work: () -> Unit) {
        if (worker.isBusy) return
        status.text = ""
        work()
        show(worker.isBusy)
    }

    private fun show(busy: Boolean) {
        make.setText(if (busy) R.string.stop else R.string.make)
        check.isEnabled = !busy
        // Graphs take seconds to minutes; a screen that goes dark slows them down.
        if (busy) window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        else window.clearFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
    }

    /** What the worker says, on the screen's own thread. */
    private inner class Screen : Worker.Listener {
        override fun step(name: String, done: Int, total: Int) = runOnUiThread {
            progress.max = total
            progress.progress = done
            status.text = "$name: $done of $total"
        }

        override fun picture(made: Picture, said: String) = runOnUiThread {
            picture.setImageBitmap(Bitmap.createBitmap(made.argb(), made.width, made.height, Bitmap.Config.ARGB_8888))
            status.text = said
        }

        override fun said(text: String) = runOnUiThread { status.text = text }

        override fun idle() = runOnUiThread { show(false) }
    }
}
