"""Bundles made twice are the same byte for byte, whatever folder, language, clock and cores.

TRUST_BUNDLE=demo in the environment takes the demo checkpoint, by hand.
"""

import json
import os

import pytest

from runtimes.bundle.manifest import GOLDEN_FILE
from runtimes.tolerances import LIMITS, loosest
from validation.trust.reproducible import (
    FIRST,
    OUTPUT,
    SECOND,
    Difference,
    differences,
    made_twice,
    permissions,
)

NAME = os.environ.get("TRUST_BUNDLE", "one_level")


def test_differences_name_the_file_and_the_byte(tmp_path):
    for folder in ("one", "other"):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "same").write_bytes(b"same")
    one, other = tmp_path / "one", tmp_path / "other"
    assert differences(one, other) == []
    (one / "inner/byte").write_bytes(b"abcd")
    (other / "inner/byte").write_bytes(b"abXd")
    (one / "longer").write_bytes(b"ab")
    (other / "longer").write_bytes(b"abc")
    (other / "more").write_bytes(b"")
    assert differences(one, other) == [
        Difference("inner/byte", "4 bytes, different from byte 2 on"),
        Difference("longer", "2 and 3 bytes, different from byte 2 on"),
        Difference("more", "in the second folder only"),
    ]


def test_permissions_are_those_of_the_umask(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "file").write_bytes(b"")
    folder.chmod(0o700)
    (folder / "file").chmod(0o600)
    assert permissions(folder, 0o077) == []
    assert permissions(folder, 0o022) == [
        Difference(".", "permissions 700, expected 755"),
        Difference("file", "permissions 600, expected 644"),
    ]


def test_the_loosest_limits_do_not_depend_on_the_order():
    """A set's order is that of this process's hash seed, and the limits go into the manifest."""
    for one in LIMITS:
        for other in LIMITS:
            assert loosest([one, other]) == loosest([other, one])
    assert loosest(["bf16", "int8-weights"]).picture_db == LIMITS["int8-weights"].picture_db


def test_the_golden_runs_metadata_are_in_order(bundles):
    """safetensors writes them in another order in each process."""
    content = (bundles("one_level").folder / GOLDEN_FILE).read_bytes()
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    assert size % 8 == 0 and [*metadata] == sorted(metadata)


def command(folders, *options):
    """The words of an export of NAME; the demo is what is exported without a model."""
    decoder, prior = ("", "") if NAME == "demo" else folders(NAME)
    model = ["-m", str(decoder), "--prior", str(prior)] if decoder else []
    return ["exporter", OUTPUT, "--quiet", *model, *options]


@pytest.mark.slow
def test_an_export_is_the_same_in_other_surroundings(bundles, folders, tmp_path):
    """The first is this process's own: in its folder, its language and on its threads."""
    (made,) = made_twice(command(folders), tmp_path, [SECOND])
    assert differences(bundles(NAME).folder, made) == []
    assert permissions(made, SECOND.umask) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "coreml"])
def test_other_formats_are_the_same_in_other_surroundings(folders, tmp_path, backend):
    """Each in its own process: OpenVINO numbers nodes without a name as a process makes them."""
    graphs = ("stage_c_condition", "stage_a")
    words = command(folders, "--backend", backend, "--no-golden", "--modules", *graphs)
    first, second = made_twice(words, tmp_path)
    assert differences(first, second) == []
    assert permissions(first, FIRST.umask) == permissions(second, SECOND.umask) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8-weights", "fp16", "int8"])
def test_quantising_is_the_same_in_other_surroundings(bundles, tmp_path, precision):
    bundle = str(bundles(NAME).folder)
    words = ["quantization", bundle, OUTPUT, "--quiet", "--precision", precision, "--samples", "60"]
    first, second = made_twice(words, tmp_path)
    assert differences(first, second) == []
    assert permissions(first, FIRST.umask) == permissions(second, SECOND.umask) == []
