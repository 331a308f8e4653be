"""Added tokens and folders of transformers 5: ids equal CLIPTokenizerFast's."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny
import tokenizers_found as found
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import CLIPTokenizer

from exporter.checkpoint.configs import TextConfig, parse_config
from exporter.checkpoint.find import find_pair
from exporter.checkpoint.open import open_checkpoint
from exporter.checkpoint.reading import read_json
from exporter.checkpoint.shapes import text_shapes
from exporter.checkpoint.vocabulary import read_vocabulary
from exporter.checkpoint.weights import Weights
from exporter.cli import main as export_main
from exporter.formats.tokenizer import check_tokenizer, write_tokenizer
from exporter.graphs import plan_graphs
from runtimes.errors import UsageError
from runtimes.tokenizer import PromptTokenizer
from runtimes.tolerances import LIMITS
from validation.cli import main as validation_main
from validation.parity.metrics import difference
from validation.parity.reference import load_text_encoder, load_tokenizer

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
    return ["".join(pieces[i] for i in row[: draw.integers(1, 13)]) for row in picked]


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


LISTED = {
    "one id": {"616": found.token(STYLE), "0616": found.token("<b>")},
    "two ids": {"616": found.token(STYLE), "617": found.token(STYLE)},
    "in vocab": {"5": found.token(STYLE)},
    "gap": {"700": found.token(STYLE)},
    "other id": {"616": found.token("circle</w>")},
    "no token": {"616": {"content": ""}},
    "flag": {"616": found.token(STYLE) | {"lstrip": 1}},
}
WORD_LEVEL = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
# Changes to tokenizer.json.
SERIALIZED = {
    "suffix": {"model.end_of_word_suffix": "@@"},
    "normalizer": {"normalizer": {"type": "NFC"}},
    "words": {"pre_tokenizer": {"type": "Whitespace"}},
    "kind": {"model": WORD_LEVEL, "added_tokens": [], "post_processor": None},
    "json": {"model": None},
}


def swapped(source):
    vocab = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    vocab |= {"circle</w>": vocab["red</w>"], "red</w>": vocab["circle</w>"]}
    (source / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")


def reversed_merges(source):
    lines = (source / "merges.txt").read_text(encoding="utf-8").split("\n")
    (source / "merges.txt").write_text("\n".join([lines[0], *lines[:0:-1]]), encoding="utf-8")


def other_flags(source):
    decoder = found.DECODER | {"616": found.token(STYLE, single_word=True)}
    found.edit(source / "tokenizer_config.json", added_tokens_decoder=decoder)


# Files that contradict tokenizer.json.
BESIDE = {
    "vocab beside": swapped,
    "merges beside": reversed_merges,
    "flags beside": other_flags,
}
OTHERS = {
    "added_tokens.json twice": lambda path: found.folder(
        path, found.OLD_CONFIG, added={STYLE: 616, "<b>": 616}
    ),
    "left out": lambda path: found.folder(path, found.CONFIG, added={STYLE: 616}),
    "split": lambda path: found.folder(path, found.CONFIG | {"split_special_tokens": True}),
    "framed otherwise": lambda path: found.saved_by_5(path, bos_token="!"),
    "unnamed": lambda path: found.saved_by_5(path, pad_token="<pad>"),
}


def broken(path, case):
    if case in LISTED:
        decoder = found.DECODER | LISTED[case]
        return found.folder(path, found.CONFIG | {"added_tokens_decoder": decoder})
    if case in SERIALIZED:
        found.edit(found.saved_by_5(path, STYLE) / "tokenizer.json", **SERIALIZED[case])
        return path
    if case in BESIDE:
        BESIDE[case](found.saved_fast(path, STYLE))
        return path
    return OTHERS[case](path)


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
        ("json", "its model has type None, CLIP's 'BPE'"),
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


@pytest.fixture(scope="module")
def saved_by_5(tmp_path_factory):
    """A checkpoint of transformers 5: no vocab.json, no 'text_model.', with an added token."""
    root = tmp_path_factory.mktemp("saved-by-5")
    made = tiny.reference("one_level")
    for encoder in (made.text_encoder, made.decoder_text_encoder):
        encoder.resize_token_embeddings(617, mean_resizing=False)
        encoder.get_input_embeddings().weight[616] = torch.linspace(-1, 1, 32)
    tokenizer = found.saved_by_5(root / "tokenizer", STYLE, extra_special_tokens=[STYLE])
    pair = tiny.save(made, root / "checkpoint", tokenizer=tokenizer)
    for folder in pair:
        found.without_prefix(folder / "text_encoder")
    return made, pair


def test_text_encoders_without_prefix(saved_by_5):
    """transformers 4 would fill all weights at random, with a warning."""
    made, pair = saved_by_5
    checkpoint = open_checkpoint(*find_pair(*map(str, pair)), None)
    ids = torch.arange(540, 617).view(1, 77)
    mask = torch.ones_like(ids)
    expected = made.text_encoder(ids, attention_mask=mask).last_hidden_state
    plan = plan_graphs(checkpoint, "nchw", text=True)[0]
    with plan.module() as module:
        result = difference(module(ids, mask).numpy(), expected.numpy())
    assert result.relative < LIMITS["fp32"].graph_error / 10
    loaded = load_text_encoder(checkpoint.text_encoder)
    assert torch.equal(loaded(ids, attention_mask=mask).last_hidden_state, expected)


@pytest.mark.parametrize("name", ["encoder.layers.0.mlp.fc1.bias", "text_model.other"])
def test_half_a_prefix_is_refused(saved_by_5, tmp_path, name):
    """All weights are named one way or the other; each of them is there, and nothing else."""
    folder = tmp_path / "text_encoder"
    shutil.copytree(saved_by_5[1][0] / "text_encoder", folder)
    weights = load_file(folder / "model.safetensors")
    weights["other"] = weights.pop("encoder.layers.0.mlp.fc1.bias")
    if name.startswith("text_model."):
        weights[name] = torch.ones(1)
    save_file(weights, folder / "model.safetensors")
    config = parse_config(TextConfig, read_json(folder / "config.json"), str(folder))
    with pytest.raises(UsageError, match=r"weight '.*' is missing"):
        Weights((folder / "model.safetensors",), text_shapes(config), set())


@pytest.mark.slow
def test_a_checkpoint_saved_by_5_is_exported_and_compared_with(saved_by_5, tmp_path, capsys):
    """One text encoder for both stages, the added token in the prompt."""
    decoder, prior = map(str, saved_by_5[1])
    bundle = str(tmp_path / "b")
    assert export_main([bundle, "-m", decoder, "--prior", prior, "--no-golden", "--quiet"]) == 0
    vocab = json.loads((tmp_path / "b/tokenizer/vocab.json").read_text(encoding="utf-8"))
    assert vocab[STYLE] == 616
    words = ["--reference", decoder, "--prior", prior, "--steps", "3", "--decoder-steps", "2"]
    assert validation_main([bundle, *words, "--prompt", f"a {STYLE} circle"]) == 0
    out = capsys.readouterr().out
    assert "compared with: diffusers" in out and "FAILED" not in out
