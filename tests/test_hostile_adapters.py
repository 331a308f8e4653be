"""Adapters and embeddings that a stranger wrote: refused in one line, before they are fused."""

import json
import os
from pathlib import Path

import hostile_files as hostile
import pytest
import torch
from hostile_files import refused
from safetensors.torch import save_file

from exporter.checkpoint.embeddings import EmbeddingFile, open_embedding
from exporter.checkpoint.find import find_pair
from exporter.checkpoint.lora import open_lora
from exporter.checkpoint.lora_file import LoraFile
from exporter.checkpoint.open import open_checkpoint
from exporter.graphs import lora_shapes

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")

TARGET = "unet.blocks.2.attention.to_q.lora_{}.weight"


def adapter(path: Path, rank: int = 2, **more: torch.Tensor) -> Path:
    """A plain adapter of one layer of the prior, which is 40 wide."""
    down, up = torch.ones(rank, 40), torch.ones(40, rank)
    save_file({TARGET.format("A"): down, TARGET.format("B"): up} | more, path)
    return path


def configured(**config: object) -> hostile.Make:
    def make(path: Path) -> None:
        adapter(path)
        path.with_name("adapter_config.json").write_text(json.dumps(config))

    return make


def beside(make_config: hostile.Make) -> hostile.Make:
    def make(path: Path) -> None:
        adapter(path)
        make_config(path.with_name("adapter_config.json"))

    return make


def lies(rank: int) -> hostile.Make:
    """A header that says a rank which the file has no bytes for."""
    last = rank * 160
    tensors = {TARGET.format("A"): hostile.stored([rank, 40], 0, last),
               TARGET.format("B"): hostile.stored([40, rank], last, 2 * last)}  # fmt: skip
    return hostile.safetensors(tensors, 320)


ALPHA = "unet.blocks.2.attention.to_q.alpha"
LORAS = {
    "a rank of 10^6 in few bytes": (lies(10**6), "take 320000000 bytes, it has 320"),
    "a rank of 10^5": (lambda p: adapter(p, 100_000), "100000 is above 65536"),
    "NaN for alpha": (lambda p: adapter(p, **{ALPHA: torch.tensor(torch.nan)}), "nan"),
    "an infinite alpha": (lambda p: adapter(p, **{ALPHA: torch.tensor(torch.inf)}), "inf is above"),
    "a huge alpha": (lambda p: adapter(p, **{ALPHA: torch.tensor(1e30)}), "is above"),
    "a million alphas": (lambda p: adapter(p, **{ALPHA: torch.ones(10**6)}), "no single number"),
    "NaN in it": (
        lambda p: adapter(p, **{TARGET.format("B"): torch.full((40, 2), torch.nan)}), "not finite"),
}  # fmt: skip
CONFIGURATIONS = {
    "another rank": (configured(r=10**6), "is above 65536"),
    "a rank below 0": (configured(r=-1), "-1 is below 1"),
    "a rank that lies": (configured(r=7), "its configuration says 7"),
    "an alpha that is a list": (configured(lora_alpha=[1]), "expected float"),
    "a slow pattern": (configured(rank_pattern={"(a+)+b": 2}), "may take too long"),
    "another slow pattern": (configured(alpha_pattern={".*.*.*.*x": 2}), "may take too long"),
    "choices of choices": (configured(alpha_pattern={"(b|b)" * 30: 2}), "may take too long"),
    "a pattern of a megabyte": (configured(alpha_pattern={"a" * 9 * 10**5: 2}), "too long"),
    "many patterns": (
        configured(rank_pattern={f".*{i}": 2 for i in range(1_000)}), "are no names"),
    "a pattern that is none": (configured(rank_pattern={"[": 2}), "has no pattern '['"),
    "a pipe beside it": (beside(hostile.pipe), "no regular file"),
    "a gigabyte beside it": (beside(hostile.gigabyte), "more than 1 MB"),
    "nested beside it": (beside(hostile.JSON["nested"][0]), "nested too deeply"),
    "NaN beside it": (beside(hostile.text('{"lora_alpha": NaN}')), "NaN is no number"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes(folders):
    return lora_shapes(open_checkpoint(*find_pair(*map(str, folders("one_level"))), None))


@pytest.mark.parametrize("kind", [*LORAS, *CONFIGURATIONS, *hostile.SAFETENSORS])
def test_adapters(shapes, tmp_path, kind):
    make, message = (LORAS | CONFIGURATIONS | hostile.SAFETENSORS)[kind]
    path = tmp_path / f"{'adapter_model' if kind in CONFIGURATIONS else 'a'}.safetensors"
    make(path)
    refused(lambda: open_lora(LoraFile(path), shapes), f"--lora {tmp_path}", message)


def test_names_of_plain_modules_and_simple_patterns_are_read(shapes, tmp_path):
    path = tmp_path / "adapter_model.safetensors"
    names = {f"blocks.{i}.attention.to_q": 5 for i in range(300) if i != 2}
    for key in ("to_q", r"^blocks\.2\.attention\.to_q", ".*to_q", "to_(q|k|v)", r"to_[qk]"):
        configured(lora_alpha=1, alpha_pattern=names | {key: 8})(path)
        (layer,) = open_lora(LoraFile(path), shapes).parts["prior"].layers.values()
        assert layer.factor == 8 / 2


def one(*shape: int, name: str = "<a>", fill: float = 1.0) -> hostile.Make:
    return lambda path: save_file({name: torch.full(shape, fill)}, path)


EMBEDDINGS = {
    "many vectors": (one(1_000, 32), "1000 is above 100"),
    "another width": (one(1, 33), "fit no text encoder"),
    "a number": (lambda p: save_file({"<a>": torch.tensor(1.0)}, p), "no vectors"),
    "NaN": (one(1, 32, fill=torch.nan), "not finite"),
    "a long token": (one(1, 32, name="a" * 400), "expected 1 to 200"),
    "two tensors": (lambda p: save_file({n: torch.ones(32) for n in "ab"}, p), "2 tensors"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*EMBEDDINGS, *hostile.SAFETENSORS])
def test_embeddings(tmp_path, kind):
    make, message = (EMBEDDINGS | hostile.SAFETENSORS)[kind]
    path = tmp_path / "a.safetensors"
    make(path)
    file, widths = EmbeddingFile(path), {"text_encoder": 32}
    refused(lambda: open_embedding(file, widths), f"--embedding {tmp_path}", message)
