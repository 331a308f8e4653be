package wuerstchen

/** A text as Unicode code points, which the tokenizer's rules go by. */
typealias CodePoints = IntArray

fun codePoints(text: String): CodePoints = text.codePoints().toArray()
fun textOf(points: CodePoints): String = String(points, 0, points.size)

private val LETTERS = setOf(
    Character.UPPERCASE_LETTER, Character.LOWERCASE_LETTER, Character.TITLECASE_LETTER, Character.MODIFIER_LETTER,
    Character.OTHER_LETTER,
).map { it.toInt() }.toSet()
private val NUMBERS = setOf(Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER).map { it.toInt() }.toSet()
private val JOINERS = setOf(
    Character.NON_SPACING_MARK, Character.COMBINING_SPACING_MARK, Character.ENCLOSING_MARK,
    Character.CONNECTOR_PUNCTUATION,
).map { it.toInt() }.toSet()

/** Unicode's \p{L}, \p{N}, White_Space and \w, by the tables of this system. */
fun isLetter(point: Int) = Character.getType(point) in LETTERS
fun isNumber(point: Int) = Character.getType(point) in NUMBERS
fun isUnassigned(point: Int) = Character.getType(point) == Character.UNASSIGNED.toInt()
fun isOfWord(point: Int) = isLetter(point) || isNumber(point) || Character.getType(point) in JOINERS

fun isSpace(point: Int) = when (point) {
    in 0x09..0x0d, 0x20, 0x85, 0xa0, 0x1680, in 0x2000..0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000 -> true
    else -> false
}

private class Item(val takes: (Int) -> Boolean, val repeats: Boolean)

/**
 * The regular expressions of tokenizer rules: alternatives of characters, \p{L}, \p{N}, \s and sets of
 * them, each once or repeated by '+'. No more than these, read by the same code everywhere: engines of
 * regular expressions differ in their classes, and a stranger's expression could keep one busy for years.
 * RunError for anything else.
 */
class Pattern(private val expression: String) {
    private val pattern = codePoints(expression)
    private var at = 0
    private val alternatives: List<List<Item>> = read()

    fun matches(text: CodePoints): List<CodePoints> {
        val found = ArrayList<CodePoints>()
        walk(text) { start, length -> if (length > 0) found.add(text.copyOfRange(start, start + length)) }
        return found
    }

    fun replaced(text: CodePoints, content: String): CodePoints {
        val made = StringBuilder()
        walk(text) { start, length -> if (length > 0) made.append(content) else made.appendCodePoint(text[start]) }
        return codePoints(made.toString())
    }

    /** Each match with its length, and each character between matches with 0. */
    private fun walk(text: CodePoints, see: (start: Int, length: Int) -> Unit) {
        var place = 0
        while (place < text.size) {
            val length = alternatives.firstNotNullOfOrNull { matched(it, text, place) } ?: 0
            see(place, length)
            place += maxOf(length, 1)
        }
    }

    /** How many characters an alternative matches; repeats take all they can, and give none back. */
    private fun matched(items: List<Item>, text: CodePoints, start: Int): Int? {
        var place = start
        for (item in items) {
            if (place == text.size || !item.takes(text[place])) return null
            place += 1
            while (item.repeats && place < text.size && item.takes(text[place])) place += 1
        }
        return (place - start).takeIf { it > 0 }
    }

    private fun read(): List<List<Item>> {
        val all = arrayListOf(ArrayList<Item>())
        while (at < pattern.size) {
            if (take('|')) all.add(ArrayList()) else all.last().add(Item(item(), take('+')))
        }
        return all
    }

    /** One character, class, or set of those in brackets. */
    private fun item(): (Int) -> Boolean {
        if (!take('[')) return single()
        val negated = take('^')
        val members = ArrayList<(Int) -> Boolean>()
        while (!take(']')) members.add(single())
        return { point -> members.any { it(point) } != negated }
    }

    private fun single(): (Int) -> Boolean {
        val point = pattern.getOrNull(at) ?: throw unknown()
        at += 1
        if (point == '\\'.code) return escaped()
        if (point < 128 && point.toChar() in SPECIAL) throw unknown()
        return { it == point }
    }

    private fun escaped(): (Int) -> Boolean {
        val rest = textOf(pattern.copyOfRange(at, pattern.size))
        val name = CLASSES.keys.firstOrNull { rest.startsWith(it) } ?: throw unknown()
        at += name.length
        return CLASSES.getValue(name)
    }

    private fun take(character: Char): Boolean {
        val there = pattern.getOrNull(at) == character.code
        if (there) at += 1
        return there
    }

    private fun unknown() = RunError("this host does not know the regular expression '$expression'")

    private companion object {
        const val SPECIAL = ".()[]{}*?+^$-"
        val CLASSES: Map<String, (Int) -> Boolean> = mapOf("p{L}" to ::isLetter, "p{N}" to ::isNumber, "s" to ::isSpace)
    }
}
