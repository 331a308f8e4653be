"""Added tokens and folders of transformers 5: ids equal CLIPTokenizerFast's."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny
import tokenizers_found as found
from tokenizers import AddedToken
from transformers import CLIPTokenizer

from exporter.tokenizer import check_tokenizer, write_tokenizer
from exporter.vocabulary import read_vocabulary
from runtimes.errors import UsageError
from runtimes.tokenizer import PromptTokenizer
from validation.reference import load_tokenizer

STYLE = found.STYLE
FLAGS = {
    "plain": {},
    "special": {"special": True},
    "raw": {"normalized": False},
    "special raw": {"special": True, "normalized": False},
    "left": {"lstrip": True},
    "right": {"rstrip": True},
    "word": {"single_word": True},
    "all": {"single_word": True, "lstrip": True, "rstrip": True, "normalized": False},
}
FOLDERS = {
    **{
        f"listed, {name}": lambda path, flags=flags: found.listed(
            path, found.token(STYLE, **flags), found.token("Zorblax", **flags)
        )
        for name, flags in FLAGS.items()
    },
    "added_tokens.json": lambda path: found.in_added_tokens_json(path, STYLE, "Zorblax"),
    "added_tokens.json, special": lambda path: found.folder(
        path,
        found.OLD_CONFIG,
        special=found.SPECIAL_MAP | {"additional_special_tokens": [STYLE]},
        added={STYLE: 616, "Zorblax": 617},
    ),
    "added_tokens.json, no map": lambda path: found.folder(
        path, found.OLD_CONFIG, added={"Zorblax": 617, STYLE: 616}
    ),
    "no added tokens at all": lambda path: found.folder(path, found.OLD_CONFIG),
    "additional special tokens": lambda path: found.folder(
        path,
        found.CONFIG | {"additional_special_tokens": [STYLE, "<Zorblax>"]},
        special=found.SPECIAL_MAP,
    ),
    "additional, old": lambda path: found.folder(
        path,
        found.OLD_CONFIG | {"additional_special_tokens": [STYLE]},
        special={"additional_special_tokens": [found.token("<Zorblax>", rstrip=True)]},
    ),
    "extra by name": lambda path: found.folder(
        path, found.CONFIG | {"extra_special_tokens": {"style_token": STYLE}}
    ),
    "saved slow": lambda path: found.saved_slow(path, STYLE, "Zorblax"),
    "saved slow, flags": lambda path: found.saved_slow(
        path, AddedToken(STYLE, single_word=True, normalized=False)
    ),
    "saved fast": lambda path: found.saved_fast(path, STYLE, "Zorblax"),
    "fast, config of other flags": lambda path: (
        found.edit(
            found.saved_fast(path, STYLE) / "tokenizer_config.json",
            added_tokens_decoder=found.DECODER
            | {"616": found.token(STYLE, normalized=False), "617": found.token("Zorblax")},
        )
        or path
    ),
    "saved by 5": lambda path: found.saved_by_5(path, STYLE, "Zorblax"),
    "saved by 5, merges as text": lambda path: found.saved_by_5(path, STYLE, strings=True),
    "saved by 5, extra": lambda path: found.saved_by_5(path, extra_special_tokens=[STYLE]),
    "saved by 5, padded with !": lambda path: found.saved_by_5(path, pad_token="!"),
    "saved by 5, used": found.used_then_saved_by_5,
}
PROMPTS = [
    "", STYLE, f"{STYLE} a red circle", f"a red {STYLE} circle", f"a red circle in {STYLE}",
    f"a{STYLE}circle", f"a{STYLE.upper()}b", "<My-Style>, please", f"({STYLE}), \"{STYLE}\"!",
    f"{STYLE}{STYLE}", f"{STYLE} {STYLE}", f"  {STYLE}\n{STYLE}\t", f"é{STYLE}é", f"<{STYLE}>",
    "<my-style", "my-style>", "< my-style >", "zorblax Zorblax ZORBLAX", "azorblaxb zorblax.",
    "<zorblax> and <Zorblax>", "<|endoftext|> <|ENDOFTEXT|> <|StartOfText|>", "!! a ring!",
    f"{STYLE} " * 90, f"{'word ' * 73}{STYLE}{STYLE}",
]  # fmt: skip


def ours(source, path) -> PromptTokenizer:
    return PromptTokenizer(path, write_tokenizer(read_vocabulary(source), path, "t", 77))


def ids_of(tokenizer, prompts):
    return tokenizer(prompts, padding="max_length", max_length=77, truncation=True)["input_ids"]


def drawn_prompts(count: int) -> list[str]:
    """Tokens, parts of tokens, letters and signs in any order."""
    pieces = [
        STYLE,
        STYLE.upper(),
        "Zorblax",
        "zorblax",
        "<zorblax>",
        "<my",
        "-style>",
        " ",
        "\n",
        "a",
        "É",
        "e\u0301",
        "1",
        ",",
        "'s",
        "<|endoftext|>",
        "<|EndOfText|>",
        "!",
        "red ",
    ]
    draw = np.random.default_rng(0)
    picked = draw.integers(len(pieces), size=(count, 12))
    return ["".join(pieces[i] for i in row[: draw.integers(1, 13)]) for row in picked]  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_equal_the_fast_tokenizers(tmp_path, name):
    source = FOLDERS[name](tmp_path / "source")
    reference = load_tokenizer(source)
    tokenizer = ours(source, tmp_path / "t")
    prompts = PROMPTS + drawn_prompts(300)
    encoding, expected = tokenizer(prompts), np.array(ids_of(reference, prompts))
    different = (encoding.input_ids != expected).any(axis=1)
    assert [p for p, bad in zip(prompts, different, strict=True) if bad] == []
    # Loaded from the bundle's folder by transformers, the ids are the same again.
    shutil.copy(source / "tokenizer_config.json", tmp_path / "t")
    again = load_tokenizer(tmp_path / "t")
    assert ids_of(again, prompts) == expected.tolist()


@pytest.mark.parametrize("name", ["listed, plain", "added_tokens.json", "saved slow"])
def test_ids_equal_the_slow_tokenizers_where_it_agrees_with_the_fast(tmp_path, name):
    source = FOLDERS[name](tmp_path / "source")
    slow = CLIPTokenizer.from_pretrained(str(source))
    prompts = [p for p in PROMPTS if p == p.lower() and "zorblax" not in p]  # it heeds case
    found_ids = ours(source, tmp_path / "t")(prompts).input_ids.tolist()
    assert 616 in np.array(found_ids)
    assert found_ids == ids_of(slow, prompts)


@pytest.mark.parametrize("name", FOLDERS)
def test_plain_files_hold_every_token(tmp_path, name):
    """For hosts that read no tokenizer.json, whatever the checkpoint's files were."""
    source = FOLDERS[name](tmp_path / "source")
    ours(source, tmp_path / "t")
    vocab = json.loads((tmp_path / "t/vocab.json").read_text(encoding="utf-8"))
    assert vocab == load_tokenizer(source).get_vocab()
    plain = json.loads((tiny.TOKENIZER / "vocab.json").read_text(encoding="utf-8"))
    path = tmp_path / "t/added_tokens.json"
    added = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    assert added == {token: number for token, number in vocab.items() if token not in plain}
    merges = [file.read_text(encoding="utf-8").split("\n")[1:] for file in
              (tmp_path / "t/merges.txt", tiny.TOKENIZER / "merges.txt")]  # fmt: skip
    assert merges[0] == merges[1]


def test_which_folders_tokenize_alike(tmp_path):
    """Whichever files hold the tokens."""
    plain = read_vocabulary(tiny.TOKENIZER)
    assert read_vocabulary(found.saved_by_5(tmp_path / "a")) == plain
    assert read_vocabulary(found.folder(tmp_path / "b", found.OLD_CONFIG)) == plain
    styled = read_vocabulary(found.saved_slow(tmp_path / "c", STYLE))
    assert styled != plain
    assert read_vocabulary(found.saved_by_5(tmp_path / "d", STYLE)) == styled
    assert read_vocabulary(found.listed(tmp_path / "e", found.token(STYLE, rstrip=True))) != styled


def broken(path, case):
    decoder = {
        "one id": {"616": found.token(STYLE), "0616": found.token("<b>")},
        "two ids": {"616": found.token(STYLE), "617": found.token(STYLE)},
        "in vocab": {"5": found.token(STYLE)},
        "gap": {"700": found.token(STYLE)},
        "other id": {"616": found.token("circle</w>")},
        "no token": {"616": {"content": ""}},
        "flag": {"616": found.token(STYLE) | {"lstrip": 1}},
    }
    if case in decoder:
        config = found.CONFIG | {"added_tokens_decoder": found.DECODER | decoder[case]}
        return found.folder(path, config)
    if case == "added_tokens.json twice":
        return found.folder(path, found.OLD_CONFIG, added={STYLE: 616, "<b>": 616})
    if case == "left out":
        return found.folder(path, found.CONFIG, added={STYLE: 616})
    if case == "split":
        return found.folder(path, found.CONFIG | {"split_special_tokens": True})
    if case == "framed otherwise":
        return found.saved_by_5(path, bos_token="!")
    source = found.saved_fast(path, STYLE) if "beside" in case else found.saved_by_5(path, STYLE)
    file = source / "tokenizer.json"
    if case == "vocab beside":
        vocab = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
        swapped = vocab | {"circle</w>": vocab["red</w>"], "red</w>": vocab["circle</w>"]}
        (source / "vocab.json").write_text(json.dumps(swapped), encoding="utf-8")
    elif case == "merges beside":
        lines = (source / "merges.txt").read_text(encoding="utf-8").split("\n")
        (source / "merges.txt").write_text("\n".join([lines[0], *lines[:0:-1]]), encoding="utf-8")
    elif case == "flags beside":
        decoder = found.DECODER | {"616": found.token(STYLE, single_word=True)}
        found.edit(source / "tokenizer_config.json", added_tokens_decoder=decoder)
    elif case == "suffix":
        found.edit(file, **{"model.end_of_word_suffix": "@@"})
    elif case == "normalizer":
        found.edit(file, normalizer={"type": "NFC"})
    elif case == "words":
        found.edit(file, pre_tokenizer={"type": "Whitespace"})
    elif case == "kind":
        model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
        found.edit(file, model=model, added_tokens=[], post_processor=None)
    elif case == "json":
        file.write_text('{"version": "1.0"}')
    elif case == "unnamed":
        found.edit(source / "tokenizer_config.json", pad_token="<pad>")
    return source


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("one id", "tokens '<my-style>' and '<b>' have one id, 616"),
        ("added_tokens.json twice", "tokens '<my-style>' and '<b>' have one id, 616"),
        ("two ids", "added token '<my-style>' has ids 616 and 617"),
        ("in vocab", r"tokens .* and '<my-style>' have one id, 5"),
        ("gap", "'<my-style>' has id 700, but transformers' fast tokenizer numbers it 616"),
        ("other id", r"'circle</w>' has id 616, but it is \d+ in the vocabulary"),
        ("no token", r"with id 616 is no added token"),
        ("flag", r"with id 616 is no added token"),
        ("flags beside", "added token '<my-style>' has other flags than in tokenizer.json"),
        ("left out", "added_tokens.json gives '<my-style>' id 616, .* have no such token"),
        ("split", "split_special_tokens is not supported"),
        ("framed otherwise", r"frames prompts with ids \[614, 615\], .* are \[0, 615\]"),
        ("vocab beside", r"'circle</w>' is \d+ in tokenizer.json and \d+ in vocab.json"),
        ("merges beside", "tokenizer.json and merges.txt have other merges"),
        ("suffix", "no tokenizer of CLIP's kind: its model has end_of_word_suffix '@@'"),
        ("normalizer", "no tokenizer of CLIP's kind: its normalizer differs"),
        ("words", "no tokenizer of CLIP's kind: its pre_tokenizer differs"),
        ("kind", "no tokenizer of CLIP's kind: its model has type 'WordLevel', CLIP's 'BPE'"),
        ("json", "tokenizers library cannot read it"),
        ("unnamed", "pad_token '<pad>' is not in tokenizer.json"),
    ],
)
def test_vocabularies_that_contradict_themselves_are_refused(tmp_path, case, message):
    with pytest.raises(UsageError, match=message) as error:
        read_vocabulary(broken(tmp_path / "source", case))
    assert "\n" not in str(error.value)


def test_a_token_past_the_embedding_is_named(tmp_path):
    source = found.listed(tmp_path / "source", found.token(STYLE))
    assert check_tokenizer(source, 77, 617).tokens[STYLE] == 616
    message = re.escape("token '<my-style>' has id 616, but the text encoder's embedding has 616")
    with pytest.raises(UsageError, match=message):
        check_tokenizer(source, 77, 616)


@pytest.mark.parametrize(
    ("length", "right"),
    [(77, True), (None, True), (int(1e30), True), (1e30, True), (64, False), ("77", False)],
)
def test_lengths_that_say_nothing_are_the_text_encoders(tmp_path, length, right):
    source = found.saved_by_5(tmp_path / "source", model_max_length=length)
    if right:
        check_tokenizer(source, 77, 616)
    else:
        with pytest.raises(UsageError, match=f"model_max_length {length}"):
            check_tokenizer(source, 77, 616)
