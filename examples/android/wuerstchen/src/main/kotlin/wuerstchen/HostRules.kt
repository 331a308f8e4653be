package wuerstchen

/** The manifest's `host`, and what in it this program has code for: anything else is refused, not guessed at. */
val STAGES = listOf("stage_c", "stage_b")

/** Numbers beyond this make no model, and would overflow counts of bytes. */
const val LARGEST = 1L shl 16

private val KNOWN = mapOf(
    "backend" to listOf("onnx"),
    "host.noise.algorithm" to listOf("torch_cpu_randn"),
    "host.noise.generator" to listOf("mt19937"),
    "host.noise.transform" to listOf("box_muller"),
    "host.noise.tail" to listOf("redraw"),
    "host.noise.seed_bits" to listOf("32"),
    "host.noise.one_generator" to listOf("true"),
    "host.noise.in_last_step" to listOf("true"),
    "host.noise.draws" to listOf("stage_c/start", "stage_c/steps", "stage_b/start", "stage_b/steps"),
    "host.schedule.kind" to listOf("cosine"),
    "host.guidance.halves" to listOf("conditional", "unconditional"),
    "host.guidance.epsilon" to listOf("unconditional + scale * (conditional - unconditional)"),
    "host.picture.rounding" to listOf("nearest_even"),
    "host.picture.channels" to listOf("red", "green", "blue"),
)
private val KNOWN_OF_TOKENIZERS = mapOf(
    "rules.algorithm" to listOf("byte_level_bpe"),
    "rules.frame" to listOf("bos", "tokens", "eos"),
    "rules.mask" to listOf("bos", "tokens", "eos"),
)
private val UNCONDITIONAL = setOf("negative_prompts", "repeat", "zeros", "included", "none")
private val ROWS = setOf("prompts_and_negatives", "guided", "pictures")
private val WHEN = setOf("prompt", "step", "picture")
private val DTYPES = setOf("float32", "int64")
private val HOSTS_OWN = mapOf(
    "tokenizer" to setOf("input_ids", "attention_mask"),
    "sampler" to setOf("latents", "timestep_embedding", "image_embedding"),
)

/** RunError unless format, version and rules are those this host follows; before any of it is used. */
fun checkKnown(json: Json) {
    if (json["format"].text() != "wuerstchen-bundle") throw RunError("it is not a wuerstchen-bundle manifest")
    val version = json["format_version"]
    if (version.toString() != "$FORMAT_VERSION") {
        throw RunError("it has format version $version, this host reads $FORMAT_VERSION; export the bundle again with a matching version")
    }
    KNOWN.forEach { (place, known) -> checkRule(json, place, known) }
    json["tokenizers"].entries().values.forEach { spec ->
        KNOWN_OF_TOKENIZERS.forEach { (place, known) -> checkRule(spec, place, known) }
    }
}

private fun checkRule(json: Json, place: String, known: List<String>) {
    val value = place.split('.').fold(json) { at, key -> at[key] }
    val there = if (value.isList) value.list().map { it.plain() } else listOf(value.plain())
    if (there != known) throw RunError("${value.place} is $value, this host knows ${known.joinToString(", ")}")
}

fun readHost(json: Json) = Host(
    run = json["run"].list().map(::readCall),
    tokens = json["tokens"].text(),
    noise = readNoise(json["noise"]),
    schedule = json["schedule"].let { rules ->
        val (least, most) = range(rules["alpha_clamp"])
        ScheduleRules(least, most, rules["timestep_scale"].float())
    },
    guidanceOffAt = json["guidance"]["off_at"].number(),
    picture = json["picture"].let { rules ->
        val (least, most) = range(rules["clamp"])
        PictureRules(least, most, numberWithin(rules["scale"], 1.0, 255.0).toFloat())
    },
    sizes = json["sizes"].list().map { Sizes(sides(it["stage_c"]), sides(it["stage_b"]), sides(it["picture"])) },
    tolerances = json["tolerances"].entries().mapValues { (_, all) -> all.list().map(::readTolerance) },
    sessions = json["sessions"].entries().mapValues { (_, rules) ->
        val pattern = rules["memory_pattern"]
        SessionRules(if (pattern.isNull) null else pattern.flag(), texts(rules["config"]), texts(rules["config_f32"]))
    },
)

private fun readCall(json: Json) = Call(
    graph = json["graph"].text(),
    stage = json["stage"].text(),
    runs = json["when"].text(),
    rows = json["rows"].text(),
    feeds = json["feeds"].list().map {
        Feed(it["input"].text(), it["source"].text(), it["output"].text(), it["unconditional"].text())
    },
)

private fun readNoise(json: Json): NoiseRules {
    val block = within(json["block"], 2, LARGEST)
    if (block % 2 != 0) throw RunError("${json.place}.block is $block; it must be even")
    return NoiseRules(
        seedBits = within(json["seed_bits"], 32, 32),
        uniformBits = within(json["uniform_bits"], 1, 32),
        block = block,
        minimum = within(json["minimum"], block.toLong(), LARGEST),
    )
}

private fun readTolerance(json: Json) = Tolerance(
    compute = json["compute"].text(),
    graphError = json["graph_error"].number(),
    latentDb = json["latent_db"].number(),
    pictureDb = json["picture_db"].number(),
)

fun texts(json: Json): Map<String, String> = json.entries().mapValues { (_, text) -> text.text() }

fun within(json: Json, least: Long, most: Long): Int {
    val value = json.whole()
    if (value !in least..most) throw RunError("${json.place} is $value; it must be $least to $most")
    return value.toInt()
}

fun numberWithin(json: Json, least: Double, most: Double): Double {
    val value = json.number()
    if (value !in least..most) throw RunError("${json.place} is $json; it must be $least to $most")
    return value
}

private fun range(json: Json): Pair<Float, Float> {
    val ends = json.list()
    if (ends.size != 2) throw RunError("${json.place} is $json; it must be two numbers")
    val least = numberWithin(ends[0], 0.0, 1.0)
    return Pair(least.toFloat(), numberWithin(ends[1], least, 1.0).toFloat())
}

private fun sides(json: Json): LongArray {
    val all = json.list().map { within(it, 1, LARGEST).toLong() }
    if (all.size != 2) throw RunError("${json.place} is $json; it must be height and width")
    return all.toLongArray()
}

/** RunError unless each graph is fed by graphs before it, or by this host's own tokenizer and sampler. */
fun checkRun(manifest: Manifest) {
    val run = manifest.host.run
    if (run.isEmpty() || manifest.host.sizes.isEmpty()) throw RunError("host.run: there is no graph to run, or no size")
    val outputs = HOSTS_OWN.toMutableMap()
    for (call in run) {
        val graph = manifest.graphs[call.graph] ?: throw RunError("host.run: there is no graph '${call.graph}'")
        checkCall(call, graph)
        call.feeds.forEach { checkFeed(manifest, call, it, outputs) }
        if (call.runs != "step") outputs[call.graph] = graph.outputs.map { it.name }.toSet()
    }
    if (run.last().runs == "step") throw RunError("host.run: it ends in '${run.last().graph}', which makes no picture")
}

private fun checkCall(call: Call, graph: Graph) {
    fun fault(said: String) = RunError("host.run: ${call.graph} $said")
    if (call.runs !in WHEN || call.rows !in ROWS) {
        throw fault("runs '${call.runs}' with rows '${call.rows}', which this host does not know")
    }
    val ofStage = call.runs == "step" || call.rows == "guided"
    if (call.stage !in STAGES && (ofStage || call.stage.isNotEmpty())) throw fault("is of stage '${call.stage}'")
    val tensors = graph.inputs + graph.outputs
    if (graph.inputs.isEmpty() || graph.outputs.isEmpty()) throw fault("has no input or no output")
    tensors.firstOrNull { it.dtype !in DTYPES || it.shape.isEmpty() }?.let {
        throw fault("has '${it.name}' of ${it.dtype}, this host knows tensors of ${DTYPES.joinToString(" and ")}")
    }
    val isFed = call.feeds.map { it.input }.toSet()
    graph.inputs.firstOrNull { it.name !in isFed }?.let { throw fault("needs '${it.name}', which nothing feeds") }
    if (call.runs == "step" && graph.outputs.none { it.name == "epsilon" }) throw fault("gives no 'epsilon'")
}

private fun checkFeed(manifest: Manifest, call: Call, feed: Feed, outputs: Map<String, Set<String>>) {
    fun fault(said: String) = RunError("host.run: ${call.graph} $said")
    if (feed.output !in outputs[feed.source].orEmpty()) {
        throw fault("reads '${feed.source}.${feed.output}', which is not there before it runs")
    }
    if (feed.unconditional !in UNCONDITIONAL) throw fault("is fed '${feed.unconditional}', which this host does not know")
    if (feed.source == "tokenizer" && call.graph !in manifest.tokenizers) throw fault("has no tokenizer")
    if (feed.source == "sampler" && call.stage.isEmpty()) throw fault("reads latents of no stage")
    if (feed.output == "timestep_embedding" && call.runs != "step") throw fault("reads a timestep outside of steps")
}
