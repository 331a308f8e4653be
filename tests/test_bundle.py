"""Opening a bundle: every kind of damage has its own clear error."""

import json
import shutil
from pathlib import Path

import pytest

from runtimes.bundle import open_bundle
from runtimes.errors import RunError
from runtimes.manifest import GRAPHS, to_json


@pytest.fixture
def folder(bundles, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))


def edit(folder: Path, change) -> None:
    path = folder / "bundle.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_the_manifest_names_every_file_and_round_trips(bundles):
    bundle = bundles("one_level")
    on_disk = {
        p.relative_to(bundle.folder).as_posix() for p in bundle.folder.rglob("*") if p.is_file()
    }
    assert on_disk == {*bundle.manifest.files, "bundle.json"}
    assert (bundle.folder / "bundle.json").read_text(encoding="utf-8") == to_json(bundle.manifest)
    assert list(bundle.manifest.graphs) == list(GRAPHS)
    assert bundle.manifest.tools["torch"]


def test_no_manifest(tmp_path):
    with pytest.raises(RunError, match="is no bundle"):
        open_bundle(tmp_path)


def test_missing_file(folder):
    (folder / "stage_a/model.onnx").unlink()
    with pytest.raises(RunError, match=r"stage_a/model\.onnx is missing"):
        open_bundle(folder)


def test_truncated_file(folder):
    path = folder / "stage_a/model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"stage_a/model.onnx has \d+ bytes, the manifest says"):
        open_bundle(folder)


def test_exchanged_file(folder):
    """Files of different exports never mix: same size, other content."""
    path = folder / "stage_a/model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    open_bundle(folder)
    with pytest.raises(RunError, match="SHA-256 differs"):
        open_bundle(folder, verify_hashes=True)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil", "..\\evil"])
def test_paths_out_of_the_bundle(folder, name):
    edit(folder, lambda m: m["files"].update({name: {"size": 1, "sha256": ""}}))
    with pytest.raises(RunError, match="outside the bundle"):
        open_bundle(folder)


def test_files_the_manifest_does_not_name(folder):
    """An engine would read a planted model.onnx.data without anybody having checked it."""
    (folder / "stage_a/model.onnx.data").write_bytes(b"planted")
    with pytest.raises(RunError, match=r"stage_a/model\.onnx\.data is not in the manifest"):
        open_bundle(folder)


def test_links_out_of_the_bundle(folder, tmp_path):
    target = tmp_path / "elsewhere.onnx"
    (folder / "stage_a/model.onnx").rename(target)
    (folder / "stage_a/model.onnx").symlink_to(target)
    with pytest.raises(RunError, match=r"links to .* outside the bundle"):
        open_bundle(folder)


def test_a_hub_caches_links_stay_valid(folder, tmp_path):
    """snapshots/<commit>/file -> ../../blobs/<hash>, as huggingface_hub lays a cache out."""
    repository = tmp_path / "models--me--bundle"
    snapshot, blobs = repository / "snapshots" / ("a" * 40), repository / "blobs"
    blobs.mkdir(parents=True)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = blobs / str(len(list(blobs.iterdir())))
        shutil.move(path, blob)
        link.symlink_to(blob)
    open_bundle(snapshot, verify_hashes=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("sampling"), "'sampling' is missing"),
        (lambda m: m.update(extra=1), "'extra' is not a known field"),
        (lambda m: m["sampling"].update(height="128"), "expected int, found str"),
        (lambda m: m["graphs"]["stage_a"].pop("file"), "'file' is missing"),
        (lambda m: m.update(text_graphs={}), "'text_graphs' must name"),
        (lambda m: m["text_graphs"].update(stage_b="other"), "'other' has no tokenizer"),
        (lambda m: m["tokenizers"]["text_encoder"].update(folder="/tmp"), r"no tokenizer\.json"),
        (lambda m: m.update(format_version=2), "format version 2"),
        (lambda m: m.update(format="other"), "is not a wuerstchen-bundle manifest"),
        (lambda m: m["graphs"]["stage_a"].update(file="gone.onnx"), "no file for graph 'stage_a'"),
    ],
)
def test_damaged_manifest(folder, change, message):
    edit(folder, change)
    with pytest.raises(RunError, match=message):
        open_bundle(folder)


def test_manifest_that_is_no_json(folder):
    (folder / "bundle.json").write_text("{")
    with pytest.raises(RunError, match="not valid JSON"):
        open_bundle(folder)
