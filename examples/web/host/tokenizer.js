/** Prompts to token ids: byte-level BPE by the rules of the manifest, from vocab.json and merges.txt. */

/** @typedef {{inputIds: number[], mask: number[], truncated: string}} Encoding */

const LONGEST_FIRST = (first, second) => second.content.length - first.content.length;
const escaped = (text) => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
// JavaScript's own \s has U+FEFF and lacks U+0085, which is not Unicode's class.
const pattern = (text) => new RegExp(text.replaceAll("\\s", "\\p{White_Space}"), "gu");

export class Tokenizer {
  /** @param spec the manifest's of one text encoder @param vocab piece to id @param {string} merges */
  constructor(spec, vocab, merges) {
    this.spec = spec;
    this.rules = spec.rules;
    this.vocab = new Map(Object.entries(vocab));
    this.ranks = ranksOf(merges);
    this.words = pattern(this.rules.words);
    this.bytes = printableBytes();
    this.cache = new Map();
    const added = this.rules.added;
    this.plain = finder(added.filter((token) => !token.normalized));
    this.normalized = finder(
      added
        .filter((token) => token.normalized)
        .map((token) => ({ ...token, content: this.normalize(token.content) })),
    );
  }

  /** Framed, cut to `max_length` and padded; `truncated` is the text that was cut off. @returns {Encoding} */
  encode(prompt) {
    const { max_length: length, pad_id: padding } = this.spec;
    const tokens = this.tokens(prompt);
    const room = length - this.rules.frame.filter((part) => part !== "tokens").length;
    const parts = { bos: [this.spec.bos_id], tokens: tokens.slice(0, room), eos: [this.spec.eos_id] };
    const inputIds = this.rules.frame.flatMap((part) => parts[part]);
    const mask = this.rules.frame.flatMap((part) =>
      parts[part].map(() => Number(this.rules.mask.includes(part))),
    );
    const rest = length - inputIds.length;
    return {
      inputIds: [...inputIds, ...new Array(rest).fill(padding)],
      mask: [...mask, ...new Array(rest).fill(Number(this.rules.mask.includes("padding")))],
      truncated: this.decode(tokens.slice(room)),
    };
  }

  /** Ids without frame and padding. */
  tokens(text) {
    return this.plain(text).flatMap((part) =>
      typeof part === "number" ? part : this.normalizedTokens(part),
    );
  }

  normalizedTokens(text) {
    const parts = this.normalized(this.normalize(text));
    return parts.flatMap((part) => (typeof part === "number" ? part : this.wordTokens(part)));
  }

  normalize(text) {
    for (const { kind, pattern: replaced, content } of this.rules.normalization) {
      if (kind === "nfc") text = text.normalize("NFC");
      else if (kind === "replace") text = text.replace(pattern(replaced), () => content);
      // Character by character: toLowerCase of a text makes a sigma at a word's end a final one.
      else if (kind === "lowercase") text = Array.from(text, (character) => character.toLowerCase()).join("");
      else throw new Error(`normalization '${kind}' is not known`);
    }
    return text;
  }

  wordTokens(text) {
    return (text.match(this.words) ?? []).flatMap((word) => {
      if (!this.cache.has(word)) this.cache.set(word, this.pieces(word));
      return this.cache.get(word);
    });
  }

  /** One word's ids: the pair of least rank is merged until none is left. */
  pieces(word) {
    const symbols = Array.from(new TextEncoder().encode(word), (byte) => this.bytes[byte]);
    symbols[symbols.length - 1] += this.rules.end_of_word;
    for (;;) {
      const at = this.leastRank(symbols);
      if (at < 0) break;
      symbols.splice(at, 2, symbols[at] + symbols[at + 1]);
    }
    return symbols.map((symbol) => this.vocab.get(symbol) ?? this.rules.unknown_id);
  }

  leastRank(symbols) {
    let [at, least] = [-1, Infinity];
    for (let i = 0; i + 1 < symbols.length; i += 1) {
      const rank = this.ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Infinity;
      if (rank < least) [at, least] = [i, rank];
    }
    return at;
  }

  /** Ids back to text, near enough to show where a prompt was cut. */
  decode(ids) {
    const pieces = new Map([...this.vocab].map(([piece, id]) => [id, piece]));
    for (const { id, content } of this.rules.added) pieces.set(id, content);
    const text = ids
      .map((id) => pieces.get(id) ?? "")
      .join("")
      .replaceAll(this.rules.end_of_word, " ");
    const byteOf = new Map(this.bytes.map((character, byte) => [character, byte]));
    const bytes = Array.from(text, (character) => byteOf.get(character) ?? character.codePointAt(0));
    return new TextDecoder().decode(Uint8Array.from(bytes)).trim();
  }
}

/** The tokenizer of each text encoder graph. @param {import("./manifest.js").Bundle} bundle */
export async function loadTokenizers(bundle) {
  const tokenizers = new Map();
  for (const [graph, spec] of Object.entries(bundle.manifest.tokenizers)) {
    const vocab = await bundle.readJson(`${spec.folder}/vocab.json`);
    const merges = new TextDecoder().decode(await bundle.read(`${spec.folder}/merges.txt`));
    tokenizers.set(graph, new Tokenizer(spec, vocab, merges));
  }
  return tokenizers;
}

function ranksOf(merges) {
  const lines = merges.split("\n").map((line) => line.replace(/\r$/, ""));
  const pairs = lines.filter((line) => line !== "" && !line.startsWith("#version"));
  return new Map(pairs.map((pair, rank) => [pair, rank]));
}

/** GPT-2's table: bytes that print are themselves, the others come after U+00FF in order. */
function printableBytes() {
  const prints = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    if (prints(byte)) return String.fromCodePoint(byte);
    next += 1;
    return String.fromCodePoint(next - 1);
  });
}

/** A function that parts a text into what lies between added tokens, and their ids. */
function finder(tokens) {
  if (tokens.length === 0) return (text) => [text];
  const sorted = [...tokens].sort(LONGEST_FIRST);
  const ids = new Map(sorted.map((token) => [token.content, token.id]));
  const all = new RegExp(sorted.map(expression).join("|"), "gu");
  return (text) => {
    const parts = [];
    let from = 0;
    for (const match of text.matchAll(all)) {
      parts.push(text.slice(from, match.index), ids.get(match.slice(1).find((found) => found !== undefined)));
      from = match.index + match[0].length;
    }
    return [...parts, text.slice(from)].filter((part) => part !== "");
  };
}

/** A token as an expression: `lstrip` and `rstrip` take the blanks beside it, `single_word` wants no letter there. */
function expression({ content, lstrip, rstrip, single_word: alone }) {
  const [before, after] = alone ? ["(?<![\\p{L}\\p{N}_])", "(?![\\p{L}\\p{N}_])"] : ["", ""];
  const blanks = (taken) => (taken ? "\\p{White_Space}*" : "");
  return `${blanks(lstrip)}${before}(${escaped(content)})${after}${blanks(rstrip)}`;
}
