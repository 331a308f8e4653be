import Foundation

/// Ids and mask are as long as the text encoder takes; `truncated` is the text that was cut off.
public struct Encoding {
    public let ids: [Int64]
    public let mask: [Int64]
    public let truncated: String
}

private struct Pair: Hashable {
    let first: String
    let second: String
}

/// Prompts to token ids: byte-level BPE by the rules of the manifest, from vocab.json and merges.txt.
public final class Tokenizer {
    private let spec: TokenizerSpec
    private let vocab: [String: Int]
    private let ranks: [Pair: Int]
    private let words: Pattern
    private let steps: [(Scalars) -> Scalars]
    private let plain: AddedTokens
    private let normalized: AddedTokens

    public init(_ spec: TokenizerSpec, _ vocab: [String: Int], _ merges: String) throws {
        self.spec = spec
        self.vocab = vocab
        ranks = ranksOf(merges)
        words = try Pattern(spec.words)
        let steps = try spec.normalization.map(normalizer)
        self.steps = steps
        plain = AddedTokens(spec.added.filter { !$0.normalized }) { $0 }
        normalized = AddedTokens(spec.added.filter(\.normalized)) { text in steps.reduce(text) { $1($0) } }
    }

    /// Framed, cut to `max_length` and padded.
    public func encode(_ prompt: String) -> Encoding {
        let all = tokens(prompt)
        let kept = all.prefix(spec.maxLength - 2)
        let framed = [spec.bosId] + kept + [spec.eosId]
        let filling = spec.maxLength - framed.count
        return Encoding(
            ids: framed.map(Int64.init) + [Int64](repeating: Int64(spec.padId), count: filling),
            mask: [Int64](repeating: 1, count: framed.count) + [Int64](repeating: 0, count: filling),
            truncated: decode(Array(all.dropFirst(kept.count))))
    }

    /// Ids without frame and padding.
    public func tokens(_ text: String) -> [Int] {
        plain.split(scalars(text)) { part in
            normalized.split(steps.reduce(part) { $1($0) }) { words.matches($0).flatMap(pieces) }
        }
    }

    /// One word's ids: the pair of least rank is merged until none is left.
    private func pieces(_ word: Scalars) -> [Int] {
        var symbols = text(of: word).utf8.map { printable[Int($0)] }
        symbols[symbols.count - 1] += spec.endOfWord
        while let at = leastRank(symbols) {
            symbols[at] += symbols.remove(at: at + 1)
        }
        return symbols.map { vocab[$0] ?? spec.unknownId }
    }

    private func leastRank(_ symbols: [String]) -> Int? {
        let ranked = symbols.indices.dropLast().compactMap { i in
            ranks[Pair(first: symbols[i], second: symbols[i + 1])].map { (rank: $0, at: i) }
        }
        return ranked.min { ($0.rank, $0.at) < ($1.rank, $1.at) }?.at
    }

    /// Ids back to text, near enough to show where a prompt was cut.
    private func decode(_ ids: [Int]) -> String {
        guard !ids.isEmpty else { return "" }
        var pieces = Dictionary(vocab.map { ($1, $0) }) { first, _ in first }
        for token in spec.added { pieces[token.id] = token.content }
        let joined = ids.map { pieces[$0] ?? "" }.joined().replacingOccurrences(of: spec.endOfWord, with: " ")
        let bytes = joined.unicodeScalars.map { scalar in
            UInt8(truncatingIfNeeded: printable.firstIndex(of: String(scalar)) ?? Int(scalar.value))
        }
        return String(decoding: bytes, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

private func normalizer(_ rule: Normalization) throws -> (Scalars) -> Scalars {
    switch rule.kind {
    case "nfc":
        return { scalars(text(of: $0).precomposedStringWithCanonicalMapping) }
    case "replace":
        let pattern = try Pattern(rule.pattern)
        return { pattern.replaced($0, scalars(rule.content)) }
    case "lowercase":
        // Character by character: of a text, a sigma at a word's end would become a final one.
        return { $0.flatMap { scalars($0.properties.lowercaseMapping) } }
    default:
        throw HostError.run("normalization '\(rule.kind)' is not known to this host")
    }
}

/// Added tokens that stand in a text as they are: their ids, in between what `split`'s caller makes of the rest.
private struct AddedTokens {
    private let longestFirst: [(content: Scalars, token: AddedToken)]

    init(_ tokens: [AddedToken], _ content: (Scalars) -> Scalars) {
        longestFirst = tokens.map { (content(scalars($0.content)), $0) }
            .filter { !$0.content.isEmpty }.sorted { $0.content.count > $1.content.count }
    }

    func split(_ text: Scalars, _ rest: (Scalars) -> [Int]) -> [Int] {
        var ids: [Int] = []
        var from = 0
        var at = 0
        while at < text.count {
            guard let (content, token) = longestFirst.first(where: { text[at...].starts(with: $0.content) }) else {
                at += 1
                continue
            }
            var end = at + content.count
            if !token.singleWord || isAlone(text, at, end) {
                var start = at
                while token.lstrip, start > from, isSpace(text[start - 1]) { start -= 1 }
                while token.rstrip, end < text.count, isSpace(text[end]) { end += 1 }
                ids += rest(Array(text[from..<start])) + [token.id]
                from = end
            }
            at = end
        }
        return ids + rest(Array(text[from...]))
    }

    private func isAlone(_ text: Scalars, _ start: Int, _ end: Int) -> Bool {
        (start == 0 || !isOfWord(text[start - 1])) && (end == text.count || !isOfWord(text[end]))
    }
}

/// The tokenizer of each text encoder graph.
public func loadTokenizers(_ bundle: ModelBundle) throws -> [String: Tokenizer] {
    try bundle.manifest.tokenizers.mapValues { spec in
        let vocab = try bundle.json("\(spec.folder)/vocab.json").entries().mapValues { try $0.whole() }
        let merges = String(decoding: try bundle.data("\(spec.folder)/merges.txt"), as: UTF8.self)
        return try Tokenizer(spec, vocab, merges)
    }
}

private func ranksOf(_ merges: String) -> [Pair: Int] {
    let lines = merges.split(whereSeparator: \.isNewline).filter { !$0.hasPrefix("#version") }
    let pairs = lines.enumerated().map { rank, line in
        let parts = line.split(separator: " ", maxSplits: 1)
        return (Pair(first: String(parts[0]), second: parts.count > 1 ? String(parts[1]) : ""), rank)
    }
    return Dictionary(pairs) { first, _ in first }
}

/// GPT-2's table: bytes that print are themselves, the others come after U+00FF in order.
private let printable: [String] = {
    var next: UInt32 = 256
    return (UInt32(0)...255).map { byte in
        let prints = (33...126).contains(byte) || ((161...255).contains(byte) && byte != 173)
        if !prints { next += 1 }
        return String(Unicode.Scalar(prints ? byte : next - 1)!)
    }
}()
