package wuerstchen

import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException

/**
 * A value of a JSON file and the place where it stands, for errors that name it. Android and the JVM
 * share no JSON library; this one reads strictly (RFC 8259), and refuses a key that comes twice.
 */
class Json(private val value: Any?, val place: String) {
    val isNull get() = value == null
    val isText get() = value is String
    val isList get() = value is List<*>

    fun text(): String = value as? String ?: throw wrong("a text")
    fun flag(): Boolean = value as? Boolean ?: throw wrong("true or false")
    fun number(): Double = (value as? Number)?.toDouble() ?: throw wrong("a number")
    fun float(): Float = number().toFloat()
    fun whole(): Long = value as? Long ?: throw wrong("a whole number")

    fun list(): List<Json> =
        (value as? List<*> ?: throw wrong("a list")).mapIndexed { i, item -> Json(item, "$place[$i]") }

    fun entries(): Map<String, Json> = fields().mapValues { (key, item) -> Json(item, below(key)) }

    /** RunError where there is no such key. */
    operator fun get(key: String): Json {
        val all = fields()
        if (key !in all) throw RunError("${below(key)} is missing")
        return Json(all[key], below(key))
    }

    fun texts(): List<String> = list().map { it.text() }
    fun floats(): FloatArray = list().let { all -> FloatArray(all.size) { all[it].float() } }

    /** A text, number or truth as text. */
    fun plain(): String = value.toString()

    /** As it would stand in a file, for messages. */
    override fun toString(): String = shown(value)

    @Suppress("UNCHECKED_CAST") // the reader makes no other keys
    private fun fields() = value as? Map<String, Any?> ?: throw wrong("an object")

    private fun below(key: String) = if (place.isEmpty()) key else "$place.$key"
    private fun wrong(wanted: String) = RunError("${place.ifEmpty { "the file" }} is ${shown(value)}; it must be $wanted")

    companion object {
        /** RunError, beginning with [name], where [bytes] are no JSON in UTF-8. */
        fun parse(bytes: ByteArray, name: String): Json = try {
            val text = Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString()
            Json(JsonReader(text).read(), "")
        } catch (error: CharacterCodingException) {
            throw RunError("$name is not valid JSON (no UTF-8); export the bundle again")
        } catch (error: JsonFault) {
            throw RunError("$name is not valid JSON (${error.message}); export the bundle again")
        }

        private fun shown(value: Any?): String = when (value) {
            is String -> "\"${value.take(80)}\""
            is List<*> -> value.joinToString(", ", "[", "]", limit = 8) { shown(it) }
            is Map<*, *> -> "an object"
            else -> value.toString()
        }
    }
}

private class JsonFault(message: String) : Exception(message)

/** Texts, Long or Double, true and false, null, lists, maps. */
private class JsonReader(private val text: String) {
    private var at = 0

    fun read(): Any? = value(0).also {
        blanks()
        if (at < text.length) throw fault("something after the end")
    }

    private fun value(depth: Int): Any? {
        if (depth > DEEPEST) throw fault("nested too deep")
        blanks()
        return when (peek()) {
            '{' -> fields(depth)
            '[' -> items(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun fields(depth: Int): Map<String, Any?> {
        val all = LinkedHashMap<String, Any?>()
        between('{', '}') {
            blanks()
            val key = string()
            blanks()
            take(':')
            if (key in all) throw fault("the key \"$key\" twice")
            all[key] = value(depth + 1)
        }
        return all
    }

    private fun items(depth: Int): List<Any?> = ArrayList<Any?>().also { all ->
        between('[', ']') { all.add(value(depth + 1)) }
    }

    private fun between(open: Char, close: Char, item: () -> Unit) {
        take(open)
        blanks()
        if (peek() == close) {
            at += 1
            return
        }
        while (true) {
            item()
            blanks()
            if (peek() == close) break
            take(',')
        }
        take(close)
    }

    private fun string(): String {
        take('"')
        val made = StringBuilder()
        while (true) {
            val character = next()
            when {
                character == '"' -> return made.toString()
                character == '\\' -> made.append(escaped())
                character < ' ' -> throw fault("a control character in a text")
                else -> made.append(character)
            }
        }
    }

    private fun escaped(): Char = when (val character = next()) {
        '"', '\\', '/' -> character
        'b' -> '\b'
        'f' -> '\u000c'
        'n' -> '\n'
        'r' -> '\r'
        't' -> '\t'
        'u' -> String(CharArray(4) { next() }).takeIf { HEX.matches(it) }?.toInt(16)?.toChar() ?: throw fault("a bad \\u")
        else -> throw fault("a bad escape")
    }

    private fun number(): Number {
        val found = NUMBER.find(text, at)?.takeIf { it.range.first == at }?.value ?: throw fault("no value")
        at += found.length
        return found.toLongOrNull() ?: found.toDouble().also { if (it.isInfinite()) throw fault("a number too large") }
    }

    private fun <T> word(word: String, value: T): T {
        if (!text.startsWith(word, at)) throw fault("no value")
        at += word.length
        return value
    }

    private fun blanks() {
        while (at < text.length && text[at] in " \t\n\r") at += 1
    }

    private fun peek(): Char = if (at < text.length) text[at] else throw fault("it ends too soon")
    private fun next(): Char = peek().also { at += 1 }

    private fun take(wanted: Char) {
        if (next() != wanted) throw fault("'$wanted' expected")
    }

    private fun fault(what: String) = JsonFault("$what at character $at")

    private companion object {
        const val DEEPEST = 64
        val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
        val HEX = Regex("[0-9a-fA-F]{4}")
    }
}
