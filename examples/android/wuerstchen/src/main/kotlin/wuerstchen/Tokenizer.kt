package wuerstchen

import java.text.Normalizer
import java.util.Locale

/** Ids and mask are as long as the text encoder takes; [truncated] is the text that was cut off. */
class Encoding(val ids: LongArray, val mask: LongArray, val truncated: String)

/** Prompts to token ids: byte-level BPE by the rules of the manifest, from vocab.json and merges.txt. */
class Tokenizer(private val spec: TokenizerSpec, private val vocab: Map<String, Long>, merges: String) {
    private val ranks = ranksOf(merges)
    private val words = Pattern(spec.words)
    private val replaced = spec.normalization.filter { it.kind == "replace" }.associateWith { Pattern(it.pattern) }
    private val plain = AddedTokens(spec.added.filter { !it.normalized }) { codePoints(it) }
    private val normalized = AddedTokens(spec.added.filter { it.normalized }) { normalize(codePoints(it)) }

    /** Framed, cut to `max_length` and padded. */
    fun encode(prompt: String): Encoding {
        val tokens = tokens(prompt)
        val kept = tokens.take(spec.maxLength - 2)
        val ids = LongArray(spec.maxLength) { spec.padId }
        val mask = LongArray(spec.maxLength)
        (listOf(spec.bosId) + kept + spec.eosId).forEachIndexed { i, id ->
            ids[i] = id
            mask[i] = 1
        }
        return Encoding(ids, mask, decode(tokens.drop(kept.size)))
    }

    /** Ids without frame and padding. */
    fun tokens(text: String): List<Long> = plain.split(codePoints(text)) { part ->
        normalized.split(normalize(part)) { words.matches(it).flatMap(::pieces) }
    }

    private fun normalize(text: CodePoints): CodePoints = spec.normalization.fold(text) { at, rule ->
        when (rule.kind) {
            "nfc" -> codePoints(Normalizer.normalize(textOf(at), Normalizer.Form.NFC))
            "replace" -> replaced.getValue(rule).replaced(at, rule.content)
            // Character by character: of a text, a sigma at a word's end would become a final one.
            "lowercase" -> codePoints(at.joinToString("") { textOf(intArrayOf(it)).lowercase(Locale.ROOT) })
            else -> throw RunError("normalization '${rule.kind}' is not known to this host")
        }
    }

    /** One word's ids: the pair of least rank is merged until none is left. */
    private fun pieces(word: CodePoints): List<Long> {
        val symbols = textOf(word).toByteArray().map { PRINTABLE[it.toInt() and 0xff] }.toMutableList()
        symbols[symbols.size - 1] += spec.endOfWord
        while (true) {
            val at = leastRank(symbols) ?: break
            symbols[at] += symbols.removeAt(at + 1)
        }
        return symbols.map { vocab[it] ?: spec.unknownId }
    }

    private fun leastRank(symbols: List<String>): Int? {
        var found: Int? = null
        var least = Int.MAX_VALUE
        for (i in 0 until symbols.size - 1) {
            val rank = ranks[Pair(symbols[i], symbols[i + 1])] ?: continue
            if (rank < least) {
                found = i
                least = rank
            }
        }
        return found
    }

    /** Ids back to text, near enough to show where a prompt was cut. */
    private fun decode(ids: List<Long>): String {
        if (ids.isEmpty()) return ""
        val wanted = ids.toSet()
        val pieces = vocab.entries.filter { it.value in wanted }.associate { it.value to it.key } +
            spec.added.associate { it.id to it.content }
        val text = ids.joinToString("") { pieces[it] ?: "" }.replace(spec.endOfWord, " ")
        val bytes = text.map { character -> PRINTABLE.indexOf(character.toString()).takeIf { it >= 0 } ?: character.code }
        return String(ByteArray(bytes.size) { bytes[it].toByte() }).trim()
    }
}

/** Added tokens that stand in a text as they are: their ids, in between what [split]'s caller makes of the rest. */
private class AddedTokens(tokens: List<AddedToken>, content: (String) -> CodePoints) {
    private val longestFirst = tokens.map { Pair(content(it.content), it) }
        .filter { it.first.isNotEmpty() }.sortedByDescending { it.first.size }

    fun split(text: CodePoints, rest: (CodePoints) -> List<Long>): List<Long> {
        val ids = ArrayList<Long>()
        var from = 0
        var at = 0
        while (at < text.size) {
            val (content, token) = longestFirst.firstOrNull { startsWith(text, at, it.first) } ?: run {
                at += 1
                null
            } ?: continue
            var end = at + content.size
            if (!token.singleWord || isAlone(text, at, end)) {
                var start = at
                while (token.lstrip && start > from && isSpace(text[start - 1])) start -= 1
                while (token.rstrip && end < text.size && isSpace(text[end])) end += 1
                ids += rest(text.copyOfRange(from, start))
                ids += token.id
                from = end
            }
            at = end
        }
        return ids + rest(text.copyOfRange(from, text.size))
    }

    private fun startsWith(text: CodePoints, at: Int, content: CodePoints) =
        at + content.size <= text.size && content.indices.all { text[at + it] == content[it] }

    private fun isAlone(text: CodePoints, start: Int, end: Int) =
        (start == 0 || !isOfWord(text[start - 1])) && (end == text.size || !isOfWord(text[end]))
}

/** The tokenizer of each text encoder graph. */
fun loadTokenizers(bundle: Bundle): Map<String, Tokenizer> = bundle.manifest.tokenizers.mapValues { (_, spec) ->
    val vocab = bundle.json("${spec.folder}/vocab.json").entries().mapValues { (_, id) -> id.whole() }
    Tokenizer(spec, vocab, bundle.bytes("${spec.folder}/merges.txt").decodeToString())
}

private fun ranksOf(merges: String): Map<Pair<String, String>, Int> = merges.lineSequence()
    .filter { it.isNotEmpty() && !it.startsWith("#version") }
    .mapIndexed { rank, line -> Pair(line.substringBefore(' '), line.substringAfter(' ')) to rank }
    .toMap()

/** GPT-2's table: bytes that print are themselves, the others come after U+00FF in order. */
private val PRINTABLE: List<String> = run {
    var next = 256
    List(256) { byte ->
        val prints = byte in 33..126 || (byte in 161..255 && byte != 173)
        (if (prints) byte else next++).toChar().toString()
    }
}
