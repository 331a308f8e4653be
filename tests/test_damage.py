"""Bits that turn over and files that end too soon, in what an export and a quantisation read.

No hash is known of a checkpoint, an adapter or a plan: a number that became another one of its
range, a word that became another word and a weight that became another weight cannot be found.
Everything else is: refused in one line with the file's name, or without effect. Of a bundle's files
every damage is found. WUERSTCHEN_DAMAGES=COUNT does so many to each file.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import adapters
import pytest
import tiny
from safetensors.torch import save_file

from exporter.checkpoint.find import find_pair
from exporter.checkpoint.lora import open_lora
from exporter.checkpoint.lora_file import LoraFile
from exporter.checkpoint.open import open_checkpoint
from exporter.graphs import lora_shapes
from exporter.job import check_job
from exporter.options import ExportOptions
from quantization.plan_file import read_plan, write_plan
from quantization.recipes import INT8_WEIGHTS, Int8
from runtimes.bundle.manifest import GOLDEN_FILE, TOKENS_FILE
from runtimes.bundle.read import open_bundle
from runtimes.bundle.safetensors_header import read_header
from runtimes.errors import RunError, UsageError
from runtimes.replay import replay
from validation.trust.damage import Damage, damages

COUNT = int(os.environ.get("WUERSTCHEN_DAMAGES", "2"))
SEED = 1
REFUSED = object()


def outcome(path: Path, read) -> object:
    """What is read with a damaged file; REFUSED for one line that names it, or its folder."""
    try:
        return read()
    except (UsageError, RunError) as error:
        message = str(error)
        assert message.isprintable()
        # Components that do not fit each other name both; the first may be the undamaged one.
        assert str(path.parent) in message, message
        return REFUSED


def test_damage_is_undone_to_the_byte(tmp_path):
    path = tmp_path / "file"
    whole = bytes(range(200))
    path.write_bytes(whole)
    every = list(damages(path, SEED, 300))
    assert every == list(damages(path, SEED, 300)) != list(damages(path, SEED + 1, 300))
    assert len(set(every)) > 250
    for damage in every:
        with damage.done():
            found = path.read_bytes()
        if damage.kind == "cut":
            assert found == whole[: damage.place]
        else:
            assert [i for i in range(200) if found[i] != whole[i]] == [damage.place]
            assert found[damage.place] ^ whole[damage.place] == 1 << damage.bit
        assert path.read_bytes() == whole


@pytest.fixture(scope="module")
def pair(folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("damage")
    return [Path(shutil.copytree(folder, root / folder.name)) for folder in folders("one_level")]


def opened(pair):
    """What an export reads before it writes, in values that can be compared."""
    job = check_job(open_checkpoint(*find_pair(*map(str, pair)), None), ExportOptions())
    networks = [(c.config, [read_header(f) for f in c.files]) for c in job.checkpoint.components]
    return networks, job.constants, job.default, job.vocabularies


def drawn(path: Path) -> list[Damage]:
    """Damage all over a file; of weights, which are most of theirs, also of the header."""
    if path.suffix != ".safetensors":
        return list(damages(path, SEED, COUNT))
    header = read_header(path).start
    return [*damages(path, SEED, COUNT), *damages(path, SEED + 1, 2 * COUNT, header)]


def test_damaged_checkpoints(pair):
    """What a cut leaves of a file is never taken for the whole; nor is a header that lost a bit."""
    whole, seen = opened(pair), Counter()
    for path in sorted(path for root in pair for path in root.rglob("*") if path.is_file()):
        for damage in drawn(path):
            with damage.done():
                found = outcome(path, lambda: opened(pair))
            kind = "refused" if found is REFUSED else "same" if found == whole else "other values"
            seen[f"{path.suffix} {damage.kind} {kind}"] += 1
            assert kind != "other values" or damage.kind == "flip", damage
            assert kind != "other values" or path.suffix != ".safetensors", damage
    print(json.dumps(seen, indent=1))
    assert opened(pair) == whole
    assert any(key.endswith("refused") for key in seen)


def test_damaged_adapters(folders, tmp_path):
    """As weights are: the same tensors of the same sizes, or none."""
    shapes = lora_shapes(open_checkpoint(*find_pair(*map(str, folders("one_level"))), None))
    updates = adapters.trained(tiny.reference("one_level").stage_c)
    path, seen = tmp_path / "a.safetensors", Counter()
    save_file(adapters.dotted(updates, "unet."), path)

    def read():
        return {name: (layer.down, layer.up) for part in open_lora(LoraFile(path), shapes).parts
                .values() for name, layer in part.layers.items()}  # fmt: skip

    whole = read()
    for damage in [*drawn(path), *damages(path, SEED, 5 * COUNT)]:
        with damage.done():
            found = outcome(path, read)
        seen[f"{damage.kind} {'refused' if found is REFUSED else 'read'}"] += 1
        assert found is REFUSED or (damage.kind == "flip" and found == whole), damage
    print(json.dumps(seen, indent=1))
    assert seen["cut refused"] and seen["flip refused"]


def test_damaged_plans(tmp_path):
    """A plan has names and numbers, of which others are as good; a cut may leave a shorter one."""
    path, seen = tmp_path / "plan.toml", Counter()
    write_plan(path, "int8", {"stage_b": Int8(skip=("a", "b")), "stage_c": INT8_WEIGHTS})
    for damage in damages(path, SEED, 20 * COUNT):
        with damage.done():
            found = outcome(path, lambda: read_plan(path))
        seen[f"{damage.kind} {'refused' if found is REFUSED else 'read'}"] += 1
    print(json.dumps(seen, indent=1))
    assert seen["flip refused"] and seen["cut refused"]


@pytest.mark.parametrize("name", [GOLDEN_FILE, TOKENS_FILE])
def test_damaged_golden_runs(bundles, tmp_path, name):
    folder = Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))
    bundle = open_bundle(folder)
    for damage in damages(folder / name, SEED, 5 * COUNT):
        with damage.done(), pytest.raises(RunError) as error:
            replay(bundle)
        assert name in str(error.value)
    assert all(check.passed for check in replay(bundle))
