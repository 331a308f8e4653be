"""Core ML bundles: exported, judged through the interpreter, refused off macOS by the runtime."""

import json
import shutil
import sys

import pytest

from exporter.cli import main as exporter
from exporter.options import ExportOptions
from runtimes import Options, Pipeline, RunError, UsageError
from runtimes.bundle.manifest import EXACT_GRAPHS, GRAPHS
from runtimes.engines.base import Execution
from runtimes.engines.coreml import read_specification
from runtimes.pipeline import load_tokenizers
from validation.cli import main as validation
from validation.mil.islands import precision_faults
from validation.parity.gate import run_gate
from validation.parity.graphs import InterpretedGraphs, graphs_for
from validation.parity.reference import record_reference


@pytest.fixture(scope="module")
def two_sizes(bundles):
    """fp16, as by default, for two picture sizes; the second one is not square."""
    return bundles(
        "public", ExportOptions(backend="coreml", sizes=((128, 256),), deployment_target="macOS15")
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [(128, 128), (128, 256)])
def test_both_sizes_pass_the_gate_against_diffusers(two_sizes, checkpoint, size):
    options = Options(seed=2, steps=3, decoder_steps=3, height=size[0], width=size[1])
    recording = record_reference(
        checkpoint("public"), two_sizes.manifest, "a ring", "a star", options
    )
    gate = run_gate(two_sizes, InterpretedGraphs(two_sizes), recording)
    assert gate.failures == []
    assert {check.what for check in gate.graphs} == set(GRAPHS)
    for name, used in gate.placements.items():
        assert used.engine.startswith("MIL interpreter (no Core ML)")
        assert used.precision == ("f32" if name in EXACT_GRAPHS else "f16")


@pytest.mark.slow
def test_every_package_has_its_fp32_islands(two_sizes):
    for name, graph in two_sizes.manifest.graphs.items():
        assert precision_faults(two_sizes.path(graph.file), name, graph.precision) == []


@pytest.mark.slow
def test_manifest_names_sizes_and_core_ml_types(two_sizes):
    manifest = two_sizes.manifest
    assert manifest.precision == "fp16"
    assert manifest.sizes == ((128, 128), (128, 256))
    assert manifest.graphs["text_encoder"].inputs[0].dtype == "int32"
    latents = manifest.graphs["stage_b"].inputs[0].shape
    assert latents[:3] == (1, 4, 32) and latents[3] == "width"
    for name in ("tokenizer/vocab.json", "tokenizer/merges.txt"):
        assert name in manifest.files


@pytest.mark.slow
def test_other_sizes_are_refused(two_sizes):
    graphs, tokenizers = InterpretedGraphs(two_sizes), load_tokenizers(two_sizes)
    with (
        Pipeline(two_sizes.manifest, graphs, tokenizers) as pipeline,
        pytest.raises(UsageError, match="pictures of 128 x 128, 128 x 256 pixels"),
    ):
        pipeline("a", options=Options(steps=1, decoder_steps=1, height=256))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")
def test_the_runtime_says_why_it_cannot_run_here(two_sizes):
    with pytest.raises(UsageError, match="Core ML runs on macOS only"):
        Pipeline.open(two_sizes)
    with pytest.raises(UsageError, match="Core ML runs on macOS only"):
        graphs_for(two_sizes, Execution(engine="coreml"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")
def test_the_report_says_that_it_is_an_interpreters(capsys, two_sizes):
    assert validation([str(two_sizes.folder), "--golden"]) == 0
    assert "ran on: MIL interpreter (no Core ML), PyTorch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backend", "coreml", "--deployment-target", "iOS9"], "--deployment-target iOS9"),
        (["--backend", "coreml", "--sizes", "128x192", "--deployment-target", "iOS17"],
         "takes one picture size"),
        (["--sizes", "128x192"], "--sizes is for --backend coreml"),
        (["--deployment-target", "iOS18"], "--deployment-target is for --backend coreml"),
        (["--openvino-tokenizer"], "--openvino-tokenizer is for --backend openvino"),
    ],
)  # fmt: skip
def test_bad_options(capsys, tmp_path, words, message):
    assert exporter([str(tmp_path / "b"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_package_that_leads_out_of_itself_is_refused(two_sizes, tmp_path):
    package = tmp_path / "model.mlpackage"
    shutil.copytree(two_sizes.path(two_sizes.graph("stage_a").file), package)
    manifest = package / "Manifest.json"
    manifest.write_text(manifest.read_text().replace("com.apple.CoreML/model.mlmodel", "../../m"))
    with pytest.raises(RunError, match="leads out of the package"):
        read_specification(package)


@pytest.mark.parametrize("size", ["128x", "0x0", "x", "big"])
def test_sizes_that_are_none(capsys, tmp_path, size):
    assert exporter([str(tmp_path / "b"), "--backend", "coreml", "--sizes", size]) == 2
    assert f"'{size}' is no size such as 512x768" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["coreml", "openvino"])
def test_packages_that_are_missing(capsys, tmp_path, monkeypatch, backend):
    package = {"coreml": "coremltools", "openvino": "openvino"}[backend]
    monkeypatch.setitem(sys.modules, package, None)
    assert exporter([str(tmp_path / "b"), "--backend", backend]) == 2
    assert f"pip install 'wuerstchen-export[{backend}]'" in capsys.readouterr().err


@pytest.mark.slow
def test_placement_counts_every_function_of_every_package(capsys, two_sizes):
    assert validation(["placement", str(two_sizes.folder), "--json"]) == 0
    programs = json.loads(capsys.readouterr().out)
    assert {p["graph"] for p in programs} == set(two_sizes.manifest.graphs)
    denoisers = [p for p in programs if p["graph"] == "stage_c"]
    assert [p["function"] for p in denoisers] == ["size_128x128", "size_128x256"]
    assert [p["gathers"] for p in programs if p["graph"] != "text_encoder"].count(0) >= 5
    assert all(p["beyond_axes"] == 0 for p in programs)
    assert validation(["placement", str(two_sizes.folder), "--operations"]) == 0
    printed = capsys.readouterr().out
    assert "stage_b size_128x256: in fp32" in printed and "blocks.0" in printed
