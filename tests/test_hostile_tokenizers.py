"""Tokenizers that a stranger wrote: refused before they are built, here and in a bundle."""

import json
import os
import shutil
from pathlib import Path

import hostile_files as hostile
import pytest
import tiny
from hostile_files import refused

from exporter.checkpoint.find import find_pair
from exporter.checkpoint.open import open_checkpoint
from exporter.checkpoint.vocabulary import read_vocabulary
from exporter.formats.clip_bpe import build
from exporter.job import check_job
from exporter.options import ExportOptions
from runtimes.tokenizer import PromptTokenizer

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")


@pytest.fixture
def pair(folders, tmp_path):
    """A copy of a tiny checkpoint to change."""
    root = tmp_path / "pair"
    copies = [shutil.copytree(folder, root / folder.name) for folder in folders("one_level")]
    return Path(copies[0]), Path(copies[1])


def opened(pair):
    """As an export opens a checkpoint, up to where it would begin to write."""
    return check_job(open_checkpoint(*find_pair(*map(str, pair)), None), ExportOptions())


# A tokenizer's file, what it holds, and a word of what is said of it.
TOKENIZERS = {
    "a vocabulary of 10^7": ("vocab.json", hostile.gigabyte, "more than 6 MB"),
    "a vocabulary of 120,000": (
        "vocab.json", hostile.text(json.dumps({f"{i:x}": i for i in range(120_000)})), "values"),
    "negative ids": ("vocab.json", hostile.edited(a=-1), "-1 is below 0"),
    "huge ids": ("vocab.json", hostile.edited(a=1 << 40), "is above"),
    "fractions": ("vocab.json", hostile.edited(a=0.5), "expected int"),
    "one id twice": ("vocab.json", hostile.edited(b=0, c=0), "have one id"),
    "a list of words": ("vocab.json", hostile.text("[]"), "no JSON object"),
    "a long word": ("vocab.json", hostile.edited(**{"a" * 9999: 5}), "expected 0 to 500"),
    "merges of nothing": ("merges.txt", hostile.text("#version\nzz zz\n"), "not in vocab.json"),
    "merges in a circle": ("merges.txt", hostile.text("a b\nab a\naba b\n"), "not in vocab.json"),
    "many merges": ("merges.txt", hostile.text("a b\n" * 200_000), "has 200000 lines"),
    "merges that are no text": ("merges.txt", hostile.text(b"\xff\xfe"), "no text in UTF-8"),
    "a pipe for merges": ("merges.txt", hostile.pipe, "no regular file"),
    "a gigabyte of merges": ("merges.txt", hostile.gigabyte, "more than 6 MB"),
    "tokens that are numbers": (
        "tokenizer_config.json", hostile.edited(extra_special_tokens=5), "another kind"),
    "tokens that are lists": (
        "tokenizer_config.json", hostile.edited(additional_special_tokens=[[1]]), "no special"),
    "a decoder that is a list": (
        "tokenizer_config.json", hostile.edited(added_tokens_decoder=[1]), "another kind"),
    "a decoder that is null": (
        "tokenizer_config.json", hostile.edited(added_tokens_decoder=None), None),
    "a decoder of digits": (
        "tokenizer_config.json", hostile.edited(added_tokens_decoder={"9" * 5000: "a"}), "no add"),
    "a start that is a number": ("tokenizer_config.json", hostile.edited(bos_token=5), "another"),
    "a start that is none": ("tokenizer_config.json", hostile.edited(bos_token={}), "no token"),
    "a length that is a list": (
        "tokenizer_config.json", hostile.edited(model_max_length=[77]), "model_max_length"),
    "a map that is a list": ("special_tokens_map.json", hostile.text("[]"), None),
    "added tokens that are lists": ("added_tokens.json", hostile.text('{"a": [1]}'), "id"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokenizers(pair, kind):
    file, make, message = TOKENIZERS[kind]
    make(pair[1] / "tokenizer" / file)
    if message is None:  # as if it was not there
        assert opened(pair).plans
    else:
        refused(lambda: opened(pair), str(pair[1] / "tokenizer"), message)


def pattern(part: str, regex: str):
    """A step of a tokenizer.json replaced by one with another pattern."""

    def change(value: dict) -> None:
        if part == "normalizer":
            step = {"type": "Replace", "pattern": {"Regex": regex}, "content": " "}
            value[part] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, step]}
        else:
            split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Removed"}
            value[part]["pretokenizers"][0] = split | {"invert": True}

    return change


def normalizers(*steps: dict):
    def change(value: dict) -> None:
        value["normalizer"] = {"type": "Sequence", "normalizers": list(steps)}

    return change


def replacing(word: str, content: object) -> dict:
    return {"type": "Replace", "pattern": {"String": word}, "content": content}


SERIALIZED = {
    "a slow split": (pattern("pre_tokenizer", hostile.SLOW_PATTERN), "its pre_tokenizer differs"),
    "a slow normalizer": (pattern("normalizer", "(a|aa)+$"), "its normalizer differs"),
    "a large pattern": (pattern("normalizer", "(a{1000}){1000}"), "its normalizer differs"),
    "a map of characters": (normalizers({"type": "Precompiled"}), "its normalizer differs"),
    "a nest of steps": (normalizers({"type": []}), "its normalizer differs"),
    "a letter that becomes a million": (
        normalizers(replacing("a", "a" * 10**6)), "more than 20,000 characters"),
    "many letters that become many": (
        normalizers(*[replacing("a", "aa")] * 200), "replaces 200 words"),
    "no model": (lambda v: v.update(model=[]), "has type None"),
    "another model": (lambda v: v["model"].update(type="WordLevel"), "has type 'WordLevel'"),
    "huge ids": (lambda v: v["model"]["vocab"].update(a=1 << 40), "is above"),
    "no tokens": (lambda v: v.update(added_tokens=5), "no list of objects"),
    "tokens that are lists": (lambda v: v.update(added_tokens=[[]]), "no list of objects"),
    "merges of numbers": (lambda v: v["model"].update(merges=[[1, 2]]), "cannot"),
    "merges of nothing": (lambda v: v["model"].update(merges=[["zz", "zz"]]), "cannot"),
}  # fmt: skip


@pytest.fixture(scope="module")
def serialized():
    vocabulary = read_vocabulary(tiny.TOKENIZER)
    return build(vocabulary).to_str()


@pytest.mark.parametrize("kind", SERIALIZED)
def test_serialized_tokenizers(serialized, tmp_path, kind):
    """As a checkpoint's, and as a bundle's."""
    change, message = SERIALIZED[kind]
    value = json.loads(serialized)
    change(value)
    source = Path(shutil.copytree(tiny.TOKENIZER, tmp_path / "t"))
    (source / "tokenizer.json").write_text(json.dumps(value))
    refused(lambda: read_vocabulary(source), str(source / "tokenizer.json"), message)
    refused(lambda: PromptTokenizer(source, None), str(source / "tokenizer.json"), message)
