package wuerstchen

/** One comparison: a tensor's error, or with [decibels] how many it keeps, and the limit of that. */
class Compared(val what: String, val tensor: String, val error: Double, val limit: Double, val decibels: Boolean = false) {
    val holds get() = if (decibels) error >= limit else error <= limit

    /** RunError naming the tensor that differs. */
    fun failure(name: String): RunError {
        val said = if (decibels) "keeps ${short(error)} dB of the golden run, ${short(limit)} dB are wanted"
        else "is ${short(error)} off the golden run, ${short(limit)} is allowed"
        return RunError("$name: $what: '$tensor' is the first tensor that differs: it $said")
    }
}

fun short(value: Double): String = "%.3g".format(java.util.Locale.ROOT, value)

/** One line a kind of comparison: the worst of its tensors. */
fun summary(compared: List<Compared>): List<String> = compared.groupBy { it.what }.map { (what, all) ->
    val worst = if (all[0].decibels) all.minBy { it.error } else all.maxBy { it.error }
    if (worst.decibels) "$what: ${short(worst.error)} dB (at least ${short(worst.limit)})"
    else "$what: error ${short(worst.error)} (at most ${short(worst.limit)})"
}

// Absolute. PyTorch computes its noise in single precision, a few units in the last place of values up to 5;
// steps magnify last bits up to 100 times; tables may come from another machine's cosine.
private const val NOISE = 2e-6
private const val REPLAYED = 1e-3
private const val TABLES = 1e-4

/**
 * The golden check, in the order in which a host goes wrong: [replay] without an engine, the ids of
 * prompts, each graph on recorded inputs, a run of its own. Everything is one run with another engine
 * below it; every tensor is compared as the run computes it.
 */
class Check(private val bundle: Bundle, private val tokenizers: Map<String, Tokenizer>, private val recording: Recording) {
    private val manifest = bundle.manifest

    /** Prompts that [tokens] left out: they differ, and have characters that this system's Unicode does not know. */
    val leftOut = ArrayList<String>()

    /** Everything that is a host's own work, where the recorded outputs stand in for the graphs. */
    fun replay(): List<Compared> {
        val compared = STAGES.flatMap(::tables).toMutableList()
        val engine = object : Engine {
            override fun open(graph: String) = Replayed(graph)
            override fun computes(graph: String) = "f32"
        }
        run(engine) { name, values -> compared += replayed(name, values) }
        return compared
    }

    /** The manifest's schedule and timestep embeddings, computed again from its constants. */
    private fun tables(name: String): List<Compared> {
        val denoiser = manifest.sampling.denoisers.getValue(name)
        val computed = computedRows(denoiser, manifest.host.schedule, denoiser.timesteps)
        fun compared(table: String, values: (Row) -> FloatArray): Compared {
            val (mine, theirs) = listOf(computed, denoiser.rows).map { rows ->
                rows.flatMap { values(it).asList() }.toFloatArray().let { Floats(longArrayOf(it.size.toLong()), it) }
            }
            val what = "replay: $name: schedule and timestep embeddings"
            return Compared(what, "sampling.$name.$table", largestError(mine, theirs), TABLES)
        }
        return listOf(compared("schedule") { floatArrayOf(it.t, it.a, it.b, it.c) }, compared("embeddings") { it.embedding })
    }

    private fun replayed(name: String, values: Tensor): List<Compared> {
        val golden = recording.tensors[name]
        if (golden == null || name.endsWith(".epsilon")) return emptyList() // which was handed out by Replayed
        val isNoise = name.endsWith("/start.latents") || name.endsWith(".noise")
        val isComputed = name.endsWith("latents") || name.endsWith("image_embedding")
        val limit = if (isNoise) NOISE else if (isComputed) REPLAYED else 0.0
        val kind = if (isNoise) "noise" else "latents after every step"
        val what = if ('/' in name) "replay: ${name.substringBefore('/')}: $kind" else "replay: wiring"
        return listOf(Compared(what, name, largestError(values, golden), limit))
    }

    /** A graph's recorded outputs, of a denoiser one step's a run. */
    private inner class Replayed(private val graph: String) : Session {
        private val call = manifest.host.run.first { it.graph == graph }
        private var step = -1

        override fun bind(constants: Tensors) = Unit
        override fun close() = Unit

        override fun run(feeds: Tensors): Tensors {
            step += 1
            return manifest.graphs.getValue(graph).outputs.associate { it.name to recording.get("${owner()}.${it.name}") }
        }

        fun owner() = if (call.runs == "step") "${call.stage}/$step" else graph
    }

    /** The ids of every prompt of golden/tokens.json. */
    fun tokens(): List<Compared> {
        if (manifest.host.tokens.isEmpty()) return emptyList()
        return bundle.json(manifest.host.tokens).list().flatMap { entry ->
            val prompt = entry["prompt"].text()
            entry["input_ids"].entries().mapNotNull { (graph, ids) ->
                val encoding = tokenizers[graph]?.encode(prompt) ?: throw RunError("${bundle.name}: $graph has no tokenizer")
                val wanted = ids.list().map { it.whole() }
                val differing = wanted.indices.count { encoding.ids.getOrNull(it) != wanted[it] }
                val error = differing + Math.abs(encoding.mask.sum() - entry["length"][graph].whole()).toDouble()
                val isUnknown = error > 0 && codePoints(prompt).any(::isUnassigned)
                if (isUnknown) leftOut.add(prompt)
                Compared("tokens", "$graph.input_ids of '${prompt.take(40)}'", error, 0.0).takeIf { !isUnknown }
            }
        }
    }

    /** Each graph on its recorded inputs: its own outputs are compared, then the recorded ones go on. */
    fun graphs(engine: Engine): List<Compared> {
        val compared = ArrayList<Compared>()
        val forced = object : Engine by engine {
            override fun open(graph: String) = Forced(graph, engine, compared)
        }
        run(forced) { _, _ -> }
        return compared
    }

    private inner class Forced(private val graph: String, private val engine: Engine, private val compared: MutableList<Compared>) : Session {
        private val session = engine.open(graph)
        private val golden = Replayed(graph)

        override fun bind(constants: Tensors) = session.bind(exact(constants))
        override fun close() = session.close()

        override fun run(feeds: Tensors): Tensors {
            val wanted = golden.run(feeds)
            val limit = tolerance(engine, graph).graphError
            session.run(exact(feeds)).forEach { (name, values) ->
                val error = relativeError(values, wanted.getValue(name))
                compared += Compared("graph $graph", "${golden.owner()}.$name", error, limit)
            }
            return wanted
        }

        /** The recorded inputs in place of those that only agree to the last bits. */
        private fun exact(feeds: Tensors) = feeds.mapValues { (name, values) -> recording.tensors["$graph.$name"] ?: values }
    }

    private fun tolerance(engine: Engine, graph: String): Tolerance {
        val all = manifest.host.tolerances[graph].orEmpty()
        return all.firstOrNull { it.compute == engine.computes(graph) } ?: all.firstOrNull { it.compute == "f32" }
            ?: throw RunError("host.tolerances has none for $graph in ${engine.computes(graph)}")
    }

    /** A run of its own from the golden prompt and seed, by the loosest tolerance of all its graphs. */
    fun ownRun(engine: Engine): List<Compared> {
        val all = manifest.host.run.map { tolerance(engine, it.graph) }
        val compared = ArrayList<Compared>()
        run(engine) { name, values ->
            val golden = recording.tensors[name]
            if (golden != null && '/' in name && name.endsWith(".latents") && !name.endsWith("/start.latents")) {
                val limit = all.minOf { it.latentDb }
                compared += Compared("own run: latents after every step", name, sqnr(values, golden), limit, decibels = true)
            } else if (golden != null && name.endsWith(".image")) {
                compared += Compared("own run: picture", name, psnr(values, golden), all.minOf { it.pictureDb }, decibels = true)
            }
        }
        return compared
    }

    private fun run(engine: Engine, see: (String, Tensor) -> Unit) {
        val watch = object : Watch {
            override fun tensor(name: String, values: Tensor) = see(name, values)
        }
        Sessions(engine, oneAtATime = true).use {
            Run(manifest, it, tokenizers, Plan(manifest, recording.options), watch).image()
        }
    }
}
