"""LiteRT: the demo's models against the golden run, quantised, and what is refused.

The packages are large and want another transformers: `make test-phones` has an environment for it.
"""

import phones
import pytest

from exporter.formats.litert import write_litert
from exporter.options import ExportOptions
from quantization.cli import main as quantization
from runtimes.bundle.read import open_bundle
from runtimes.cli import main as runtimes
from runtimes.engines.base import Execution
from runtimes.engines.litert import open_graph
from runtimes.engines.table import BundleGraphs, graph_file
from runtimes.recording import read_golden
from validation.parity.gate import run_gate

phones.required("litert-export", "litert_torch", "ai_edge_litert", "ai_edge_quantizer")

PICTURE = ["a red circle", "--steps", "2", "--decoder-steps", "2", "--quiet"]


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles("demo", ExportOptions(backend="litert"))


def test_every_graph_and_step_passes_the_golden_gate(bundle):
    found = run_gate(bundle, BundleGraphs(bundle, Execution()), read_golden(bundle))
    assert found.failures == []
    assert found.placements.keys() == bundle.manifest.graphs.keys()
    assert {(p.device, p.precision) for p in found.placements.values()} == {("CPU", "f32")}


def test_the_signature_has_the_names_of_the_manifest(bundle):
    from ai_edge_litert.interpreter import Interpreter

    for graph in bundle.manifest.graphs.values():
        signature = Interpreter(model_path=str(bundle.path(graph.file))).get_signature_runner()
        assert signature.get_input_details().keys() == {t.name for t in graph.inputs}
        assert signature.get_output_details().keys() == {t.name for t in graph.outputs}
        for tensor in graph.inputs:
            details = signature.get_input_details()[tensor.name]
            assert tuple(details["shape"]) == tensor.shape
            assert details["dtype"].__name__ == tensor.dtype


def test_eight_bits_are_two_fifths_of_the_bytes_and_pass_their_limits(bundle, tmp_path):
    words = [bundle.folder, tmp_path / "small", "--precision", "int8-dynamic", "--quiet"]
    assert quantization([str(word) for word in words]) == 0
    small = open_bundle(tmp_path / "small")
    found = run_gate(small, BundleGraphs(small, Execution()), read_golden(small))
    assert found.failures == []
    sizes = [b.manifest.files["stage_b/model.tflite"].size for b in (small, bundle)]
    assert 0.3 < sizes[0] / sizes[1] < 0.42
    done = small.manifest.quantization["stage_b"]
    assert sum(not weight.reason for weight in done.weights) == 68


def test_threads_and_a_closed_graph(bundle):
    engine = open_graph(graph_file(bundle, "stage_a"), Execution(threads=1))
    phones.check_stage_a(bundle, engine, "LiteRT failed")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda"], "--device cuda: LiteRT runs litert bundles on cpu here"),
        (["--engine", "onnxruntime"], "--engine onnxruntime runs onnx bundles"),
        (["--execution-precision", "f32"], "--execution-precision is for OpenVINO"),
        (["--height", "256", "--width", "256"], "export it for that size"),
        (["--guidance", "1"], "stage_c was exported for a batch of 2, this run needs 1"),
    ],
)
def test_what_a_model_does_not_take_is_one_line(bundle, tmp_path, capsys, words, message):
    picture = tmp_path / "p.png"
    assert runtimes([str(bundle.folder), *PICTURE, "-o", str(picture), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not picture.exists()


@pytest.mark.parametrize("precision", ["int4-weights", "int8-weights"])
def test_weights_in_blocks_are_refused(bundle, tmp_path, capsys, precision):
    assert quantization([str(bundle.folder), str(tmp_path / "out"), "--precision", precision]) == 2
    assert "LiteRT has no weights in blocks" in capsys.readouterr().err


def test_the_graph_that_hostile_tests_spoil_is_the_exporters(tmp_path):
    path = write_litert(phones.SMALL, phones.Small(), tmp_path / "graph")
    assert path.read_bytes() == (phones.GRAPHS / path.name).read_bytes()
