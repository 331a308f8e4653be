package wuerstchen

/** bundle.json, format version 2: what a host needs of it. Names and meanings are the JSON Schema's of the bundle. */
const val MANIFEST = "bundle.json"
const val FORMAT_VERSION = 2L

/** [shape] has null where any size goes. */
data class TensorSpec(val name: String, val dtype: String, val shape: List<Long?>)

data class ExternalData(val file: String, val location: String)

data class Graph(
    val file: String,
    val precision: String,
    val compute: String,
    val inputs: List<TensorSpec>,
    val outputs: List<TensorSpec>,
    val data: List<ExternalData>,
    val activations: List<Double>,
    val engines: Map<String, String>,
)

data class Normalization(val kind: String, val pattern: String, val content: String)

data class AddedToken(
    val content: String,
    val id: Long,
    val singleWord: Boolean,
    val lstrip: Boolean,
    val rstrip: Boolean,
    val normalized: Boolean,
)

data class TokenizerSpec(
    val folder: String,
    val maxLength: Int,
    val bosId: Long,
    val eosId: Long,
    val padId: Long,
    val unknownId: Long,
    val normalization: List<Normalization>,
    val words: String,
    val endOfWord: String,
    val added: List<AddedToken>,
    val frame: List<String>,
    val mask: List<String>,
)

/** One sampling step, x' = a*x + b*epsilon + c*noise, at timestep t. */
class Row(val t: Float, val a: Float, val b: Float, val c: Float, val embedding: FloatArray)

class Denoiser(
    val channels: Int,
    val s: Double,
    val scaler: Double,
    val guidance: Double,
    val frequencies: FloatArray,
    val padding: Int,
    val timesteps: FloatArray,
    val rows: List<Row>,
)

class Sampling(
    val resolutionMultiple: Double,
    val latentDimScale: Double,
    val latentMean: Float,
    val latentStd: Float,
    val stageBMultiple: Long,
    val stageAScale: Long,
    val height: Long,
    val width: Long,
    val denoisers: Map<String, Denoiser>,
)

data class FileEntry(val size: Long, val sha256: String)
data class Feed(val input: String, val source: String, val output: String, val unconditional: String)
data class Call(val graph: String, val stage: String, val runs: String, val rows: String, val feeds: List<Feed>)
data class NoiseRules(val seedBits: Int, val uniformBits: Int, val block: Int, val minimum: Int)
data class ScheduleRules(val alphaLeast: Float, val alphaMost: Float, val timestepScale: Float)
data class PictureRules(val least: Float, val most: Float, val scale: Float)
data class Tolerance(val compute: String, val graphError: Double, val latentDb: Double, val pictureDb: Double)

data class SessionRules(
    val memoryPattern: Boolean?,
    val config: Map<String, String>,
    val configF32: Map<String, String>,
)

class Host(
    val run: List<Call>,
    val tokens: String,
    val noise: NoiseRules,
    val schedule: ScheduleRules,
    val guidanceOffAt: Double,
    val picture: PictureRules,
    val sizes: List<Sizes>,
    val tolerances: Map<String, List<Tolerance>>,
    val sessions: Map<String, SessionRules>,
)

/** [sizes] are the only pictures (height, width) of graphs of fixed shape; none where any size goes. */
class Manifest(
    val precision: String,
    val graphs: Map<String, Graph>,
    val tokenizers: Map<String, TokenizerSpec>,
    val sampling: Sampling,
    val sizes: List<List<Long>>,
    val files: Map<String, FileEntry>,
    val host: Host,
)

/** RunError naming the first value that is missing or of another kind. */
fun readManifest(json: Json) = Manifest(
    precision = json["precision"].text(),
    graphs = json["graphs"].entries().mapValues { (_, graph) -> readGraph(graph) },
    tokenizers = json["tokenizers"].entries().mapValues { (_, spec) -> readTokenizer(spec) },
    sampling = readSampling(json["sampling"]),
    sizes = json["sizes"].list().map { pair -> pair.list().map { it.whole() } },
    files = json["files"].entries().mapValues { (_, file) -> FileEntry(file["size"].whole(), file["sha256"].text()) },
    host = readHost(json["host"]),
)

private fun readGraph(json: Json) = Graph(
    file = json["file"].text(),
    precision = json["precision"].text(),
    compute = json["compute"].text(),
    inputs = json["inputs"].list().map(::readTensor),
    outputs = json["outputs"].list().map(::readTensor),
    data = json["data"].list().map { ExternalData(it["file"].text(), it["location"].text()) },
    activations = json["activations"].list().map { it.number() },
    engines = texts(json["engines"]),
)

private fun readTensor(json: Json) = TensorSpec(
    name = json["name"].text(),
    dtype = json["dtype"].text(),
    shape = json["shape"].list().map { side -> if (side.isText) null else side.whole() },
)

private fun readTokenizer(json: Json): TokenizerSpec {
    val rules = json["rules"]
    return TokenizerSpec(
        folder = json["folder"].text(),
        maxLength = within(json["max_length"], 2, LARGEST),
        bosId = json["bos_id"].whole(),
        eosId = json["eos_id"].whole(),
        padId = json["pad_id"].whole(),
        unknownId = rules["unknown_id"].whole(),
        normalization = rules["normalization"].list().map {
            Normalization(it["kind"].text(), it["pattern"].text(), it["content"].text())
        },
        words = rules["words"].text(),
        endOfWord = rules["end_of_word"].text(),
        added = rules["added"].list().map(::readAdded),
        frame = rules["frame"].texts(),
        mask = rules["mask"].texts(),
    )
}

private fun readAdded(json: Json) = AddedToken(
    content = json["content"].text(),
    id = json["id"].whole(),
    singleWord = json["single_word"].flag(),
    lstrip = json["lstrip"].flag(),
    rstrip = json["rstrip"].flag(),
    normalized = json["normalized"].flag(),
)

private fun readSampling(json: Json) = Sampling(
    resolutionMultiple = numberWithin(json["resolution_multiple"], 1.0, LARGEST.toDouble()),
    latentDimScale = numberWithin(json["latent_dim_scale"], 0.0, LARGEST.toDouble()),
    latentMean = json["latent_mean"].float(),
    latentStd = json["latent_std"].float(),
    stageBMultiple = within(json["stage_b_multiple"], 1, LARGEST).toLong(),
    stageAScale = within(json["stage_a_scale"], 1, LARGEST).toLong(),
    height = within(json["height"], 1, LARGEST).toLong(),
    width = within(json["width"], 1, LARGEST).toLong(),
    denoisers = STAGES.associateWith { readDenoiser(json[it]) },
)

private fun readDenoiser(json: Json): Denoiser {
    val schedule = json["schedule"].list()
    val embeddings = json["embeddings"].list().map { it.floats() }
    val frequencies = json["timestep_frequencies"].floats()
    val padding = within(json["timestep_padding"], 0, LARGEST)
    val timesteps = json["timesteps"].floats()
    val agree = schedule.isNotEmpty() && embeddings.size == schedule.size && timesteps.size == schedule.size + 1
    if (!agree) throw RunError("${json.place}: timesteps, schedule and embeddings are not of one number of steps")
    if (embeddings.any { it.size != 2 * frequencies.size + padding }) {
        throw RunError("${json.place}: an embedding has not as many values as frequencies and padding make")
    }
    return Denoiser(
        channels = within(json["channels"], 1, LARGEST),
        s = json["s"].number(),
        scaler = json["scaler"].number(),
        guidance = json["guidance"].number(),
        frequencies = frequencies,
        padding = padding,
        timesteps = timesteps,
        rows = schedule.mapIndexed { i, row ->
            Row(row["t"].float(), row["a"].float(), row["b"].float(), row["c"].float(), embeddings[i])
        },
    )
}
