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
import tiny
import torch
from safetensors.torch import load_file, save_file

from exporter.checkpoint.embeddings import EmbeddingFile, open_embedding
from exporter.checkpoint.find import find_pair
from exporter.checkpoint.lora import open_lora
from exporter.checkpoint.lora_file import LoraFile
from exporter.checkpoint.open import open_checkpoint
from exporter.checkpoint.vocabulary import read_vocabulary
from exporter.cost import inspect
from exporter.graphs import lora_shapes
from exporter.job import check_job
from exporter.options import ExportOptions
from runtimes.errors import RunError, UsageError
from runtimes.tokenizer import PromptTokenizer

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")
# Seconds for any of them, on a busy machine; bytes above what the process has.
SOON, MEMORY = 10, 100 << 20
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


def refused(call, *words: str) -> None:
    """One line with every word, within the time and the memory."""
    start = time.monotonic()
    with peak.measured() as taken, pytest.raises((UsageError, RunError)) as error:
        call()
    message = str(error.value)
    assert message.isprintable() and len(message) < 2_100
    for word in words:
        assert word in message
    assert time.monotonic() - start < SOON
    assert taken() < MEMORY


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
    if message is None:  # it is not read beside a config of today
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
    from exporter.formats.clip_bpe import build

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
    return lora_shapes(open_checkpoint(*find_pair(*map(str, folders(NAME))), None))


@pytest.mark.parametrize("kind", [*LORAS, *CONFIGURATIONS, *hostile.SAFETENSORS])
def test_adapters(shapes, tmp_path, kind):
    make, message = (LORAS | CONFIGURATIONS | hostile.SAFETENSORS)[kind]
    path = tmp_path / f"{'adapter_model' if kind in CONFIGURATIONS else 'a'}.safetensors"
    make(path)
    refused(lambda: open_lora(LoraFile(path), shapes), f"--lora {tmp_path}", message)


def test_names_of_plain_modules_and_simple_patterns_are_read(shapes, tmp_path):
    path = tmp_path / "adapter_model.safetensors"
    names = {f"blocks.{i}.attention.to_q": 5 for i in range(1_900) if i != 2}
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
