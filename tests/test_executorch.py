"""ExecuTorch: programs of every graph against the golden run, and what is refused.

Its package is in no default environment: `make test-phones` has one for it.
"""

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
from validation.parity.gate import run_gate

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


def test_the_graph_that_hostile_tests_spoil_is_the_exporters(tmp_path):
    path = write_executorch(phones.SMALL, phones.Small(), tmp_path / "graph")
    assert path.read_bytes() == (phones.GRAPHS / path.name).read_bytes()
