"""ExecuTorch: programs of every graph against the golden run, in 8 bits, and what is refused.

Its package is in no default environment: `make test-phones` has one for it.
"""

import numpy as np
import phones
import pytest

from exporter.formats.executorch import write_executorch
from exporter.options import ExportOptions
from quantization.cli import main as quantization
from runtimes.cli import main as runtimes
from runtimes.engines.base import Execution
from runtimes.engines.executorch import open_graph
from runtimes.engines.table import BundleGraphs, graph_file
from runtimes.recording import read_golden
from runtimes.tolerances import LIMITS
from validation.parity.gate import run_gate
from validation.parity.metrics import difference

phones.required("executorch", "executorch")

PICTURE = ["a red circle", "--steps", "2", "--decoder-steps", "2", "--quiet"]


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles("one_level", ExportOptions(backend="executorch", golden_steps="full"))


def test_every_graph_and_step_passes_the_golden_gate(bundle):
    found = run_gate(bundle, BundleGraphs(bundle, Execution()), read_golden(bundle))
    assert found.failures == []
    assert found.placements.keys() == bundle.manifest.graphs.keys()
    assert {(p.device, p.precision) for p in found.placements.values()} == {("CPU", "f32")}


@pytest.fixture(scope="module")
def rounded(bundles):
    options = ExportOptions(
        backend="executorch",
        precision="int8-dynamic",
        modules=("stage_b_condition", "stage_b", "stage_a"),
    )
    return bundles("one_level", options)


@pytest.mark.parametrize("name", ["stage_b", "stage_a"])
def test_eight_bits_are_near_their_fp32_graph(bundle, rounded, name):
    """Against the program in fp32, on noise."""
    draw = np.random.default_rng(0)
    feeds = {
        tensor.name: draw.standard_normal(tensor.shape, np.float32)
        for tensor in rounded.graph(name).inputs
    }
    engine = open_graph(graph_file(rounded, name), Execution())
    assert (engine.placement.device, engine.placement.precision) == ("CPU", "int8-dynamic")
    found = engine.run(feeds)
    for key, values in open_graph(graph_file(bundle, name), Execution()).run(feeds).items():
        assert 0 < difference(found[key], values).relative < LIMITS["int8-dynamic"].graph_error


def test_the_manifest_says_what_became_of_each_weight(rounded):
    done = rounded.manifest.quantization
    assert done.keys() == {"stage_b", "stage_a"}  # conditions stay fp32
    assert rounded.manifest.graphs["stage_b_condition"].precision == "fp32"
    assert rounded.manifest.graphs["stage_b"].precision == "int8-dynamic"
    weights = {weight.name: weight for weight in done["stage_b"].weights}
    assert weights["clf.weight"].stored == "float32" and weights["clf.weight"].reason
    products = [name for name, weight in weights.items() if not weight.reason]
    assert {name.rsplit(".", 2)[1] for name in products} == {
        *("expand", "contract", "to_q", "to_k", "to_v", "to_out")
    }
    assert done["stage_b"].bytes_after == rounded.manifest.files["stage_b/model.pte"].size


def test_threads_and_a_closed_graph(bundle):
    engine = open_graph(graph_file(bundle, "stage_a"), Execution(threads=1))
    phones.check_stage_a(bundle, engine, "ExecuTorch failed")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda"], "--device cuda: ExecuTorch runs executorch bundles on cpu here"),
        (["--engine", "litert"], "--engine litert runs litert bundles"),
        (["--cache-dir", "c"], "--cache-dir is for OpenVINO"),
        (["--guidance", "1"], "stage_c was exported for a batch of 2, this run needs 1"),
    ],
)
def test_what_a_program_does_not_take_is_one_line(bundle, tmp_path, capsys, words, message):
    picture = tmp_path / "p.png"
    assert runtimes([str(bundle.folder), *PICTURE, "-o", str(picture), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not picture.exists()


def test_there_is_nothing_to_quantise_it_with(bundle, tmp_path, capsys):
    words = [str(bundle.folder), str(tmp_path / "out"), "--precision", "int8-weights"]
    assert quantization(words) == 2
    assert "is an executorch bundle; those of onnx, openvino" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "module", "dynamic"),
    [("model.pte", phones.Small, False), ("model-int8.pte", phones.Rounded, True)],
)
def test_the_graphs_that_hostile_tests_spoil_are_the_exporters(tmp_path, name, module, dynamic):
    path = write_executorch(phones.SMALL, module(), tmp_path / "graph", dynamic=dynamic)
    assert path.read_bytes() == (phones.GRAPHS / name).read_bytes()
