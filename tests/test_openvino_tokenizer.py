"""The OpenVINO tokenizer gives the ids and masks of runtimes.tokenizer."""

import itertools
import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tiny
import tokenizers_found

from exporter.checkpoint.vocabulary import read_vocabulary
from exporter.formats import openvino_tokenizer
from exporter.formats.openvino_tokenizer import check_openvino_tokenizers, write_openvino_tokenizer
from exporter.formats.tokenizer import write_tokenizer
from runtimes.errors import UsageError
from runtimes.tokenizer import PromptTokenizer

ov = pytest.importorskip("openvino")
pytest.importorskip("openvino_tokenizers")

PROMPTS = [
    "", " ", "\n", "a red circle", "A Large RED   circle,\tand\na blue square!",
    "naïve café über Ångström — “quoted” … 1234 ½ ²", "résumé vs re\u0301sume\u0301",
    "🙂🚀 an astronaut 👩‍🚀 riding a horse 🏳️‍🌈", "日本語のテキスト 中文 한국어 العربية עברית हिन्दी",
    "it's they're we've i'll don't 'quoted' a'b IT'S", "#hash @at $5.00 50% C++ foo_bar x=1;y=2",
    "<|startoftext|>inside<|endoftext|> the text <|ENDOFTEXT|> <|end", "a</w>b </w>", "!! a ring!",
    "Straße ΟΔΟΣ Ψυχή ὁ ἄνθρωπος İstanbul \u017f 5 µm K Å ﬁne Ⅷ", "Một con mèo ngồi trên ghế",
    "\u00a0no-break\u3000wide\u200bzero\u180emongolian\x85\x1cseparators", "a\x00b\x01\x7f",
    "word " * 200, "🙂" * 100, "a" * 300, "one two three " * 24 + "four five six",
]  # fmt: skip


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"])
def pair(request, tmp_path_factory):
    """Both tokenizers as functions of prompts; Stable Diffusion 2's CLIP pads with '!'."""
    root = tmp_path_factory.mktemp("openvino-tokenizer")
    source = root / "source"
    source.mkdir()
    for file in tiny.TOKENIZER.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        value = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps(value | {"pad_token": request.param}))
    return made(source, root)


def differing(pair, prompts: list[str]) -> list[str]:
    """The prompts, run as one batch, whose ids or masks differ."""
    found, expected = pair[0]({0: prompts}), pair[1](prompts)
    different = (found["input_ids"] != expected.input_ids).any(axis=1)
    different |= (found["attention_mask"] != expected.attention_mask).any(axis=1)
    return [prompt for prompt, bad in zip(prompts, different, strict=True) if bad]


STYLE = tokenizers_found.STYLE
ADDED = {
    "normalized": lambda path: tokenizers_found.saved_slow(path, STYLE, "Zorblax", "<é ß>", "s?"),
    "raw": lambda path: tokenizers_found.listed(
        path,
        *(tokenizers_found.token(t, normalized=False, rstrip=True) for t in (STYLE, "<Zorblax É>")),
        tokenizers_found.token("\U0001f680"),
    ),
    "saved by 5": lambda path: tokenizers_found.saved_by_5(path, STYLE, "Zorblax"),
}


def made(source, root):
    """The graph and our tokenizer of a folder."""
    spec = write_tokenizer(read_vocabulary(source), root / "t", "t", 77)
    write_openvino_tokenizer(root / "t", spec, root / "t")
    model = ov.Core().compile_model(root / "t/openvino_tokenizer.xml", "CPU")
    return model, PromptTokenizer(root / "t", spec)


@pytest.mark.parametrize(
    "name",
    ["raw", *(pytest.param(name, marks=pytest.mark.slow) for name in ADDED if name != "raw")],
)
def test_added_tokens(tmp_path, name):
    """In the middle of words, of signs and of each other, in capitals, in 5,000 drawn prompts."""
    pieces = [STYLE, STYLE.upper(), "Zorblax", "zorblax", "<zorblax É>", "<Zorblax É>", "<é ß>",
              "<É SS>", "\U0001f680", "s?", "'", "'s", "S", "ll", "?", "(", "<my", "-style>", " ",
              "\n", "a", "é", "1", "<|endoftext|>", "<|EndOfText|>", "!", "red "]  # fmt: skip
    pair = made(ADDED[name](tmp_path / "source"), tmp_path)
    draw = np.random.default_rng(0)
    picked = draw.integers(len(pieces), size=(5000, 12))
    drawn = ["".join(pieces[i] for i in row[: draw.integers(1, 13)]) for row in picked]
    assert differing(pair, drawn) == []
    assert 616 in pair[1](drawn).input_ids


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([tokenizers_found.token(STYLE, single_word=True)], "added token '<my-style>' cannot"),
        ([tokenizers_found.token("zorblax", normalized=False)], "added token 'zorblax' cannot"),
        ([tokenizers_found.token(" x")], "added token ' x' cannot"),
        ([tokenizers_found.token("<A>"), tokenizers_found.token("<a>")], "same in lower case"),
    ],
)
def test_added_tokens_that_a_graph_cannot_have_are_named(tmp_path, tokens, message):
    source = tokenizers_found.listed(tmp_path / "source", *tokens)
    with pytest.raises(UsageError, match=rf"{message}.*: leave out --openvino-tokenizer"):
        made(source, tmp_path)


def characters() -> list[str]:
    """Every character that Python's Unicode tables know; numpy strings drop a last zero."""
    every = map(chr, itertools.chain(range(1, 0xD800), range(0xE000, 0x110000)))
    return [char for char in every if unicodedata.category(char) != "Cn"]


def test_names_types_and_shapes(pair):
    model, _ = pair
    assert [port.any_name for port in model.inputs] == ["prompts"]
    assert [port.any_name for port in model.outputs] == ["input_ids", "attention_mask"]
    found = model({0: ["a red circle", "", "word " * 200]})
    for name in ("input_ids", "attention_mask"):
        assert (found[name].shape, found[name].dtype) == ((3, 77), np.int64)


def test_prompts_in_one_batch(pair):
    assert differing(pair, PROMPTS) == []


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_alone(pair, prompt):
    assert differing(pair, [prompt]) == []


@pytest.mark.parametrize("length", range(73, 80))
def test_lengths_around_the_last_token(pair, length):
    """`length` tokens with start and end."""
    assert differing(pair, ["a " * (length - 2), "a " * (length - 3) + "straße"]) == []


@pytest.mark.slow
def test_every_character(pair):
    """Lower case, white space, letters, digits and signs of all of Unicode."""
    assert differing(pair, characters()) == []


def test_every_composed_character_in_parts(pair):
    """Accents and Hangul as macOS decomposes them in file names."""
    parts = [unicodedata.normalize("NFD", char) for char in characters()]
    assert differing(pair, [f"a {text} b" for text in parts if len(text) > 1]) == []


@pytest.mark.parametrize("alphabet", ["text", "special", "any"])
def test_drawn_prompts(pair, alphabet):
    """5,000 prompts of letters with accents, of special tokens and pieces, of all characters."""
    pieces = {
        "text": [*"aeiouAEIOUnsçßéüêơưΣς '!?.,-019\u0301\u0300\u0303\u0309\u0323\u0302\u031b"],
        "special": ["<|startoftext|>", "<|endoftext|>", "<|", "|>", " ", "a", "it's", "</w>", "!",
                    "\n", "'S", "'ll", "#1", "!!"],
        "any": [char for char in characters() if ord(char) < 0x20000],
    }[alphabet]  # fmt: skip
    draw = np.random.default_rng(0)
    picked = draw.integers(len(pieces), size=(5000, 40))
    drawn = ["".join(pieces[i] for i in row[: draw.integers(1, 41)]) for row in picked]
    assert differing(pair, [unicodedata.normalize("NFC", prompt) for prompt in drawn]) == []


def test_the_known_limits(pair):
    """A charsmap replaces the longest text it lists: it cannot put stacked marks in order.

    So a letter with marks that make no single character, not given in NFC, may differ; and
    letters of Unicode 17, which tokenizers does not take for letters yet.
    """
    limits = ["e\u0301\u0323", "a\u0344", "a\ua7ceb"]
    assert differing(pair, limits) == limits
    assert differing(pair, [unicodedata.normalize("NFC", text) for text in limits[:2]]) == []


@pytest.mark.slow
def test_files_are_the_same_each_time(tmp_path):
    spec = write_tokenizer(read_vocabulary(tiny.TOKENIZER), tmp_path / "t", "t", 77)
    for name in ("first", "second"):
        write_openvino_tokenizer(tmp_path / "t", spec, tmp_path / name)
    for file in ("openvino_tokenizer.xml", "openvino_tokenizer.bin"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_a_vocabulary_without_every_byte_is_refused(tmp_path):
    spec = write_tokenizer(read_vocabulary(tiny.TOKENIZER), tmp_path / "t", "t", 77)
    path = tmp_path / "t/tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["model"]["vocab"]["unused"] = value["model"]["vocab"].pop("Ń</w>")
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(UsageError, match=r"byte 'Ń' is no token.*: leave out --openvino-tokenizer"):
        write_openvino_tokenizer(tmp_path / "t", spec, tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("missing", ["openvino", "openvino_tokenizers"])
def test_a_missing_package_is_named(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=rf"{missing} is not installed: pip install .*\[openvino"):
        check_openvino_tokenizers()


def test_other_versions_are_named(monkeypatch):
    import openvino_tokenizers

    monkeypatch.setattr(openvino_tokenizers, "is_openvino_tokenizers_compatible", False)
    with pytest.raises(UsageError, match="does not load in OpenVINO"):
        check_openvino_tokenizers()
    monkeypatch.setattr(openvino_tokenizers, "__version__", "2026.3.1.0-1")
    with pytest.raises(UsageError, match=r"2026\.3\.1\.0-1 is older than 2026\.4"):
        check_openvino_tokenizers()


def test_transformers_is_not_needed(tmp_path):
    """openvino_tokenizers' own conversion needs it."""
    spec = write_tokenizer(read_vocabulary(tiny.TOKENIZER), tmp_path / "t", "t", 77)
    script = (
        "import sys; sys.modules['transformers'] = sys.modules['torch'] = None\n"
        "from pathlib import Path; from runtimes.bundle.manifest import Tokenizer\n"
        f"from {openvino_tokenizer.__name__} import write_openvino_tokenizer\n"
        f"write_openvino_tokenizer(Path('t'), {spec}, Path('o'))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert (tmp_path / "o/openvino_tokenizer.bin").is_file()
