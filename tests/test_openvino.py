"""OpenVINO: IR and ONNX bundles, the precision really used, the cache, and refusals."""

import dataclasses
import errno
import os
import shutil
import sys

import numpy as np
import openvino
import pytest
from openvino_cases import as_ir

from exporter.options import ExportOptions
from runtimes import Options, Pipeline, RunError, UsageError
from runtimes.bundle.manifest import EXACT_GRAPHS
from runtimes.bundle.read import open_bundle
from runtimes.cli import main
from runtimes.engines.base import Execution
from runtimes.engines.table import BundleGraphs
from runtimes.recording import read_golden
from runtimes.tolerances import LIMITS
from validation.parity.gate import run_gate
from validation.parity.reference import record_reference

SHORT = Options(steps=2, decoder_steps=2)
# What this CPU computes in, as OpenVINO reports it.
CAPABILITIES = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


CAN = "OPTIMIZATION_CAPABILITIES"


@pytest.fixture(scope="module")
def ir(bundles, tmp_path_factory):
    """The IR that the exporter would write, without tracing every graph again."""
    return as_ir(bundles("public"), tmp_path_factory.mktemp("ir") / "bundle")


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def gate(bundle, recording, **execution):
    return run_gate(bundle, BundleGraphs(bundle, Execution(**execution)), recording)


def test_an_ir_bundle_passes_the_gate_against_diffusers(ir, checkpoint):
    options = Options(seed=5, steps=3, decoder_steps=3, height=128, width=256)
    recording = record_reference(checkpoint("public"), ir.manifest, "a ring", "a star", options)
    found = gate(ir, recording, precision="f32")
    assert found.failures == []
    assert {str(used) for used in found.placements.values()} == {
        f"OpenVINO {openvino.__version__.split('-')[0]}, CPU, f32"
    }


def test_the_exporter_writes_that_ir(bundles, ir):
    options = ExportOptions(backend="openvino", modules=("stage_a",), golden=False)
    written = bundles("public", options)
    assert written.manifest.backend == "openvino"
    theirs = dataclasses.replace(ir.graph("stage_a"), origin=written.graph("stage_a").origin)
    assert written.graph("stage_a") == theirs
    assert not any(name.endswith((".onnx", ".data")) for name in written.manifest.files)
    weights, operators = zip(*(_ir_of(bundle, "stage_a") for bundle in (written, ir)), strict=True)
    assert weights[0] == weights[1]
    assert operators[0] == operators[1]


def _ir_of(bundle, name):
    """The weights' bytes, and the operators with their attributes and shapes; names are counted."""
    path = bundle.path(bundle.graph(name).file)
    model = openvino.Core().read_model(path)
    operators = [
        (
            op.get_type_name(),
            op.get_attributes(),
            [str(o.get_partial_shape()) for o in op.outputs()],
        )
        for op in model.get_ordered_ops()
    ]
    return path.with_suffix(".bin").read_bytes(), operators


def test_ir_files_are_the_graphs_of_the_manifest(ir):
    for graph in ir.manifest.graphs.values():
        assert graph.file.endswith("/openvino_model.xml")
        assert graph.file.replace(".xml", ".bin") in ir.manifest.files
        model = openvino.Core().read_model(ir.path(graph.file))
        assert [value.get_any_name() for value in model.inputs] == [t.name for t in graph.inputs]
        assert [value.get_any_name() for value in model.outputs] == [t.name for t in graph.outputs]
    assert not any(name.endswith((".onnx", ".data")) for name in ir.manifest.files)


@pytest.mark.slow
def test_fp16_stores_half_the_bytes_and_passes_its_limits(bundles, ir):
    half = bundles("public", ExportOptions(backend="openvino", precision="fp16"))
    found = gate(half, read_golden(half), precision="f32")
    assert found.failures == []
    sizes = [b.manifest.files["stage_b/openvino_model.bin"].size for b in (half, ir)]
    assert 0.45 < sizes[0] / sizes[1] < 0.55
    assert half.manifest.graphs["stage_b_condition"].precision == "fp32"


@pytest.mark.slow
@pytest.mark.skipif("BF16" not in CAPABILITIES, reason="this CPU has no bf16")
def test_default_precision_keeps_35_db_in_every_graph_and_step_of_the_demo(bundles):
    """On learned weights; condition graphs stay f32 even where bf16 is asked for."""
    bundle = bundles("demo")
    recording = read_golden(bundle)
    for asked in (None, "bf16"):
        found = gate(bundle, recording, engine="openvino", precision=asked)
        assert found.failures == []
        least = min(check.sqnr_db for check in (*found.graphs, *found.steps))
        assert least >= LIMITS["bf16"].graph_db
        for name, used in found.placements.items():
            assert used.precision == ("f32" if name in EXACT_GRAPHS else "bf16")


@pytest.mark.skipif("BF16" not in CAPABILITIES, reason="this CPU has no bf16")
@pytest.mark.parametrize("name", ["stage_c", "stage_b"])
def test_the_last_projection_and_the_residual_stream_stay_f32(bundles, name):
    """What LastProjection is for: OpenVINO keeps f32 from epsilon back through every sum."""
    bundle = bundles("demo")
    core = openvino.Core()
    model = core.read_model(bundle.path(bundle.graph(name).file))
    model.reshape({t.name: _shape_in(t, bundle, name) for t in bundle.graph(name).inputs})
    ran = [
        op.get_rt_info() for op in core.compile_model(model, "CPU").get_runtime_model().get_ops()
    ]
    last = [i for i in ran if _text(i["layerType"]) == "Deconvolution"]
    assert "f32" in {_text(i["runtimePrecision"]) for i in last}
    out = [_text(i["outputPrecisions"]) for i in ran if _text(i["layerType"]) == "Convolution"]
    # Each ResBlock ends in a convolution that adds to the stream; attention's and Stage B's
    # resampling add more. All others stay bf16.
    assert 10 <= out.count("f32") < len(out) / 2


def _shape_in(tensor, bundle, name):
    recorded = read_golden(bundle).tensors
    rows = 2 if name == "stage_c" else 1
    key = f"{name}/start.latents" if tensor.name == "latents" else f"{name}_condition.{tensor.name}"
    if tensor.name == "timestep_embedding":
        return [rows, tensor.shape[1]]
    return [rows, *recorded[key].shape[1:]]


def _text(value):
    return value.value if hasattr(value, "value") else str(value)


def test_pictures_of_several_sizes_and_batches_from_one_pipeline(bundles):
    """Compiled again for new shapes; equal to ONNX Runtime's within a level."""
    bundle = bundles("public")
    with (
        Pipeline.open(bundle, engine="openvino", precision="f32") as ours,
        Pipeline.open(bundle) as theirs,
    ):
        for height, prompts in ((128, ["a"]), (256, ["a"]), (128, ["a", "b"])):
            options = Options(steps=2, decoder_steps=2, height=height)
            found, expected = (p(prompts, options=options).pictures for p in (ours, theirs))
            assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_second_start_takes_compiled_graphs_from_the_cache(ir, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    first = _picture(ir, folder)
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    assert len(kept) == len(ir.manifest.graphs)
    assert folder.stat().st_mode & 0o777 == 0o700

    def compiled(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(openvino.Core, "compile_model", compiled)
    assert np.array_equal(_picture(ir, folder), first)
    assert {path: path.read_bytes() for path in folder.iterdir()} == kept


def test_a_changed_cache_file_is_compiled_anew(ir, tmp_path):
    """OpenVINO itself would load it, and compute something else."""
    first = _picture(ir, tmp_path)
    for path in tmp_path.iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    largest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(b"short")
    with Pipeline.open(ir, cache_dir=tmp_path) as pipeline:
        result = pipeline("a ring", options=SHORT)
    assert np.array_equal(result.pictures, first)
    for placement in result.placements.values():
        assert "cached graph not read: it is damaged" in placement.notes
    again = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert np.array_equal(_picture(ir, tmp_path), first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == again


def test_a_graph_that_cannot_be_kept_says_so(ir, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("runtimes.bundle.write.os.replace", full)
    with Pipeline.open(ir, cache_dir=tmp_path) as pipeline:
        placements = pipeline("a ring", options=SHORT).placements
    for placement in placements.values():
        (note,) = placement.notes
        assert note.startswith("compiled graph not kept: ") and note.endswith("the disk is full")
    assert list(tmp_path.iterdir()) == []


def _picture(bundle, cache):
    with Pipeline.open(bundle, cache_dir=cache) as pipeline:
        return pipeline("a ring", options=SHORT).pictures


def test_graphs_that_are_not_the_manifests_do_not_enter_the_cache(ir, tmp_path):
    """Else a bundle that was damaged once would stay so after it was mended."""
    copy = tmp_path / "bundle"
    shutil.copytree(ir.folder, copy)
    weights = copy / "stage_b" / "openvino_model.bin"
    content = bytearray(weights.read_bytes())
    content[-8:] = b"12345678"
    weights.write_bytes(content)
    with (
        Pipeline.open(open_bundle(copy, hashes="none"), cache_dir=tmp_path / "cache") as pipeline,
        pytest.raises(RunError, match="is not the file the manifest names"),
    ):
        pipeline("a ring", options=SHORT)


def test_a_cache_file_that_others_could_have_written_is_not_read(ir, tmp_path, monkeypatch):
    first = _picture(ir, tmp_path)
    for path in tmp_path.iterdir():
        path.chmod(0o666)
    compiled, calls = openvino.Core.compile_model, []
    monkeypatch.setattr(
        openvino.Core, "compile_model", lambda *args: calls.append(1) or compiled(*args)
    )
    assert np.array_equal(_picture(ir, tmp_path), first)
    assert len(calls) == len(ir.manifest.graphs)


def test_a_graph_without_a_declared_output_is_one_line(capsys, ir, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(ir.folder, copy)
    graph = copy / "stage_b" / "openvino_model.xml"
    graph.write_text(graph.read_text().replace('"epsilon"', '"epsilox"'))
    code, _, err = run(capsys, copy, "a", "-o", tmp_path / "p.png", "--quiet", "--no-verify")
    assert code == 1 and "has no tensor epsilon" in err and err.count("\n") == 1


def test_auto_says_which_device_and_precision_it_took(ir):
    with Pipeline.open(ir, device="auto") as pipeline:
        placements = pipeline("a ring", options=SHORT).placements
    assert {used.device for used in placements.values()} == {"CPU"}
    assert placements["stage_b"].precision in ("f32", "bf16", "f16")


def test_another_precision_is_another_cache_entry(ir, tmp_path):
    _picture(ir, tmp_path)
    count = len(list(tmp_path.iterdir()))
    with Pipeline.open(ir, cache_dir=tmp_path, precision="f32") as pipeline:
        pipeline("a ring", options=SHORT)
    assert len(list(tmp_path.iterdir())) > count


def test_the_summary_says_where_each_graph_ran(capsys, bundles, tmp_path):
    words = ["a", "-o", tmp_path / "p.png", "--engine", "openvino"]
    code, out, _ = run(capsys, bundles("public").folder, *words, "--steps", 2, "--decoder-steps", 2)
    assert code == 0
    assert f"OpenVINO {openvino.__version__.split('-')[0]}, CPU, f32" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "gpu"], "--device gpu: OpenVINO finds cpu here"),
        (["--device", "cuda"], "--device cuda: OpenVINO finds cpu here"),
        (
            ["--engine", "onnxruntime"],
            "--engine onnxruntime runs onnx bundles and",
        ),
        (["--engine", "coreml"], "--engine coreml runs coreml bundles"),
        (["--execution-precision", "f16"], "--execution-precision f16: this CPU has f32"),
        (["--device", "auto", "--cache-dir", "c"], "--cache-dir needs a device by name"),
        (["--device", "auto", "--execution-precision", "f32"], "needs a device by name"),
        (["--cache-dir", ""], "--cache-dir is empty"),
        (["--cache-dir", "taken/cache"], "--cache-dir taken/cache cannot be written"),
        (["--cache-dir", "shared"], "--cache-dir shared: others can write to it"),
    ],
)
def test_bad_options(capsys, ir, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(openvino.Core, "available_devices", ["CPU"])  # as on this machine anywhere
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    has = openvino.Core.get_property
    monkeypatch.setattr(  # as on a CPU without f16 anywhere
        openvino.Core,
        "get_property",
        lambda core, *of: (
            [x for x in has(core, *of) if x != "FP16"] if CAN in of else has(core, *of)
        ),
    )
    code, _, err = run(capsys, ir.folder, "a", *words)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert sorted(os.listdir(tmp_path)) == ["shared", "taken"]


def test_onnx_runtime_has_no_such_options(bundles):
    for given in ({"precision": "bf16"}, {"cache_dir": "c"}):
        with pytest.raises(UsageError, match="is for OpenVINO"):
            Pipeline.open(bundles("public"), **given)


def test_openvino_not_installed(capsys, ir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, _, err = run(capsys, ir.folder, "a", "-o", tmp_path / "p.png")
    assert code == 2 and "pip install 'wuerstchen-export[openvino]'" in err
