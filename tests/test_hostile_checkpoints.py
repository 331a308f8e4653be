"""Checkpoints that a stranger wrote: one line names the fault, at once, before anything is written.

Every case of the tables is opened as an export opens it, with its memory and its time measured.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import checkpoints_found as found
import hostile_files as hostile
import peak
import pytest
import torch
from hostile_files import MEMORY, SOON, refused
from safetensors.torch import load_file, save_file

from exporter.checkpoint.find import find_pair
from exporter.checkpoint.open import open_checkpoint
from exporter.cost import inspect
from exporter.job import check_job
from exporter.options import ExportOptions

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")
NAME = "one_level"
WEIGHTS = "vqgan/diffusion_pytorch_model.safetensors"


@pytest.fixture
def pair(folders, tmp_path):
    """A copy of a tiny checkpoint to change."""
    root = tmp_path / "pair"
    copies = [shutil.copytree(folder, root / folder.name) for folder in folders(NAME)]
    return Path(copies[0]), Path(copies[1])


def opened(pair):
    """As an export opens a checkpoint, up to where it would begin to write."""
    return check_job(open_checkpoint(*find_pair(*map(str, pair)), None), ExportOptions())


def inspected(pair):
    checkpoint = open_checkpoint(*find_pair(*map(str, pair)), None, weights=False)
    return inspect(checkpoint, 128, 128, text=True)


@pytest.mark.parametrize("kind", hostile.SAFETENSORS)
def test_weights_that_are_no_safetensors(pair, kind):
    make, message = hostile.SAFETENSORS[kind]
    make(pair[0] / WEIGHTS)
    if kind in ("a pipe", "a device", "a folder"):  # seen before it is opened
        message = "is missing"
    refused(lambda: opened(pair), str(pair[0] / WEIGHTS), message)


CONFIGS = ["decoder/config.json", "scheduler/scheduler_config.json", "model_index.json",
           "tokenizer/tokenizer_config.json"]  # fmt: skip


@pytest.mark.parametrize("file", CONFIGS)
@pytest.mark.parametrize("kind", hostile.JSON)
def test_configs_that_are_no_json(pair, kind, file):
    make, message = hostile.JSON[kind]
    make(pair[0] / file)
    refused(lambda: opened(pair), str(pair[0] / file), message)


@pytest.mark.parametrize("kind", ["a pipe", "a gigabyte", "nested", "a device"])
def test_other_files_that_are_not_theirs_to_wait_for(pair, kind):
    """A model card and a size for pictures may be missing; a folder beside is nobody's."""
    make, message = hostile.JSON[kind]
    (pair[0].parent / "other").mkdir()
    make(pair[0].parent / "other/model_index.json")
    make(pair[0] / "README.md")
    make(pair[0] / "tokenizer/notes.txt")
    assert opened(pair).plans
    make(pair[1] / "generation_config.json")
    refused(lambda: opened(pair), "generation_config.json", message)


BIG = 10**9
# A config's file and key, and values that it cannot have.
NUMBERS = {
    ("wuerstchen-prior/prior/config.json", "c"): [BIG, 0, -1, 1.5, "40", [40], None, True, {}],
    ("wuerstchen-prior/prior/config.json", "c_in"): [BIG, 0],
    ("wuerstchen-prior/prior/config.json", "c_cond"): [BIG, 0],
    ("wuerstchen-prior/prior/config.json", "c_r"): [BIG, 0, 3, -2],
    ("wuerstchen-prior/prior/config.json", "depth"): [BIG, 0, -1, 10**400],
    ("wuerstchen-prior/prior/config.json", "nhead"): [BIG, 0, -1],
    ("wuerstchen/decoder/config.json", "c_hidden"): [
        [],
        [0],
        [BIG],
        [24] * 10**6,
        24,
        [[24]],
        ["24"],
    ],
    ("wuerstchen/decoder/config.json", "nhead"): [[0], [-2], [BIG], []],
    ("wuerstchen/decoder/config.json", "blocks"): [[BIG], [-1], [0], [3] * 9],
    ("wuerstchen/decoder/config.json", "level_config"): [["C" * 10**6], [""], ["CXA"], "CTA", [3]],
    ("wuerstchen/decoder/config.json", "inject_effnet"): [[1], True, [None]],
    ("wuerstchen/decoder/config.json", "patch_size"): [BIG, 0, -1],
    ("wuerstchen/decoder/config.json", "kernel_size"): [BIG + 1, 0, -3, 2],
    ("wuerstchen/decoder/config.json", "clip_embd"): [BIG, 0],
    ("wuerstchen/decoder/config.json", "_use_default_values"): [3, "c_hidden", {"a": 1}, [3]],
    ("wuerstchen/vqgan/config.json", "levels"): [10**6, 0, -1],
    ("wuerstchen/vqgan/config.json", "embed_dim"): [BIG, 0, 1],
    ("wuerstchen/vqgan/config.json", "bottleneck_blocks"): [BIG, 0],
    ("wuerstchen/vqgan/config.json", "up_down_scale_factor"): [BIG, 0],
    ("wuerstchen/vqgan/config.json", "num_vq_embeddings"): [BIG, 0],
    ("wuerstchen/vqgan/config.json", "scale_factor"): [0, -1, 1e300, "1"],
    ("wuerstchen/text_encoder/config.json", "vocab_size"): [BIG, 0],
    ("wuerstchen/text_encoder/config.json", "hidden_size"): [BIG, 0],
    ("wuerstchen/text_encoder/config.json", "num_hidden_layers"): [BIG, 0, -1],
    ("wuerstchen/text_encoder/config.json", "num_attention_heads"): [BIG, 0],
    ("wuerstchen/text_encoder/config.json", "max_position_embeddings"): [BIG, 0, 1],
    ("wuerstchen/text_encoder/config.json", "layer_norm_eps"): [-1, 1e300],
    ("wuerstchen/text_encoder/config.json", "architectures"): [[["a"]], ["CLIPVisionModel"]],
    ("wuerstchen/text_encoder/config.json", "hidden_act"): ["silu", 3, ["gelu"], "x" * 10**5],
    ("wuerstchen/scheduler/scheduler_config.json", "s"): [0, -1, 2, 1e300, "0.008"],
    ("wuerstchen/scheduler/scheduler_config.json", "scaler"): [0, -1, 1e300],
    ("wuerstchen/model_index.json", "latent_dim_scale"): [0, -1, 1e300, "10"],
    ("wuerstchen-prior/model_index.json", "latent_mean"): [0, -1, 1e300],
    ("wuerstchen-prior/model_index.json", "latent_std"): [1e300],
    ("wuerstchen-prior/model_index.json", "resolution_multiple"): [0, 1e300],
    ("wuerstchen-prior/generation_config.json", "height"): [0, -1, BIG, 64.5, "128"],
    ("wuerstchen/decoder/config.json", "x\nerror: y"): [1],
    ("wuerstchen/decoder/config.json", "\ud800"): ["\ud800"],
}


@pytest.mark.parametrize(("file", "key"), NUMBERS)
def test_numbers_that_no_config_has(pair, file, key):
    path = pair[0].parent / file
    before = path.read_text()
    for value in NUMBERS[file, key]:
        path.write_text(before)
        hostile.edited(**{key: value})(path)
        refused(lambda: opened(pair))
    refused(lambda: inspected(pair))
    path.write_text(before)
    assert opened(pair).plans  # it was these


def shards(names) -> hostile.Make:
    """An index in place of a component's one file, that gives its weights these files."""

    def make(path: Path) -> None:
        path.rename(path.with_name("all.safetensors"))
        weights = {f"w{index}": name for index, name in enumerate(names)}
        text = json.dumps({"weight_map": weights if isinstance(names, list) else names})
        path.with_suffix(".safetensors.index.json").write_text(text)

    return make


def twice(path: Path) -> None:
    tensors = load_file(path)
    shards(["a.safetensors", "b.safetensors"])(path)
    save_file(tensors, path.with_name("a.safetensors"))
    save_file(dict(list(tensors.items())[:1]), path.with_name("b.safetensors"))


def linked(target: str) -> hostile.Make:
    def make(path: Path) -> None:
        shards(["a.safetensors"])(path)
        path.with_name("a.safetensors").symlink_to(target)

    return make


def piped(path: Path) -> None:
    shards(["a.safetensors"])(path)
    os.mkfifo(path.with_name("a.safetensors"))


BESIDE = "does not name safetensors files beside it"
INDEXES = {
    "a folder above": (shards(["../all.safetensors"]), BESIDE),
    "the folder above": (shards([".."]), BESIDE),
    "an absolute path": (shards(["/etc/passwd"]), BESIDE),
    "a Windows path": (shards(["..\\all.safetensors"]), BESIDE),
    "nothing": (shards([]), BESIDE),
    "no name": (shards([""]), BESIDE),
    "a NUL": (shards(["a\0.safetensors"]), BESIDE),
    "numbers": (shards([1]), BESIDE),
    "lists": (shards([["a.safetensors"]]), BESIDE),
    "a text": (shards("a.safetensors"), BESIDE),
    "a missing shard": (shards(["a.safetensors"]), "a.safetensors, which"),
    "a device": (linked("/dev/zero"), "is missing"),
    "a pipe": (piped, "is missing"),
    "a link to itself": (linked("a.safetensors"), "is missing"),
    "a weight twice": (twice, "is in a.safetensors, too"),
    "the index itself": (
        shards(["diffusion_pytorch_model.safetensors.index.json"]), "no safetensors file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", INDEXES)
def test_indexes_of_shards(pair, kind):
    make, message = INDEXES[kind]
    make(pair[0] / WEIGHTS)
    refused(lambda: opened(pair), str(pair[0] / "vqgan"), message)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(torch.nan, torch.float32), (torch.inf, torch.float16), (-torch.inf, torch.bfloat16)],
)
def test_weights_that_are_not_finite_are_found_when_they_are_read(pair, value, dtype):
    path = pair[0] / WEIGHTS
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    tensors["out_block.0.weight"].view(-1)[-1] = value
    save_file(tensors, path)
    plan = next(plan for plan in opened(pair).plans if plan.name == "stage_a")
    with plan.weights() as weights:
        refused(lambda: weights["out_block.0.weight"], "not finite", "'out_block.0.weight'")


def largest_config(pair) -> None:
    """As many blocks, of as many kinds, as the ranges let pass."""
    config = {"blocks": [84], "level_config": ["CTACTA"], "kernel_size": 63}
    hostile.edited(**config)(pair[0] / "decoder/config.json")
    hostile.edited(depth=128)(pair[1] / "prior/config.json")


@pytest.mark.slow
def test_the_largest_config_is_looked_at_in_seconds(pair):
    """What no range refuses is not there, and is said so soon."""
    largest_config(pair)
    start = time.monotonic()
    with peak.measured() as taken:
        assert inspected(pair).graphs
    assert time.monotonic() - start < 6 * SOON
    assert taken() < 3 * MEMORY  # modules without weights, and a table of their names
    refused(lambda: opened(pair), "is missing from the safetensors files")


def harmless(pair) -> None:
    found.edit(pair[0] / "decoder/config.json", c_mystery=3)


COMMANDS = {
    "a pipe for a config": lambda pair: hostile.pipe(pair[0] / "decoder/config.json"),
    "a gigabyte for a config": lambda pair: hostile.gigabyte(pair[0] / "vqgan/config.json"),
    "a header of 110 MB": lambda pair: hostile.SAFETENSORS["a header of 110 MB"][0](
        pair[0] / WEIGHTS),
    "a huge vocabulary": lambda pair: hostile.gigabyte(pair[1] / "tokenizer/vocab.json"),
    "c = 10^9": lambda pair: found.edit(pair[1] / "prior/config.json", c=BIG),
}  # fmt: skip


def command(tmp_path: Path, pair, *words: str) -> int:
    """The bytes that a command took at most, which ended with one line and wrote nothing."""
    script = (
        "import resource, sys; from exporter.cli import main; code = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    end = [*words, "-m", str(pair[0]), "--prior", str(pair[1])]
    done = subprocess.run(
        [sys.executable, "-c", script, *end], capture_output=True, text=True, timeout=120,
        check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode in (1, 2), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair"]
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.slow
def test_commands_end_with_one_line_and_little_memory(folders, tmp_path):
    for kind in ("harmless", *COMMANDS):
        root = tmp_path / kind / "pair"
        pair = [Path(shutil.copytree(f, root / f.name)) for f in folders(NAME)]
        COMMANDS.get(kind, harmless)(pair)
        taken = command(root.parent, pair, "out")
        if kind == "harmless":
            usual = taken
        assert taken < usual + MEMORY, kind
