"""A bundle's tokenizer as an OpenVINO model: prompts in, token ids and attention mask out.

For hosts without Python: they read it with openvino_tokenizers' library and need no tokenizer of
their own. openvino_tokenizers' own conversion differs from CLIP's tokenizer in three places, which
are built here instead: lower case, composed accents, and added tokens inside a prompt, which are
looked for before the text is normalized or after it, as each one's flag says.

The ids are exact for text in NFC, and for every single character in parts. They may differ where
several marks on one letter make no single character and do not come in NFC, and next to letters
of Unicode 17, which `tokenizers` does not know yet and takes for signs.
"""

import itertools
import re
import struct
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from exporter.checkpoint.reading import read_json
from exporter.formats.clip_bpe import normalizer
from runtimes.bundle.manifest import Tokenizer
from runtimes.console import imported
from runtimes.errors import UsageError

FILE_NAME = "openvino_tokenizer.xml"
OLDEST = (2026, 4)  # the first whose pipeline steps take these arguments
_Trie = dict[int, Any]
_LEAF = 0  # the label of a trie node's value; no key has this byte


def write_openvino_tokenizer(folder: Path, spec: Tokenizer, output: Path) -> None:
    """Write the tokenizer in `folder` as `output`/openvino_tokenizer.xml and .bin.

    The model takes strings (B) and gives `input_ids` and `attention_mask` i64 (B,T) as
    runtimes.tokenizer does. Raises UsageError where openvino_tokenizers is not usable.
    """
    check_openvino_tokenizers()
    import openvino

    model = _model(folder, spec)
    output.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, output / FILE_NAME, compress_to_fp16=False)


def check_openvino_tokenizers() -> None:
    """UsageError where openvino_tokenizers is missing, too old, or of another OpenVINO."""
    openvino = imported("openvino", "openvino")
    openvino_tokenizers = imported("openvino_tokenizers", "openvino")
    version = openvino_tokenizers.__version__
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise UsageError(
            f"openvino_tokenizers {version} is older than {OLDEST[0]}.{OLDEST[1]}: "
            "pip install -U openvino openvino-tokenizers"
        )
    if not openvino_tokenizers.is_openvino_tokenizers_compatible:
        raise UsageError(
            f"openvino_tokenizers {version} does not load in OpenVINO {openvino.__version__}: "
            "install the same version of both"
        )


def _model(folder: Path, spec: Tokenizer) -> Any:
    from openvino import Type
    from openvino_tokenizers.utils import change_outputs_type

    model = _pipeline(folder, spec).get_tokenizer_ov_subgraph()
    [segments] = [r for r in model.get_results() if "token_type_ids" in r.output(0).get_names()]
    model.remove_result(segments)
    model = change_outputs_type(model, Type.i64)
    for number, node in enumerate(model.get_ordered_ops()):  # else names count up in a process
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
    model.input(0).tensor.set_names({"prompts"})
    return model


def _pipeline(folder: Path, spec: Tokenizer) -> Any:
    from openvino_tokenizers import tokenizer_pipeline as steps

    source = read_json(folder / "tokenizer.json")
    check_openvino_tokens(source, folder)
    raw, normalized = _contents(source)
    expansions = [
        steps.RegexNormalizationStep(step["pattern"]["Regex"], step["content"])
        for step in _expansions(source)
    ]
    pipeline = steps.TokenizerPipeline()
    pipeline.add_steps(
        [
            _raw_tokens_split(raw),
            steps.CharsmapStep(_charsmap(_changes(normalizer())), remove_extra_whitespaces=False),
            *expansions,
            steps.RegexSplitStep(_words_and(normalized), invert=True, behaviour="remove"),
            steps.BytesToCharsStep(),
            steps.BPETokenizationStep.from_hf_json(_with_suffix(source, raw | normalized)),
            steps.TruncationStep(spec.max_length - 2, truncation=True),
            steps.CombineSegmentsStep(
                [
                    steps.AddToken(_token_id=spec.bos_id),
                    steps.Sequence(),
                    steps.AddToken(_token_id=spec.eos_id),
                ]
            ),
            steps.PaddingStep(
                _token_id=spec.pad_id, max_length=spec.max_length, pad_to_max_length=True
            ),
        ]
    )
    return pipeline


def _raw_tokens_split(tokens: Collection[str]) -> Any:
    """Splits text as it is written, at no place if there are no tokens; later steps need it."""
    from openvino_tokenizers import tokenizer_pipeline as steps
    from openvino_tokenizers.utils import create_string_constant_node

    class Split(steps.SpecialTokensSplit):  # type: ignore[misc]
        def get_ov_subgraph(self, input_nodes: list[Any]) -> list[Any]:
            pattern = "|".join(map(re.escape, sorted(tokens, reverse=True))) or "(?!)"
            nodes = [*input_nodes, *create_string_constant_node(f"({pattern})")]
            outputs: list[Any] = steps._get_factory().create("SpecialTokensSplit", nodes).outputs()
            return outputs

    return Split()


def check_openvino_tokens(source: dict[str, Any], folder: Path) -> None:
    """UsageError for a tokenizer.json, as an object, whose ids OpenVINO's would not all give."""
    model = source["model"]
    suffix, vocab = model["end_of_word_suffix"], model["vocab"]
    wrong = "OpenVINO's tokenizer would give other ids: leave out --openvino-tokenizer"
    for byte in ByteLevel.alphabet():
        if byte not in vocab or byte + suffix not in vocab:
            raise UsageError(
                f"{folder}/vocab.json: byte {byte!r} is no token, alone and as a word's end; "
                f"{wrong}"
            )
    ids = sorted({*vocab.values(), *(token["id"] for token in source["added_tokens"])})
    if ids != list(range(len(ids))):
        raise UsageError(f"{folder}: no token has id {_first_gap(ids)}; {wrong}")
    raw, normalized = _contents(source)
    if len(raw) + len(normalized) < len(source["added_tokens"]):
        raise UsageError(f"{folder}: two added tokens are the same in lower case; {wrong}")
    for token in source["added_tokens"]:
        content = token["content"]
        if token["single_word"] or content != content.strip() or _is_misread(token):
            raise UsageError(f"{folder}: added token {content!r} cannot be a graph's; {wrong}")
    for step in _expansions(source):
        if set(step["content"]) & set("$\\"):
            raise UsageError(f"{folder}: '$' and '\\' in {step['content']!r}; {wrong}")


def _first_gap(ids: list[int]) -> int:
    return next(i for i, number in enumerate(ids) if i != number)


def _is_misread(token: dict[str, Any]) -> bool:
    """Whether a token that is looked for as it is written is a word of other texts too."""
    words = re.findall(r"[^\W\d_]+|\d|(?:[^\w\s]|_)+", token["content"])
    if token["normalized"] or words != [token["content"]]:
        return False
    changed = "".join(_changes(normalizer()).values())
    return all(character in changed for character in token["content"])


def _contents(source: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Added tokens by what is looked for, before the text is normalized and after it."""
    raw, normalized = {}, {}
    for token in source["added_tokens"]:
        if token["normalized"]:
            normalized[normalizer().normalize_str(token["content"])] = token["id"]
        else:
            raw[token["content"]] = token["id"]
    return raw, normalized


def _expansions(source: dict[str, Any]) -> list[dict[str, Any]]:
    """The normalizer's steps after CLIP's own three."""
    steps: list[dict[str, Any]] = source["normalizer"]["normalizers"]
    return steps[3:]


def _words_and(tokens: Collection[str]) -> str:
    """CLIP's words, and tokens before them: no word goes on where a token begins."""
    longest_first = "|".join(map(re.escape, sorted(tokens, reverse=True)))
    go = f"(?!{longest_first})"
    endings = [["s"], ["t"], ["r", "e"], ["v", "e"], ["m"], ["l", "l"], ["d"]]
    contractions = ["'" + "".join(go + letter for letter in ending) for ending in endings]
    # The normalizer leaves no white space but ' '; the engines' \s differ (U+180E).
    runs = [rf"(?:{go}\p{{L}})+", r"\p{N}", rf"(?:{go}[^ \p{{L}}\p{{N}}])+"]
    return "|".join([longest_first, *contractions, *runs])


def _with_suffix(source: dict[str, Any], added: dict[str, int]) -> dict[str, Any]:
    """tokenizer.json with the end-of-word mark at its added tokens.

    OpenVINO's BPE adds the mark to every piece of text, added tokens too, and would take the
    mark after them for letters. What was named so before gets the plain name, or one that no
    text has: its piece is always an added token ('!' of Stable Diffusion 2's padding).
    """
    model = source["model"]
    suffix, vocab = model["end_of_word_suffix"], dict(model["vocab"])
    for token in source["added_tokens"]:
        vocab.pop(token["content"], None)
    level = ByteLevel(add_prefix_space=False, use_regex=False)
    for token, number in added.items():
        name = "".join(text for text, _ in level.pre_tokenize_str(token))
        marked = vocab.pop(name + suffix, None)
        vocab[name + suffix] = number
        if marked is not None:
            vocab[name if name not in vocab else f"{name}{suffix}{suffix}"] = marked
    return {"model": model | {"vocab": vocab}, "added_tokens": []}


def _changes(normalizer: Any) -> dict[str, str]:
    """Each character, and spelling of a composed character, that the normalizer changes."""
    # Not the surrogates; above plane 2 no character has case or parts.
    characters = [chr(c) for c in itertools.chain(range(1, 0xD800), range(0xE000, 0x30000))]
    spellings = itertools.chain(characters, *map(_spellings, characters))
    pairs = ((text, normalizer.normalize_str(text)) for text in spellings)
    return {text: changed for text, changed in pairs if text != changed}


def _spellings(character: str) -> Iterator[str]:
    """A composed character's canonical equivalents: its marks in any order, composed in part."""
    decomposed = unicodedata.normalize("NFD", character)
    if decomposed == character:
        return
    composed = unicodedata.normalize("NFC", character)
    for marks in dict.fromkeys(itertools.permutations(decomposed[1:])):
        text = decomposed[0] + "".join(marks)
        if unicodedata.normalize("NFC", text) == composed:
            for end in range(1, len(text)):
                yield unicodedata.normalize("NFC", text[:end]) + text[end:]


def _charsmap(changes: dict[str, str]) -> bytes:
    """SentencePiece's precompiled charsmap: the longest key at each place is replaced.

    The size of a trie, the trie as a double array, and the values, each ended by a zero byte.
    """
    trie: _Trie = {}
    values: dict[bytes, int] = {}
    size = 0
    for key, changed in changes.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        value = changed.encode() + b"\0"
        if value not in values:
            values[value], size = size, size + len(value)
        node[_LEAF] = values[value]
    array = _double_array(trie)
    return struct.pack("<I", len(array)) + array + b"".join(values)


def _double_array(trie: _Trie) -> bytes:
    """The trie in the format of darts-clone (Yata's double array with XOR offsets).

    A node at p has the byte that leads to it, p ^ base shifted by 10, and bit 8 where it has a
    value; its child of byte b is at base ^ b, its value, with bit 31, at base. No two nodes
    share a base.
    """
    units, bases, first_free = {0: 0}, set(), dict[int, int]()
    nodes = [(0, trie)]
    for position, node in nodes:  # grows as it is read
        labels = list(node)
        # Nodes with as many children are as hard to place: go on where the last one went.
        for free in itertools.count(first_free.get(len(labels), 1)):
            base = free ^ labels[0]
            if base not in bases and units.keys().isdisjoint(base ^ label for label in labels):
                break
        first_free[len(labels)] = free
        bases.add(base)
        units[position] |= (position ^ base) << 10 | (_LEAF in node) << 8
        for label, child in node.items():
            units[base ^ label] = child | 1 << 31 if label == _LEAF else label
            if label != _LEAF:
                nodes.append((base ^ label, child))
    # Bit 31 keeps bytes, zero too, from matching a free place; readers want whole kilobytes.
    array = np.full(-(-(max(units) + 1) // 256) * 256, 1 << 31, "<u4")
    array[list(units)] = list(units.values())
    return array.tobytes()
