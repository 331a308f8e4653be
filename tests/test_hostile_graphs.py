"""Graphs that a stranger wrote: refused in one line before an engine or a quantiser sees them.

A sound graph of each format passes; every change of it that a parser would follow does not.
"""

import shutil
from pathlib import Path

import hostile_graphs
import manifests
import onnx
import pytest

from quantization.cli import main as quantization
from runtimes.bundle.read import open_bundle, sha256
from runtimes.cli import main as runtimes
from runtimes.errors import RunError
from validation.cli import main as validation
from validation.trust import hostile_onnx, hostile_ort
from validation.trust.graphs import hostile

ALL = [
    pytest.param(backend, case, id=f"{backend}-{case.what}")
    for backend in hostile_graphs.SAVE
    for case in hostile(backend)
]
WEIGHTS = {
    "ort": "",
    "onnx": "model.onnx.data",
    "openvino": "model.bin",
    "coreml": "Data/com.apple.CoreML/weights/weight.bin",
    "executorch": "",
    "litert": "",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Path]:
    """A sound graph of each format, in a folder of its own."""
    return {key: save(tmp_path_factory.mktemp(key)) for key, save in hostile_graphs.SAVE.items()}


@pytest.mark.parametrize("backend", hostile_graphs.SAVE)
def test_a_sound_graph_passes(sound, backend):
    hostile_graphs.check(backend, sound[backend])


def test_what_hostile_ort_files_are_made_from_is_sound(tmp_path):
    """So that each is refused for what is wrong with it, and not for how it was written."""
    (tmp_path / "model.ort").write_bytes(hostile_ort.content())
    hostile_graphs.check("ort", tmp_path / "model.ort")


def test_what_hostile_products_are_made_from_is_sound(sound, tmp_path):
    folder = Path(shutil.copytree(sound["onnx"].parent, tmp_path / "graph"))
    hostile_onnx.packed()(folder / "model.onnx", "")
    hostile_graphs.check("onnx", folder / "model.onnx")


@pytest.mark.parametrize(("backend", "case"), ALL)
def test_a_hostile_graph_is_refused(sound, tmp_path, backend, case):
    folder = Path(shutil.copytree(sound[backend].parent, tmp_path / "graph"))
    path = folder / sound[backend].name
    case.spoil(path, WEIGHTS[backend])
    with pytest.raises(RunError) as error:
        hostile_graphs.check(backend, path)
    message = str(error.value)
    assert case.words in message and str(path) in message
    assert "\n" not in message and message.isprintable() and len(message) < len(str(path)) + 200


def resealed(folder: Path, name: str) -> None:
    """The manifest names the file as it is now: what a stranger would do, too."""
    about = {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    manifests.edit(folder, lambda m: m["files"].update({name: about}))


@pytest.mark.parametrize(
    "spoil",
    [
        hostile_onnx.node("Softplus"),
        hostile_onnx.outside(location="../../x"),
    ],
)
def test_every_command_refuses_it(bundles, tmp_path, capsys, spoil):
    folder = Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))
    spoil(folder / "stage_a/model.onnx", "")
    resealed(folder, "stage_a/model.onnx")
    for main, words in (
        (runtimes, ["a prompt", "-o", str(tmp_path / "out.png")]),
        (quantization, [str(tmp_path / "out"), "--precision", "int8-weights"]),
        (validation, ["--report", str(tmp_path / "out")]),
    ):
        assert main([str(folder), *words]) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("error: ") and "stage_a/model.onnx" in line and "do not run" in line
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_weights_that_the_manifest_does_not_give_the_graph_are_refused(bundles, tmp_path):
    """As if they were another graph's: engines would compute with other bytes."""
    folder = Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))
    path = folder / "stage_a/model.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="w.data")
    resealed(folder, "stage_a/model.onnx")
    (folder / "stage_a/w.data").rename(folder / "stage_b/w.data")
    resealed(folder, "stage_b/w.data")
    with pytest.raises(RunError, match="none of the graph's own files"):
        open_bundle(folder)
