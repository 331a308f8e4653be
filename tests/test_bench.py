"""validation bench: every graph and whole pictures, every way to run them, times with errors."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from openvino_cases import as_ir

import validation.bench.conditioning
import validation.bench.peak
import validation.bench.public_cases
import validation.bench.pytorch
from exporter.checkpoint.configs import StageBConfig, StageCConfig
from exporter.cost import count
from exporter.graphs import plan_graphs
from exporter.options import ExportOptions
from runtimes.bundle.manifest import DENOISERS, PICTURE_GRAPHS
from runtimes.engines.base import Execution
from runtimes.engines.onnxruntime_device import computed_precision
from runtimes.tolerances import LIMITS
from validation.bench.devices import DEVICES
from validation.bench.measure import in_groups
from validation.bench.public import public_checkpoint
from validation.bench.table import HEAD
from validation.cli import main

EXACT = LIMITS["fp32"].graph_error
QUICK = ["--repeats", "1", "--without", "compile", "plain"]


@pytest.fixture(autouse=True)
def small_peak(monkeypatch):
    """A product that takes no time says how the peak is measured as well as a large one."""
    monkeypatch.setattr(validation.bench.peak, "SIZES", (64,))


def bench(capsys, *words) -> tuple[int, str, str]:
    code = main(["bench", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err


def measured(capsys, *words) -> dict:
    code, out, err = bench(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


def by_name(found: dict, graph: str) -> dict:
    return {t["contender"]: t for t in found["timings"] if t["graph"] == graph}


@pytest.mark.slow
def test_every_graph_and_the_whole_picture_are_timed_with_their_errors(capsys, bundles):
    bundle = bundles("demo")
    found = measured(capsys, bundle.folder, *QUICK)
    limits = {"PyTorch eager": 0, "ONNX Runtime": EXACT, "OpenVINO f32": EXACT}
    graphs = bundle.manifest.graphs.keys() - {*PICTURE_GRAPHS}
    assert {timing["graph"] for timing in found["timings"]} == graphs
    for graph in graphs:
        timings = by_name(found, graph)
        assert limits.keys() <= timings.keys()
        assert timings["PyTorch eager"]["speedup"] == 1
        for name, timing in timings.items():
            seconds = timing["seconds"]
            assert 0 < seconds["fastest"] <= seconds["median"] <= seconds["slowest"]
            assert timing["relative_error"] <= limits.get(name, 5e-2)
            assert timing["flops"] > 0
    assert by_name(found, "stage_b")["OpenVINO f32"]["precision"] == "f32"
    pictures = {picture["contender"]: picture for picture in found["pictures"]}
    assert {"PyTorch fp32, export form", "ONNX Runtime", "OpenVINO f32"} <= pictures.keys()
    for picture in pictures.values():
        assert picture["stages"].keys() == graphs
        assert 0 < picture["outside"] < 1
        assert picture["picture_db"] > 40


def test_the_tables(capsys, bundles, folders):
    decoder, prior = folders("one_level")
    words = ["--reference", decoder, "--prior", prior, *QUICK, "autocast", "--markdown"]
    code, out, _ = bench(capsys, bundles("one_level").folder, *words)
    assert code == 0
    about, graphs, pictures, remarks = (block.splitlines() for block in out.split("\n\n"))
    assert "torch" in about[0] and "cores" in about[0]
    for table in (graphs, pictures):
        assert {line.count("|") for line in table} == {table[0].count("|")}
    assert [cell.strip() for cell in graphs[0].strip("|").split("|")] == list(HEAD)
    assert "%" in graphs[2].split("|")[-2]
    assert any("|b| of epsilon's division" in line for line in remarks)
    assert all(line.startswith("- ") for line in remarks)


@pytest.mark.slow
def test_plain_exports_show_what_the_rewrites_are_for(capsys, bundles, folders):
    """The resize that ONNX and OpenVINO sample elsewhere, in numbers; Stage A has none."""
    decoder, prior = folders("public")
    words = ["--reference", decoder, "--prior", prior, "--graphs", "stage_b", "stage_a"]
    words += ["--repeats", "1", "--without", "compile", "autocast"]
    found = measured(capsys, bundles("public").folder, *words)
    stage_b, stage_a = by_name(found, "stage_b"), by_name(found, "stage_a")
    for name in ("plain export, ONNX Runtime", "plain export, OpenVINO f32"):
        assert stage_b[name]["relative_error"] > 1e-3
        assert stage_a[name]["relative_error"] < EXACT
        assert stage_b[name]["flops"] > stage_b["ONNX Runtime"]["flops"]
    assert stage_b["ONNX Runtime"]["relative_error"] < EXACT
    assert stage_b["plain export, OpenVINO default"]["precision"] in ("f32", "bf16", "f16")
    assert found["pictures"] == []  # some graphs only


@pytest.mark.slow
def test_torch_compile_is_timed(capsys, bundles, folders):
    decoder, prior = folders("one_level")
    words = ["--reference", decoder, "--prior", prior, "--graphs", "stage_a", "--repeats", "1"]
    words += ["--without", "plain", "autocast", "onnxruntime", "openvino"]
    found = measured(capsys, bundles("one_level").folder, *words)
    timings = by_name(found, "stage_a")
    assert list(timings) == ["PyTorch eager", "torch.compile"]
    assert timings["torch.compile"]["relative_error"] < EXACT


def test_without_a_compiler_torch_compile_is_left_out_and_why(capsys, bundles, monkeypatch):
    def compile_(module):
        raise RuntimeError("\n  no C++ compiler found\n  and much more")

    monkeypatch.setattr(torch, "compile", compile_)
    words = ["--graphs", "stage_a", "--repeats", "1", "--without", "plain", "openvino"]
    code, out, err = bench(capsys, bundles("demo").folder, *words)
    assert code == 0 and "torch.compile" not in out
    assert "without torch.compile: no C++ compiler found\n" in err


def test_a_peer_that_fails_is_left_out_and_named(capsys, bundles, monkeypatch):
    def export(*_args, **_options):
        raise RuntimeError("no such\noperator")

    demo = bundles("demo").folder
    monkeypatch.setattr(torch.onnx, "export", export)
    words = ["--graphs", "stage_a", "--repeats", "1", "--without", "compile", "autocast"]
    code, out, err = bench(capsys, demo, *words)
    assert code == 0 and "plain export, ONNX Runtime" not in out and "\nstage_a  ONNX" in out
    assert "stage_a without plain export, ONNX Runtime: no such operator\n" in err


@pytest.mark.slow
def test_other_bundles_of_the_model_run_beside_it(capsys, bundles, folders):
    decoder, prior = folders("public")
    other = bundles("public", ExportOptions(backend="openvino"))
    words = ["--reference", decoder, "--prior", prior, *QUICK, "autocast", "--also", other.folder]
    found = measured(capsys, bundles("public").folder, *words)
    assert f"{other.folder.name}: OpenVINO f32" in {p["contender"] for p in found["pictures"]}
    names = set(by_name(found, "stage_b"))
    assert {"OpenVINO f32", f"{other.folder.name}: OpenVINO f32", "ONNX Runtime"} <= names
    assert f"{other.folder.name}: ONNX Runtime" not in names  # which does not run IR


def test_what_does_not_fit_together_is_timed_in_groups(capsys, bundles):
    words = ["--graphs", "stage_a", *QUICK, "--memory", "0.0001"]
    code, out, err = bench(capsys, bundles("demo").folder, *words)
    assert code == 0
    parts = [part.partition("\n")[0] for part in err.split("\ngroup ")[1:]]
    names = ("PyTorch bf16 autocast", "ONNX Runtime")
    assert parts[:2] == [f"{i} of {len(parts)}: {name}" for i, name in enumerate(names, 1)]
    assert "timed in groups" in out
    assert err.count("stage_a: ") == out.count("stage_a ") - 1 + len(parts)  # eager in each group
    assert in_groups([3, 4, 5, 9, 1], float, 8) == [[3, 4], [5], [9], [1]]


@pytest.fixture
def narrow(monkeypatch):
    """The public sizes and names with narrow denoisers, for --real-size."""
    small = public_checkpoint(
        StageBConfig(c_hidden=(8, 16), nhead=(-1, 2), blocks=(1, 1), level_config=("CT", "CTA"),
                     inject_effnet=(False, True), patch_size=8),
        StageCConfig(c_in=16, c=32, c_cond=1280, depth=2, nhead=2),
    )  # fmt: skip
    monkeypatch.setattr(validation.bench.public_cases, "real_size", lambda: small)


@pytest.mark.slow
def test_what_a_gpu_would_run(capsys, monkeypatch, narrow):
    """--device cuda with the CPU in the GPU's place: static fp16 graphs, fused attention."""
    code, _, err = bench(capsys, "--real-size", "--device", "cuda")
    if not torch.cuda.is_available():
        assert code == 2 and "--device cuda: PyTorch" in err and "finds no CUDA GPU" in err
    executions = {"ONNX Runtime CUDA": Execution(engine="onnxruntime")}
    stand_in = dataclasses.replace(DEVICES["cuda"], name="cpu", executions=executions)
    monkeypatch.setitem(DEVICES, "cuda", stand_in)
    monkeypatch.setattr("validation.bench.devices.check_device", lambda name: None)
    monkeypatch.setattr("validation.bench.devices.device_name", lambda name: "a GPU")
    found = measured(capsys, "--real-size", "--device", "cuda", *QUICK)
    assert found["machine"].startswith("a GPU; ")
    for graph, attention in (("stage_c", 2), ("stage_b", 2)):
        timings = by_name(found, graph)
        names = {"PyTorch eager", "PyTorch fp16", "PyTorch bf16", "ONNX Runtime CUDA"}
        assert timings.keys() == names
        assert timings["PyTorch fp16"]["precision"] == "f16"
        ours = timings["ONNX Runtime CUDA"]
        assert ours["notes"] == [f"{attention} fused attention"]
        assert ours["precision"] == computed_precision("fp16", "cpu")  # f32 where it is widened
        assert 0 < ours["relative_error"] < LIMITS["fp16"].graph_error


@pytest.mark.slow
def test_real_size_on_a_small_model(capsys, monkeypatch, tmp_path, narrow):
    """All that --real-size does but its width."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = measured(capsys, "--real-size", *QUICK)
    for graph in ("stage_c", "stage_b"):
        assert by_name(found, graph)["ONNX Runtime"]["relative_error"] < EXACT
    remarks = " ".join(found["remarks"])
    for words in ("stage_c: |b|", "stage_b: |b|", "peak memory", "NumPy and Python outside"):
        assert words in remarks
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(validation.bench.conditioning, "LARGEST_B", 0.0)
    code, _, err = bench(capsys, "--real-size", *QUICK)
    assert code == 1 and "stage_c's errors would say nothing: |b| of epsilon's division" in err
    plans = plan_graphs(validation.bench.public_cases.real_size(), "nchw", text=True)
    largest = 4 * max(count(plan.shapes) for plan in plans if plan.name in DENOISERS)
    for words, free in ((QUICK, largest - 1), (["--repeats", "1"], 3 * largest - 1)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("shutil.disk_usage", lambda folder, usage=usage: usage)
        code, _, err = bench(capsys, "--real-size", *words)
        assert code == 2 and "free: set TMPDIR" in err and "exporting" not in err


def test_bad_use(capsys, bundles, tmp_path):
    demo, other = bundles("demo").folder, bundles("one_level").folder
    ir = as_ir(bundles("one_level"), tmp_path / "ir").folder
    one = "give a bundle to time, or --real-size, or --blocks"
    for words, message in (
        ([], one),
        ([demo, "--blocks"], one),
        (["--real-size", "--blocks"], one),
        (["--blocks", "--also", demo], "--also does not go with --blocks"),
        ([demo, "--repeats", "0"], "--repeats is 0"),
        ([demo, "--memory", "nan"], "--memory is nan"),
        ([demo, "--graphs", "stage_d"], "--graphs stage_d: there are text_encoder"),
        ([demo, "--graphs", "decoder_text_encoder"], "--graphs decoder_text_encoder: "),
        ([demo, "--without", "luck"], "--without luck: there are autocast"),
        ([demo, "--also", other], "compare bundles of one model"),
        ([demo, "--also", demo], f"two bundles are called '{demo.name}'"),
        ([ir], "bench takes an fp32 onnx bundle first, this is openvino fp32; give it with --also"),
    ):
        code, _, err = bench(capsys, *words)
        assert code == 2, words
        assert message in err and err.count("\n") == 1
