package wuerstchen

/** What goes on in a run, for whoever wants to see it. Throwing [Cancelled] from [step] ends it. */
interface Watch {
    fun step(name: String, done: Int, total: Int) {}

    /** Everything that is computed, in order, by the names of the golden run. */
    fun tensor(name: String, values: Tensor) {}
    fun truncated(prompt: String, lost: String) {}
}

/** Seconds that a graph took to be opened, and to run. */
class Spent(var load: Double = 0.0, var run: Double = 0.0, var runs: Int = 0)

// Pictures are made with scales up to 20 or so.
private const val EXTREME_GUIDANCE = 100

/** One picture: the graphs in the order of the manifest's `host.run`, fed as it says. None is known by its name. */
class Run(
    private val manifest: Manifest,
    private val sessions: Sessions,
    private val tokenizers: Map<String, Tokenizer>,
    private val plan: Plan,
    private val watch: Watch = object : Watch {},
) {
    val spent = LinkedHashMap<String, Spent>()
    private val values = HashMap<String, Tensor>() // '<graph>.<output>' of the graphs that ran
    private val latents = HashMap<String, Floats>() // each stage's, from its start on
    private val truncated = HashSet<String>() // texts that were too long, said once for all encoders

    /** The image (1,3,H,W), before it becomes bytes. */
    fun image(): Floats {
        var outputs: Tensors = emptyMap()
        manifest.host.run.forEachIndexed { index, call ->
            outputs = if (call.runs == "step") denoise(call) else once(call)
            forget(index)
        }
        return (outputs["image"] ?: outputs.values.first()) as Floats
    }

    private fun once(call: Call): Tensors {
        val feeds = feeds(call, call.feeds, null)
        val outputs = timed(call.graph, emptyMap(), feeds)
        see(call.graph, feeds)
        outputs.forEach { (name, tensor) -> checkFinite(tensor, "${call.graph} ($name)", advice(call)) }
        see(call.graph, outputs)
        outputs.forEach { (name, tensor) -> values["${call.graph}.$name"] = tensor }
        watch.step(call.graph, 1, 1)
        return outputs
    }

    /** A denoiser along its stage's schedule. Noise is drawn in the last step, too. */
    private fun denoise(call: Call): Tensors {
        val stage = plan.stage(call)
        val (changing, staying) = call.feeds.partition { it.source == "sampler" }
        val constants = feeds(call, staying, null) // what stays for all steps is bound once
        stage.rows.forEachIndexed { index, row ->
            val outputs = timed(call.graph, if (index == 0) constants else null, feeds(call, changing, row))
            latents[call.stage] = step(call, index, outputs.getValue("epsilon") as Floats)
            watch.step(call.graph, index + 1, stage.rows.size)
        }
        return mapOf("latents" to latents.getValue(call.stage))
    }

    private fun step(call: Call, index: Int, epsilon: Floats): Floats {
        val stage = plan.stage(call)
        val row = stage.rows[index]
        val where = "${call.graph}, step ${index + 1} of ${stage.rows.size} (t = ${row.t})"
        checkFinite(epsilon, where, advice(call))
        val noise = plan.noise.draw(stage.shape)
        val next = advance(row, latentsOf(call.stage), epsilon, noise, stage.guidance)
        checkFinite(next, where, advice(call))
        see("${call.stage}/$index", mapOf("epsilon" to epsilon, "noise" to noise, "latents" to next))
        return next
    }

    /** The stage's latents; its start is drawn when they are first asked for. */
    private fun latentsOf(stage: String): Floats = latents.getOrPut(stage) {
        plan.noise.draw(plan.stages.getValue(stage).shape).also { watch.tensor("$stage/start.latents", it) }
    }

    private fun feeds(call: Call, feeds: List<Feed>, row: Row?): Tensors =
        feeds.associate { it.input to fitted(call, it, source(call, it, row)) }

    /** What a feed reads, before its rows fit the call. */
    private fun source(call: Call, feed: Feed, row: Row?): Tensor = when {
        feed.source == "tokenizer" -> encoded(call.graph, feed.output)
        feed.source != "sampler" -> values.getValue("${feed.source}.${feed.output}")
        feed.output == "latents" -> latentsOf(call.stage)
        feed.output == "timestep_embedding" -> row!!.embedding.let { Floats(longArrayOf(1, it.size.toLong()), it) }
        else -> imageEmbedding(latentsOf("stage_c"), manifest.sampling)
    }

    /** A source's rows as the call takes them: both halves, or the conditional one alone. */
    private fun fitted(call: Call, feed: Feed, tensor: Tensor): Tensor = when {
        call.rows != "guided" -> tensor
        !plan.isGuided(call) -> if (feed.unconditional == "negative_prompts") firstHalf(tensor) else tensor
        feed.unconditional == "repeat" -> concatRows(tensor, tensor)
        feed.unconditional == "zeros" -> concatRows(tensor, tensor.zeros())
        else -> tensor
    }

    /** Ids or mask of the prompt, then of the negative prompt. */
    private fun encoded(graph: String, output: String): Tensor {
        val rows = listOf(plan.options.prompt, plan.options.negative).map { text ->
            val encoding = tokenizers.getValue(graph).encode(text)
            if (encoding.truncated.isNotEmpty() && truncated.add(text)) watch.truncated(text, encoding.truncated)
            if (output == "input_ids") encoding.ids else encoding.mask
        }
        return Longs(longArrayOf(2, rows[0].size.toLong()), rows[0] + rows[1])
    }

    /** [constants] null are those of the run before. */
    private fun timed(graph: String, constants: Tensors?, feeds: Tensors): Tensors {
        val start = System.nanoTime()
        val session = sessions.get(graph)
        constants?.let { session.bind(it) }
        val loaded = System.nanoTime()
        val outputs = session.run(feeds)
        spent.getOrPut(graph) { Spent() }.apply {
            load += (loaded - start) / 1e9
            run += (System.nanoTime() - loaded) / 1e9
            runs += 1
        }
        return outputs
    }

    private fun see(owner: String, tensors: Tensors) = tensors.forEach { (name, tensor) -> watch.tensor("$owner.$name", tensor) }

    /** Let go of what no later graph reads. */
    private fun forget(index: Int) {
        val read = manifest.host.run.drop(index + 1).flatMap { it.feeds }.map { "${it.source}.${it.output}" }.toSet()
        values.keys.retainAll(read)
    }

    /** What to do about values that are not finite. */
    private fun advice(call: Call): String {
        val (prior, decoder) = STAGES.map { plan.stages.getValue(it).scale }
        return when {
            prior > EXTREME_GUIDANCE -> "lower --guidance, which is $prior"
            decoder > EXTREME_GUIDANCE -> "lower --decoder-guidance, which is $decoder"
            manifest.graphs.getValue(call.graph).precision != "fp32" ->
                "run a bundle of higher precision, and check this one with 'python -m validation'"
            else -> "the weights hold such values, or the engine fails: run the golden check"
        }
    }
}
