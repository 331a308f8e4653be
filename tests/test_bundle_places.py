"""What reads graphs reads them in a hub's cache and in hard-linked copies as anywhere else.

onnx and onnx_ir refuse weights that are links or have several names; OpenVINO and ONNX Runtime
refuse links that lead out of the graph's folder.
"""

import io
import os
import shutil
from pathlib import Path

import manifests
import numpy as np
import onnx
import onnx_ir
import pytest
from bundle_places import hard_linked, in_hub_cache, littered
from onnx import numpy_helper

from quantization.instrumented import instrumented
from quantization.onnx_files import load
from quantization.quantize import Request, quantize
from quantization.recipes import PRESETS
from runtimes.bundle.graph_files import real_files
from runtimes.bundle.manifest import GOLDEN_FILE
from runtimes.bundle.manifest_json import read_manifest
from runtimes.bundle.read import open_bundle
from runtimes.bundle.write import seal
from runtimes.engines.base import Execution
from runtimes.engines.table import BundleGraphs, graph_file
from runtimes.progress import Progress
from runtimes.recording import read_golden

NAME = "one_level"
GRAPH = "stage_b"
PLACES = {"hub": in_hub_cache, "hard": hard_linked}


@pytest.fixture(params=PLACES)
def copied(request, bundles, tmp_path):
    """The bundle in a place where readers refuse its weights, all of which lie beside the graph."""
    plain = Path(shutil.copytree(bundles(NAME).folder, tmp_path / "plain"))
    path = plain / bundles(NAME).graph(GRAPH).file
    (path.parent / "model.onnx.data").unlink(missing_ok=True)
    onnx.save(
        onnx.load(bundles(NAME).path(bundles(NAME).graph(GRAPH).file)),
        path,
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=256,  # what shapes are computed from stays inside
    )
    seal(plain, read_manifest(plain))
    return open_bundle(PLACES[request.param](plain, tmp_path / "copied"), hashes="fresh")


def path_of(bundle):
    return bundle.path(bundle.graph(GRAPH).file)


def step_of(bundle):
    """Recorded inputs and output of the denoiser's first step."""
    golden = read_golden(bundle).tensors
    embedding = np.array(bundle.manifest.sampling.stage_b.embeddings[:1], np.float32)
    feeds = {"latents": golden[f"{GRAPH}/start.latents"], "timestep_embedding": embedding}
    names = {tensor.name for tensor in bundle.graph(GRAPH).inputs} - feeds.keys()
    feeds |= {name: golden[f"{GRAPH}_condition.{name}"] for name in names}
    return feeds, golden[f"{GRAPH}/0.epsilon"]


def test_the_libraries_own_readers_refuse_them(copied):
    """If one of these passes, a reader of ours is no longer needed."""
    with pytest.raises(onnx.checker.ValidationError, match=r"symbolic link|hard links"):
        onnx.load(path_of(copied))
    with pytest.raises(ValueError, match=r"symlink|hard links"):
        onnx_ir.external_data.load_to_model(onnx_ir.load(path_of(copied)))


def test_weights_are_read_as_they_are(copied, bundles):
    expected = onnx.load(bundles(NAME).path(bundles(NAME).graph(GRAPH).file)).graph.initializer
    weights = load(path_of(copied)).graph.initializers
    assert len(weights) == len(expected) > 10
    for theirs in expected:
        wanted, mapped = numpy_helper.to_array(theirs), weights[theirs.name].const_value
        assert np.array_equal(mapped.numpy(), wanted) and mapped.dtype == theirs.data_type


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_run_them(copied, engine):
    feeds, expected = step_of(copied)
    precision = "f32" if engine == "openvino" else None
    engine = BundleGraphs(copied, Execution(engine=engine, precision=precision)).open(GRAPH)
    found = engine.run(feeds)["epsilon"]
    engine.close()
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_a_graph_is_measured_from_inside(copied):
    feeds, expected = step_of(copied)
    nodes = onnx.load(path_of(copied), load_external_data=False).graph.node
    first = next(node.output[0] for node in nodes if node.op_type == "Conv")
    outputs, largest = instrumented(path_of(copied), {first: []})(feeds)
    assert np.abs(outputs["epsilon"] - expected).max() < 1e-3 * np.abs(expected).max()
    assert largest[first] > 0


@pytest.mark.parametrize(
    "precision", ["int8-weights", "fp16", pytest.param("int8-dynamic", marks=pytest.mark.slow)]
)
def test_every_recipe_quantises_them(copied, bundles, tmp_path, precision):
    """To the same bytes as the bundle that was written there, and nothing strange comes along."""
    littered(copied.folder, ["picture.png", ".git/HEAD", "stage_a/.DS_Store"])
    plan = {GRAPH: PRESETS[precision][GRAPH]}
    request = Request(precision, plan, [], 1, 0, target_db=0)
    before = {path: path.stat().st_mtime for path in copied.folder.rglob("*")}
    quantize(copied, tmp_path / "made", request)
    assert before == {path: path.stat().st_mtime for path in copied.folder.rglob("*")}
    quantize(open_bundle(tmp_path / "plain"), tmp_path / "theirs", request)
    made, theirs = (open_bundle(tmp_path / name, verify_rest=True) for name in ("made", "theirs"))
    assert made.manifest == theirs.manifest
    assert made.manifest.graphs[GRAPH].precision == precision and not made.strangers()


def test_openvino_gets_second_names_or_copies(copied, monkeypatch):
    """And the weights in the folder of a link are never copied where a second name will do."""
    file = graph_file(copied, GRAPH)
    assert sorted(file.files) == ["model.onnx", "model.onnx.data"]
    for works in (True, False):
        if not works:
            monkeypatch.setattr(os, "link", _no_link)
        with real_files(file.path, file.files) as path:
            for name in file.files:
                assert not (path.parent / name).is_symlink()
                assert (path.parent / name).read_bytes() == (file.path.parent / name).read_bytes()
            if file.path.is_symlink():
                assert (path.stat().st_ino == file.path.stat().st_ino) == works
        assert path == file.path or not path.exists()


def _no_link(*_):
    raise OSError(18, "Invalid cross-device link")


def test_a_quantised_bundle_lacks_a_golden_run_that_nobody_can_vouch_for(bundles, tmp_path):
    folder = Path(shutil.copytree(bundles(NAME).folder, tmp_path / "bundle"))
    golden = folder / GOLDEN_FILE
    golden.write_bytes(golden.read_bytes()[:-1] + b"?")
    said = io.StringIO()
    plan = {"stage_a": PRESETS["int8-weights"]["text_encoder"]}
    quantize(
        open_bundle(folder),
        tmp_path / "made",
        Request("int8-weights", plan, [], 1, 0),
        Progress(stream=said),
    )
    assert GOLDEN_FILE not in open_bundle(tmp_path / "made").manifest.files
    line = next(line for line in said.getvalue().splitlines() if "golden" in line)
    assert line.startswith("without the golden run: ") and "SHA-256 differs" in line


def test_graphs_at_the_top_are_quantised(bundles, tmp_path):
    """A bundle of another's making: the graph beside the manifest, and no folder of its own."""
    folder = Path(shutil.copytree(bundles(NAME).folder, tmp_path / "bundle"))
    value = manifests.read(folder)
    for path in (folder / GRAPH).iterdir():
        path.rename(folder / path.name)
    value["graphs"][GRAPH]["file"] = "model.onnx"
    value["files"] = {n.removeprefix(f"{GRAPH}/"): file for n, file in value["files"].items()}
    manifests.write(folder, value)
    bundle = open_bundle(folder, hashes="fresh", verify_rest=True)
    request = Request("int8-weights", {GRAPH: PRESETS["int8-weights"][GRAPH]}, [], 1, 0)
    quantize(bundle, tmp_path / "made", request)
    made = open_bundle(tmp_path / "made", verify_rest=True)
    assert made.manifest.graphs.keys() == bundle.manifest.graphs.keys() and not made.strangers()
    record = made.manifest.quantization[GRAPH]
    assert record.bytes_before == sum(file.size for file in bundle.files_of(GRAPH).values())
    assert record.bytes_after == sum(file.size for file in made.files_of(GRAPH).values())
