"""Prompts that tokenizers disagree about, and their ids: `golden/tokens.json`."""

import json
from collections.abc import Mapping
from pathlib import Path

from runtimes.bundle.manifest import TOKENS_FILE
from runtimes.bundle.readme import PROMPT
from runtimes.tokenizer import PromptTokenizer

# Each for a rule that a host may have missed. Escapes where an editor could change the text.
HARD_PROMPTS = (
    "",
    " ",
    PROMPT,
    "a photo of a CAT, Sitting On a Mat!",
    "  two  spaces,\ttabs\r\nand\n\nlines  ",
    "no-break\u00a0space, ideographic\u3000space, line\u2028separator, next\u0085line",
    "zero\u200bwidth\u200dspaces and a soft\u00adhyphen",
    "it's we're they've I'm you'll he'd can't IT'S WE'RE",
    "typographic \u2018quotes\u2019 \u201chere\u201d, don\u2019t",
    "1234567890 3.14 1,000 2nd 4x4 #1",
    "\u00bd \u00b2 \u2168 \u0663 \u096a \U0001d7d8",  # numbers that are no ASCII digits
    "!!! ... ?! -- #@$%^&*()_+={}[]|\\:;<>,/~`",
    "snake_case kebab-case CamelCase path/to/file.png",
    "<|startoftext|> in the middle <|endoftext|> of it",
    "<|ENDOFTEXT|> in capitals, and <|StartOfText|>",
    "<|endoftext|><|endoftext|>glued<|endoftext|>",
    "< |endoftext| > is none",
    "\u039f\u0394\u039f\u03a3 \u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3",  # final sigmas
    "\u0130stanbul I\u0307 \u0131",  # a dotted capital I lower-cases to two characters
    "STRASSE Stra\u00dfe STRA\u1e9eE",
    "\u01c4 \u01c5 \u1f88 \ufb01ne",  # digraphs, title case, a ligature
    "caf\u00e9 cafe\u0301",  # composed and not: NFC makes them one
    "a\u0323\u0307 a\u0307\u0323 q\u0307\u0323",  # stacked marks in two orders
    "Z\u0351\u036b\u0343a\u030a\u0327\u0310lgo\u0321\u0322\u0334",
    "\u212b \u2126 \u212a \uf900",  # singletons that NFC replaces; one that is private
    "\u1112\u1161\u11ab\uae00 \ud55c\uae00",  # Hangul in jamo and in syllables
    "\u304b\u3099 \u30cf\u309a \u6771\u4eac\u306e\u591c",
    "\u4e00\u53ea\u732b\uff0c\u5750\u5728\u57ab\u5b50\u4e0a\u3002",
    "\uff21\uff22\uff23 \uff11\uff12\uff13",  # full width: NFC leaves it
    "\u043a\u043e\u0448\u043a\u0430 \u041d\u0410 \u041a\u041e\u0412\u0420\u0415",
    "\u0642\u0637\u0629 \u05d7\u05ea\u05d5\u05dc \u0e41\u0e21\u0e27",
    "\u0939\u093f\u0928\u094d\u0926\u0940",  # letters with marks, which are no letters
    "\U0001f600\U0001f680\U0001f3a8",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea",
    "\u2764\ufe0f \u2764 1\ufe0f\u20e3",
    "\U0001d400\U0001d401 \U00010400\U00010428 \U0001e900",  # letters beyond the first plane
    "\ua7cb\ua7da \U00010d50\U00010d70 \u1c89",  # letters that are new in Unicode 16
    "\u0378 \U0001f8ff \ue000 \U000e0001",  # unassigned, private, a tag
    "\ufeffa byte-order mark and a \ufffd replacement",
    "nul\u0000bell\u0007escape\u001bdelete\u007f",
    "x" * 300,
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    " ".join(f"word{number}" for number in range(200)),
    " ".join(["a large red circle"] * 25),
)


def record_tokens(tokenizers: Mapping[str, PromptTokenizer], folder: Path) -> None:
    """Write the ids that each text encoder is to get for each prompt.

    A list of {"prompt", "input_ids": {text encoder: all `max_length` ids}, "length": {text encoder:
    how many of them the attention mask has 1 for}}.
    """
    encodings = {name: make(list(HARD_PROMPTS)) for name, make in tokenizers.items()}
    entries = [
        {
            "prompt": prompt,
            "input_ids": {name: e.input_ids[row].tolist() for name, e in encodings.items()},
            "length": {name: int(e.attention_mask[row].sum()) for name, e in encodings.items()},
        }
        for row, prompt in enumerate(HARD_PROMPTS)
    ]
    path = folder / TOKENS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    # ASCII, a prompt a line: what no editor and no reader of JSON can change or misread.
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8", newline="\n")
