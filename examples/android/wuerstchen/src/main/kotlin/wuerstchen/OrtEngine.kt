package wuerstchen

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtProvider
import ai.onnxruntime.OrtSession
import ai.onnxruntime.providers.NNAPIFlags
import java.nio.FloatBuffer
import java.nio.LongBuffer
import java.util.EnumSet

/** What graphs run on; what a build of ONNX Runtime lacks is refused, never replaced. */
enum class Provider(val needs: OrtProvider) {
    CPU(OrtProvider.CPU),
    XNNPACK(OrtProvider.XNNPACK),
    NNAPI(OrtProvider.NNAPI),
}

/**
 * ONNX Runtime by its Java interface, which is the same on Android and on a desktop. Graphs are opened by
 * their paths: weights are mapped from the file, and never lie on the Java heap. [threads] null is one a core.
 */
class OrtEngine(private val bundle: Bundle, private val threads: Int?, private val provider: Provider) : Engine {
    private val environment = environment()
    private val rules = bundle.manifest.host.sessions["onnxruntime"]
        ?: throw UsageError("${bundle.name}: its manifest has no host.sessions.onnxruntime")

    init {
        if (provider.needs !in OrtEnvironment.getAvailableProviders()) {
            throw UsageError("this build of ONNX Runtime has no ${provider.name}; there are ${there()}")
        }
    }

    override fun open(graph: String): Session {
        val spec = bundle.manifest.graphs.getValue(graph)
        val file = bundle.graphFile(graph)
        try {
            return options(spec).use { OrtGraph(graph, spec, environment, environment.createSession(file.path, it)) }
        } catch (error: OrtException) {
            throw asOurs(error, "ONNX Runtime cannot load ${spec.file}${tooOld(spec)}")
        }
    }

    /** The CPU provider has fp16 kernels on ARM64 only: elsewhere each node is widened. */
    override fun computes(graph: String): String {
        val isFp16 = bundle.manifest.graphs.getValue(graph).precision == "fp16"
        return if (isFp16 && System.getProperty("os.arch") == "aarch64") "f16" else "f32"
    }

    private fun options(spec: Graph) = OrtSession.SessionOptions().apply {
        setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL) // errors are thrown
        rules.memoryPattern?.let { setMemoryPatternOptimization(it) }
        rules.config.forEach { (key, value) -> addConfigEntry(key, value) }
        if (spec.compute == "f32") rules.configF32.forEach { (key, value) -> addConfigEntry(key, value) }
        when (provider) {
            Provider.CPU -> threads?.let { setIntraOpNumThreads(it) }
            Provider.NNAPI -> {
                threads?.let { setIntraOpNumThreads(it) }
                addNnapi(EnumSet.noneOf(NNAPIFlags::class.java)) // no flag: fp32 stays fp32
            }
            Provider.XNNPACK -> {
                // It has threads of its own; ONNX Runtime's would spin beside them.
                setIntraOpNumThreads(1)
                addConfigEntry("session.intra_op.allow_spinning", "0")
                val own = threads ?: Runtime.getRuntime().availableProcessors()
                addXnnpack(mapOf("intra_op_num_threads" to "$own"))
            }
        }
    }

    private fun there() = Provider.entries.filter { it.needs in OrtEnvironment.getAvailableProviders() }.joinToString { it.name }

    private fun tooOld(spec: Graph): String {
        val oldest = spec.engines["onnxruntime"] ?: return ""
        val mine = environment.version
        return if (numbers(mine) >= numbers(oldest)) "" else " (it was run on version $oldest and newer, this is $mine)"
    }

    /** Comparable as one number: 1.23.0 is 1_023_000. */
    private fun numbers(version: String) =
        version.split('.').take(3).fold(0) { at, part -> at * 1000 + (part.toIntOrNull() ?: 0) }
}

private fun environment(): OrtEnvironment = try {
    OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL, "wuerstchen").apply { setTelemetry(false) }
} catch (error: LinkageError) {
    throw UsageError("ONNX Runtime does not load (${oneLine(error.cause ?: error)})")
}

private class OrtGraph(
    private val graph: String,
    private val spec: Graph,
    private val environment: OrtEnvironment,
    private val session: OrtSession,
) : Session {
    private var constants: Map<String, OnnxTensor> = emptyMap()

    override fun bind(constants: Tensors) {
        release(this.constants)
        this.constants = constants.mapValues { (_, tensor) -> native(tensor) }
    }

    override fun run(feeds: Tensors): Tensors {
        val changing = feeds.mapValues { (_, tensor) -> native(tensor) }
        try {
            return session.run(constants + changing, spec.outputs.map { it.name }.toSet()).use(::outputs)
        } catch (error: OrtException) {
            throw asOurs(error, "ONNX Runtime failed in $graph")
        } finally {
            release(changing)
        }
    }

    override fun close() {
        release(constants)
        session.close()
    }

    private fun outputs(result: OrtSession.Result): Tensors = spec.outputs.associate { (name, dtype) ->
        val tensor = result.get(name).orElse(null) as? OnnxTensor
        val type = tensor?.info?.type
        name to when {
            type == OnnxJavaType.FLOAT && dtype == "float32" -> Floats(tensor.info.shape, tensor.floatBuffer.array())
            type == OnnxJavaType.INT64 && dtype == "int64" -> Longs(tensor.info.shape, tensor.longBuffer.array())
            else -> throw RunError("'$name' of $graph is $type, and $dtype by the manifest")
        }
    }

    private fun native(tensor: Tensor): OnnxTensor = when (tensor) {
        is Floats -> OnnxTensor.createTensor(environment, FloatBuffer.wrap(tensor.data), tensor.dims)
        is Longs -> OnnxTensor.createTensor(environment, LongBuffer.wrap(tensor.data), tensor.dims)
    }

    private fun release(tensors: Map<String, OnnxTensor>) = tensors.values.forEach { it.close() }
}
