package wuerstchen

/*
 * Parts of the Kotlin host by themselves, compiled with it: values as JSON in the only argument, and as a
 * line of plain words each what is made of them.
 */

private val UNITS: Map<String, (Json) -> List<Any>> = mapOf(
    "noise" to { asked ->
        val rules = asked["rules"].let { NoiseRules(32, whole(it["uniform_bits"]), whole(it["block"]), whole(it["minimum"])) }
        val source = TorchNoise(rules, asked["seed"].text().toBigInteger().toLong())
        asked["draws"].list().map { draw -> source.draw(longArrayOf(draw.whole())).data.joinToString(" ") }
    },
    "schedule" to { asked ->
        val value = asked["denoiser"]
        val denoiser = Denoiser(
            1, value["s"].number(), value["scaler"].number(), 1.0, value["timestep_frequencies"].floats(),
            whole(value["timestep_padding"]), FloatArray(0), emptyList(),
        )
        val (least, most) = asked["rules"]["alpha_clamp"].floats().asList()
        val rules = ScheduleRules(least, most, asked["rules"]["timestep_scale"].float())
        computedRows(denoiser, rules, evenTimesteps(whole(asked["steps"]))).map { row ->
            (listOf(row.t, row.a, row.b, row.c) + row.embedding.asList()).joinToString(" ")
        }
    },
    "ids" to { asked ->
        val tokenizer = loadTokenizers(Bundle(java.io.File(asked["bundle"].text()))).getValue("text_encoder")
        asked["prompts"].list().map { tokenizer.tokens(it.text()).joinToString(" ") }
    },
    "sizes" to { asked ->
        val manifest = Bundle(java.io.File(asked["bundle"].text())).manifest
        asked["sizes"].list().map { size ->
            result {
                val (height, width) = size.list().map { it.whole() }
                sizesFor(manifest, height, width).let { (it.stageC + it.stageB + it.picture).joinToString(" ") }
            }
        }
    },
    "inside" to { asked -> asked["paths"].list().map { path -> result { checkInside(path.text()).let { "inside" } } } },
    "words" to { asked ->
        val text = codePoints(asked["text"].text())
        asked["patterns"].list().map { pattern -> result { Pattern(pattern.text()).matches(text).joinToString("/") { textOf(it) } } }
    },
    "json" to { asked -> asked["texts"].list().map { text -> result { Json.parse(text.text().toByteArray(), "it").toString() } } },
    "bytes" to { asked ->
        val values = asked["values"].floats()
        val image = Floats(longArrayOf(1, 3, 1, values.size / 3L), values)
        toBytes(image, PictureRules(0f, 1f, 255f)).pixels.map { it.toInt() and 0xff }
    },
)

private fun whole(json: Json) = json.whole().toInt()

private fun result(make: () -> String): String = try {
    make()
} catch (error: HostError) {
    "error ${error.exitCode}: ${error.message}"
}

fun main(words: Array<String>) {
    val asked = Json.parse(words[0].toByteArray(), "the argument")
    val out = java.io.PrintStream(java.io.FileOutputStream(java.io.FileDescriptor.out), true, "UTF-8")
    asked.entries().forEach { (name, value) -> UNITS.getValue(name)(value).forEach { out.println(it) } }
}
