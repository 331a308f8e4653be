"""Manifests that a stranger wrote: each fault is one line that names the place, at once.

The reader and the JSON Schema that hosts in other languages go by have to agree on them.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import manifests
import pytest

from runtimes.bundle.manifest_json import MOST_BYTES, read_manifest
from runtimes.bundle.read import open_bundle
from runtimes.bundle.schema import schema
from runtimes.errors import RunError

BIG = 10**18
# Seconds for any manifest, with what else a busy machine does; memory for the largest.
SOON, MEMORY = 20, 1 << 30
S, C, G = ("sampling",), ("sampling", "stage_c"), ("graphs", "stage_c")
TOKENS = ("tokenizers", "text_encoder")

# A field, and values that it cannot have.
OUT_OF_RANGE = {
    (*S, "resolution_multiple"): [0, -1, 1e300, BIG],
    (*S, "latent_dim_scale"): [0, -10.67, 1e300],
    (*S, "stage_b_multiple"): [0, -1, BIG],
    (*S, "stage_a_scale"): [0, -1, BIG],
    (*S, "height"): [0, -1, BIG],
    (*S, "width"): [0, 10**400],
    (*S, "latent_mean"): [1e300],
    (*S, "latent_std"): [-1e300],
    (*C, "s"): [-1, 1e300],
    (*C, "scaler"): [0, -1, 1e300],
    (*C, "guidance"): [-1, 1e300, BIG],
    (*C, "channels"): [0, -16, BIG],
    (*C, "timestep_padding"): [-1, 2, BIG],
    (*C, "timesteps"): [[], [1.0], [2.0, 0.0], [1.0, -0.5], [1.0] * 20_000],
    (*C, "timestep_frequencies"): [[], [1e300], [-1.0]],
    (*C, "schedule"): [[], [{}]],
    (*C, "embeddings"): [[[]], [[2.0]]],
    (*G, "inputs"): [[]],
    (*G, "outputs"): [[]],
    (*G, "activations"): [[1.0], [1.0, 2.0, 3.0, 4.0], [-1e30, 0.0, 0.0], [1e300, 0.0, 0.0]],
    (*G, "precision"): ["fp13", ""],
    (*G, "compute"): ["f64"],
    (*G, "ir_version"): [0, -1, BIG],
    (*G, "inputs", 0, "shape"): [[], [0], [-1], [BIG], ["batch/0"], ["10**9"], ["a b"], [1] * 99],
    (*G, "inputs", 0, "dtype"): ["float8"],
    (*G, "inputs", 0, "name"): ["", "a\nb", "x" * 100_000],
    (*TOKENS, "max_length"): [0, 1, -77, BIG],
    (*TOKENS, "pad_id"): [-1, BIG],
    (*TOKENS, "bos_id"): [-1, 1 << 31],
    ("sizes",): [[[]], [[0, 1]], [[1, -1]], [[1, BIG]]],
    ("backend",): ["tflite", ""],
    ("precision",): ["float", ""],
    ("files", "stage_c/model.onnx", "size"): [-1, 1 << 60],
    ("files", "stage_c/model.onnx", "sha256"): ["", "0", "Z" * 64],
    ("host", "sizes"): [[]],
    ("host", "noise", "block"): [0, -16, BIG],
    ("host", "noise", "seed_bits"): [0, 10**6],
    ("host", "schedule", "alpha_clamp"): [[0.0], [-1e300, 1.0]],
    ("host", "picture", "scale"): [0, -255, 1e300],
}
# Of every field above, too; JSON Schema has no word for half a character.
HALF = "\ud800"
NEVER = [{}, [[[]]], HALF, True]
# What only a reader that knows the other fields can see, and what it says.
RELATIONS = {
    (*C, "timesteps"): ("each has to be below the one before it", lambda t: [1.0, *t[1:-2], 1, 0]),
    (*C, "channels"): ("the channels is", lambda n: n + 1),
    (*C, "timestep_padding"): ("values, found", lambda n: 1 - n),
    (*C, "schedule"): ("one a step, found", lambda rows: rows[:-1]),
    (*TOKENS, "max_length"): ("the max_length is", lambda n: n - 1),
    (*G, "file"): ("end in .onnx", lambda name: "stage_c/model.xml"),
    ("backend",): ("end in .xml", lambda name: "openvino"),
}


@pytest.fixture(scope="module")
def manifest(bundles) -> dict:
    return manifests.read(bundles("one_level").folder)


def changed(manifest: dict, place: tuple, value: object) -> dict:
    new = copy.deepcopy(manifest)
    inside = new
    for key in place[:-1]:
        inside = inside[key]
    assert place[-1] in inside if isinstance(inside, dict) else place[-1] < len(inside)
    inside[place[-1]] = value
    return new


def refused(folder: Path, text: str) -> str:
    """What `text` as a manifest is refused with, in one line that is no longer than a screen's."""
    (folder / "bundle.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError) as error:
        read_manifest(folder)
    message = str(error.value)
    assert "\n" not in message and message.isprintable()
    assert len(message) < len(str(folder)) + 400
    return message


@pytest.mark.parametrize("place", OUT_OF_RANGE, ids=lambda place: ".".join(map(str, place)))
def test_no_field_takes_a_value_out_of_its_range(manifest, tmp_path, place):
    validator = jsonschema.Draft202012Validator(schema())
    assert validator.is_valid(manifest)
    for value in (*OUT_OF_RANGE[place], *NEVER):
        wrong = changed(manifest, place, value)
        message = refused(tmp_path, json.dumps(wrong))
        assert str(next(p for p in reversed(place) if isinstance(p, str))) in message
        assert value == HALF or not validator.is_valid(wrong), value


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(manifest, tmp_path, number):
    text = json.dumps(changed(manifest, (*S, "resolution_multiple"), "@")).replace('"@"', number)
    assert number in refused(tmp_path, text) or "inf" in refused(tmp_path, text)


@pytest.mark.parametrize("place", RELATIONS, ids=lambda place: ".".join(map(str, place)))
def test_fields_that_contradict_each_other_are_refused(manifest, tmp_path, place):
    message, change = RELATIONS[place]
    inside = manifest
    for key in place:
        inside = inside[key]
    assert message in refused(tmp_path, json.dumps(changed(manifest, place, change(inside))))


TEXTS = {
    "nested lists": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "nested objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
    "a key that is there twice": ('{"format": "a", "format": "b"}', "'format' is there twice"),
    "no JSON": ("{'format'}", "is not valid JSON"),
    "nothing": ("", "is not valid JSON"),
    "a list": ("[]", "is not a wuerstchen-bundle manifest"),
    "digits": ('{"format_version": ' + "9" * 10_000 + "}", "is not"),
    "another mark": ("\ufeff{}", "is not valid JSON"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_what_is_no_manifest_is_refused(tmp_path, kind):
    text, message = TEXTS[kind]
    assert message in refused(tmp_path, text)


def test_a_million_of_something_is_refused_before_it_is_looked_at(manifest, tmp_path):
    times = [1 - i / 1_000_000 for i in range(1_000_000)]
    wrong = json.dumps(changed(manifest, (*C, "timesteps"), times), separators=(",", ":"))
    assert len(wrong) > MOST_BYTES / 2
    message = refused(tmp_path, wrong)
    assert "more than" in message or "2 to 10001 values, found 1000000" in message


def pipe(path: Path) -> None:
    os.mkfifo(path)


def larger(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'{"format": "')
        file.truncate(MOST_BYTES + 1)


PLACES = {
    "a pipe": (pipe, "it is no regular file"),
    "a folder": (Path.mkdir, "bundle.json cannot be read"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "links to /dev/zero, outside"),
    "a file elsewhere": (lambda path: path.symlink_to("../elsewhere.json"), "outside the bundle"),
    "a link to itself": (lambda path: path.symlink_to("bundle.json"), "bundle.json"),
    "more than a manifest has": (larger, "more than 16 MB"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")
@pytest.mark.parametrize("kind", PLACES)
def test_only_a_regular_file_in_the_folder_is_opened(tmp_path, kind):
    make, message = PLACES[kind]
    (tmp_path / "elsewhere.json").write_text("{}")
    folder = tmp_path / "bundle"
    folder.mkdir()
    make(folder / "bundle.json")
    with pytest.raises(RunError, match=message) as error:
        open_bundle(folder)
    assert "\n" not in str(error.value)


# From a small process: one that was forked from this one would be as large as it is.
MEASURED = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", *sys.argv[1:]]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", ["runtimes", "quantization", "validation"])
def test_every_command_ends_at_once_with_one_line(bundles, manifest, tmp_path, program):
    """Within a bounded memory; a pipe or a huge file as manifest is the worst of it."""
    folder = Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))
    words = {"runtimes": ["a"], "quantization": ["out", "--precision", "int8-weights"]}
    for text in (json.dumps(changed(manifest, (*S, "stage_b_multiple"), BIG)), "[" * 100_000, None):
        (folder / "bundle.json").unlink()
        if text is None:
            larger(folder / "bundle.json")
        else:
            (folder / "bundle.json").write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, program, str(folder), *words.get(program, [])],
            capture_output=True, text=True, timeout=SOON, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode in (1, 2), done.stderr
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert lines[-1].startswith("error: ") and "Traceback" not in done.stderr
        assert int(done.stdout.split()[-1]) << 10 < MEMORY
    assert not (tmp_path / "out").exists()
