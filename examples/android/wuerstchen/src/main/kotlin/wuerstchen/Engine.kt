package wuerstchen

/** A graph, open: constants are bound once, for what changes it is run. Errors are HostErrors. */
interface Session : AutoCloseable {
    /** Inputs that stay the same from run to run. */
    fun bind(constants: Tensors)

    /** All outputs by name, from the other inputs. */
    fun run(feeds: Tensors): Tensors
}

/** The one interface between the run and what computes graphs. */
interface Engine {
    fun open(graph: String): Session

    /** What a graph's products are computed in: f32, f16 or bf16, by which the golden run's tolerances go. */
    fun computes(graph: String): String
}

/** Open sessions: all that were used, or one at a time, which takes the memory of the largest graph alone. */
class Sessions(private val engine: Engine, private val oneAtATime: Boolean) : AutoCloseable {
    private val open = LinkedHashMap<String, Session>()

    fun get(graph: String): Session {
        if (graph !in open && oneAtATime) close()
        return open.getOrPut(graph) { engine.open(graph) }
    }

    override fun close() {
        open.values.forEach { it.close() }
        open.clear()
    }
}
