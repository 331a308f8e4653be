package wuerstchen.cli

import wuerstchen.Options
import wuerstchen.Provider
import wuerstchen.UsageError

const val HELP = """usage: wuerstchen [options] BUNDLE PROMPT
       wuerstchen BUNDLE --replay | --check

Make a picture from a prompt with an ONNX bundle.

  -o, --output FILE          PNG file (default: out.png)
  --negative-prompt TEXT     what the picture should not show
  --seed N                   whole number (default: 0)
  --steps N                  even Stage C steps (default: the bundle's schedule)
  --guidance X               Stage C guidance scale; up to 1 is off (default: the bundle's)
  --decoder-steps N          even Stage B steps (default: the bundle's schedule)
  --decoder-guidance X       Stage B guidance scale (default: the bundle's)
  --height N, --width N      size in pixels (default: the bundle's)
  --size HEIGHTxWIDTH        both at once, such as 512x768
  --threads N                CPU threads a graph runs on (default: one a core)
  --provider NAME            cpu, xnnpack or nnapi, where the build of ONNX Runtime has it (default: cpu)
  --low-memory               hold one graph in memory at a time
  --replay                   check noise, schedules, wiring and ids by the golden run, without an engine
  --check                    that, then each graph, then a whole run, each within the bundle's tolerances
  --json                     print the result, or every comparison, as JSON
  --quiet                    no progress
  --help                     print this and exit"""

private val VALUES = setOf(
    "output", "negative-prompt", "seed", "steps", "guidance", "decoder-steps", "decoder-guidance", "height", "width",
    "size", "threads", "provider",
)
private val FLAGS = setOf("low-memory", "replay", "check", "json", "quiet", "help")

/** The command line, named as that of `python -m runtimes` is. UsageError names the option that is wrong. */
class CommandLine(words: Array<String>) {
    private val values = HashMap<String, String>()
    private val flags = HashSet<String>()
    private val positionals = ArrayList<String>()

    init {
        read(words)
        if (!help) check()
    }

    val help get() = "help" in flags
    val replay get() = "replay" in flags
    val check get() = "check" in flags
    val json get() = "json" in flags
    val quiet get() = "quiet" in flags
    val lowMemory get() = "low-memory" in flags
    val bundle get() = positionals[0]
    val output get() = values["output"] ?: "out.png"
    val threads = whole("threads")
    val provider: Provider = provider(values["provider"] ?: "cpu")
    val options = Options(
        prompt = positionals.getOrElse(1) { "" },
        negative = values["negative-prompt"] ?: "",
        seed = seed(values["seed"] ?: "0"),
        steps = whole("steps"),
        guidance = number("guidance"),
        decoderSteps = whole("decoder-steps"),
        decoderGuidance = number("decoder-guidance"),
        height = side("height", 0),
        width = side("width", 1),
    )

    private fun read(words: Array<String>) {
        val left = ArrayDeque(words.asList())
        while (left.isNotEmpty()) {
            val word = left.removeFirst()
            val name = if (word == "-o") "output" else word.removePrefix("--").substringBefore('=')
            when {
                word == "--" -> positionals += left.also { return }
                !word.startsWith("-") || word == "-" -> positionals += word
                word != "-o" && !word.startsWith("--") -> throw UsageError("unknown option '$word' (see --help)")
                name in FLAGS && '=' !in word -> flags += name
                name !in VALUES -> throw UsageError("unknown option '$word' (see --help)")
                '=' in word -> values[name] = word.substringAfter('=')
                else -> values[name] = left.removeFirstOrNull() ?: throw UsageError("$word needs a value (see --help)")
            }
        }
    }

    private fun check() {
        val makesNone = check || replay
        val fault = when {
            positionals.isEmpty() -> "there is no bundle; give its folder (see --help)"
            makesNone && positionals.size > 1 -> "--check and --replay make no picture: leave the prompt out"
            !makesNone && positionals.size == 1 -> "there is no prompt; give one (it may be empty: \"\")"
            positionals.size > 2 -> "one prompt makes one picture; '${positionals[2]}' is one too many (put a prompt in quotes)"
            !output.endsWith(".png", ignoreCase = true) -> "--output $output: pictures are PNG files, end the name in .png"
            else -> null
        }
        if (fault != null) throw UsageError(fault)
    }

    private fun whole(name: String): Int? {
        val value = values[name] ?: return null
        val number = value.toIntOrNull() ?: throw UsageError("--$name is '$value'; it must be a whole number")
        if (number < 1) throw UsageError("--$name is $value; it must be at least 1")
        return number
    }

    private fun number(name: String): Double? {
        val value = values[name] ?: return null
        return value.toDoubleOrNull()?.takeIf { it.isFinite() } ?: throw UsageError("--$name is '$value'; it must be a number")
    }

    /** The noise takes the low 32 bits, of any whole number. */
    private fun seed(value: String): Long =
        value.toBigIntegerOrNull()?.toLong() ?: throw UsageError("--seed is '$value'; it must be a whole number such as 7")

    private fun side(name: String, place: Int): Long? {
        val size = values["size"] ?: return whole(name)?.toLong()
        if (name in values) throw UsageError("--size and --$name exclude each other")
        val sides = size.lowercase().split('x').map { it.toLongOrNull()?.takeIf { side -> side > 0 } }
        if (sides.size != 2 || null in sides) {
            throw UsageError("--size is '$size'; it must be height x width, such as 512x768")
        }
        return sides[place]
    }

    private fun provider(name: String) = Provider.entries.firstOrNull { it.name.equals(name, ignoreCase = true) }
        ?: throw UsageError("--provider is '$name'; there are ${Provider.entries.joinToString { it.name.lowercase() }}")
}
