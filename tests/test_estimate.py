"""What an export needs is known before it starts, and is little more than its largest weight."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from safetensors.torch import save_file
from stub_graphs import stub_graph

from exporter import budget
from exporter.budget import estimate
from exporter.checkpoint.find import demo_pair, find_pair
from exporter.checkpoint.open import open_checkpoint
from exporter.checkpoint.shapes import stage_c_shapes
from exporter.cli import main
from exporter.cost import one_picture, peak_bytes
from exporter.dimensions import example_inputs
from exporter.export import export as run_export
from exporter.formats import openvino as openvino_graph
from exporter.formats.onnx import OPSET, TRANSLATIONS, write_onnx
from exporter.formats.table import BACKENDS
from exporter.graphs import plan_graphs
from exporter.job import check_job
from exporter.options import ExportOptions
from exporter.sampling import sampling
from runtimes.memory import available_memory
from runtimes.progress import Progress
from runtimes.sizes import sizes
from validation.bench.public import STAGE_B, STAGE_C, public_checkpoint

CLOSE = 0.15  # of what is measured
MEASURED = (
    "import sys; from exporter.cli import main; from runtimes.memory import peak_bytes;"
    "code = main(sys.argv[1:]); print(peak_bytes()); sys.exit(code)"
)


def export(output, words) -> int:
    """Export in a process of its own; returns its peak memory in bytes."""
    given = [sys.executable, "-c", MEASURED, output, *words, "--quiet", "--no-golden"]
    found = subprocess.run(list(map(str, given)), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def estimated(pair, **options) -> budget.Budget:
    job = check_job(open_checkpoint(*pair, None), ExportOptions(golden=False, **options))
    return estimate(job, job.chosen(), ())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted otherwise")
def test_the_estimate_is_what_is_measured(folders, tmp_path):
    """Of 236 MB of weights, 9 MB each, less than 80 MB are ever in memory."""
    decoder, prior = (shutil.copytree(f, tmp_path / f.name) for f in folders("one_level"))
    config = json.loads((prior / "prior/config.json").read_text())
    config |= {"c": 1536, "nhead": 24, "depth": 8}
    (prior / "prior/config.json").write_text(json.dumps(config))
    pair = find_pair(str(decoder), str(prior))
    shapes = stage_c_shapes(open_checkpoint(*pair, None).stage_c.config)
    file = prior / "prior/diffusion_pytorch_model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, file)
    found = estimated(pair, modules=("stage_c_condition",))
    words = ["-m", decoder, "--prior", prior, "--modules", "stage_c_condition"]
    peak = export(tmp_path / "b", words)
    assert abs(found.memory / peak - 1) < CLOSE
    assert peak < budget.COSTS["onnx"].process + 80e6
    assert abs(found.disk / size_of(tmp_path / "b") - 1) < CLOSE


@pytest.mark.slow
def test_openvino_needs_room_for_both_formats(tmp_path, monkeypatch):
    """The ONNX graph lies beside the IR until that is whole: the most that is on disk at once."""
    words = ["--backend", "openvino", "--modules", "stage_c_condition", "--no-golden", "--quiet"]
    most = []

    def removed(folder):
        most.append(size_of(folder.parents[2]))
        shutil.rmtree(folder)

    monkeypatch.setattr(openvino_graph, "rmtree", removed)
    assert main([str(tmp_path / "out" / "b"), *words]) == 0
    found = estimated(demo_pair(), backend="openvino", modules=("stage_c_condition",))
    assert abs(found.disk / max(most) - 1) < CLOSE


@pytest.mark.parametrize(
    ("graph", "half"),
    [pytest.param("text_encoder", False, marks=pytest.mark.slow), ("stage_c", True)],
)
def test_a_streamed_graph_is_the_one_pytorch_writes(checkpoint, tmp_path, graph, half):
    """Traced without weights, it has the nodes and weights of an export that has them all."""
    plans = {plan.name: plan for plan in plan_graphs(checkpoint("one_level"), "nchw", text=True)}
    plan = plans[graph]
    with plan.weights() as weights, plan.module() as module:
        deferred = plan.defer(weights)
        if half:
            deferred.module.half()
            module.half()
        path = write_onnx(plan, deferred, tmp_path / graph, static=True)
        names = ([t.name for t in plan.inputs], [t.name for t in plan.outputs])
        program = torch.onnx.export(
            module, example_inputs(plan), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=names[0], output_names=names[1], custom_translation_table=TRANSLATIONS,
        )  # fmt: skip
    found, expected = onnx.load(path), onnx_ir.to_proto(program.model)
    assert [_operation(n) for n in found.graph.node] == [_operation(n) for n in expected.graph.node]
    ours, theirs = _weights(found), _weights(expected)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def _operation(node):
    node.ClearField("metadata_props")
    return node.SerializeToString()


def _weights(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def test_views_of_weights_are_no_memory():
    """A Linear's transposed weight is the weight: inspect once counted it twice."""
    found = public_checkpoint(STAGE_B, STAGE_C)
    constants = sampling(found, 1024, 1024)
    plan = plan_graphs(found, "nchw", text=True)[0]
    picture = one_picture(plan, constants, sizes(1024, 1024, constants))
    weights = sum(4 * p.numel() for p in plan.meta_module().parameters())
    assert weights < peak_bytes(picture) < 1.01 * weights


def refused(capsys, tmp_path, *words) -> str:
    assert main([str(word) for word in (tmp_path / "deep" / "out", *words)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    return err


def test_too_little_memory_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "available_memory", lambda: 12_000_000)
    monkeypatch.setattr(budget, "process_memory", lambda: 300_000_000)
    err = refused(capsys, tmp_path)
    assert "MB more memory and 12.0 MB are free: give fewer --modules" in err


def test_too_little_disk_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1_000))
    err = refused(capsys, tmp_path)
    assert "needs about 42.2 MB of disk" in err and "0.0 MB free: give --precision fp16" in err
    less = refused(capsys, tmp_path, "--precision", "fp16", "--no-golden")
    assert "needs about 23.0 MB of disk" in less  # such a bundle has 22.7


def test_graphs_that_are_there_need_nothing():
    job = check_job(open_checkpoint(*demo_pair(), None), ExportOptions(golden=False))
    plans = job.plans
    whole, rest = (estimate(job, plans, done) for done in ((), [p.name for p in plans[1:]]))
    assert rest.disk < whole.disk / 8 and rest.memory < whole.memory


def test_a_system_that_does_not_say(tmp_path, monkeypatch):
    assert available_memory(tmp_path) is None
    monkeypatch.setattr(budget, "available_memory", lambda: None)
    budget.check_budget(budget.Budget(memory=10**18, disk=0), tmp_path / "out")


MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    9000000 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 9_216_000_000),
        (
            {  # version 2: the group has 4 GB and uses 3.5, of which 1 is cached files
                "proc/self/cgroup": "0::/job",
                "sys/fs/cgroup/job/memory.max": "4000000000",
                "sys/fs/cgroup/job/memory.current": "3500000000",
                "sys/fs/cgroup/job/memory.stat": "anon 2500000000\ninactive_file 1000000000",
            },
            1_500_000_000,
        ),
        (
            {  # no limit of its own, one of the group above
                "proc/self/cgroup": "0::/user/job",
                "sys/fs/cgroup/user/job/memory.max": "max",
                "sys/fs/cgroup/user/job/memory.current": "3500000000",
                "sys/fs/cgroup/user/memory.max": "8000000000",
                "sys/fs/cgroup/user/memory.current": "3500000000",
            },
            4_500_000_000,
        ),
        (
            {  # version 1, in a container that sees its own group at the root
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1900000000",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 300000000",
            },
            400_000_000,
        ),
        (
            {  # version 1 writes "no limit" as a number
                "proc/self/cgroup": "4:memory:/",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1900000000",
            },
            9_216_000_000,
        ),
    ],
)
def test_available_memory(tmp_path, files, expected):
    for name, text in ({"proc/meminfo": MEMINFO} | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == expected


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar_of_bytes():
    screen = Terminal()
    add = Progress(stream=screen).graph("[3/7] stage_c", 4_000_000_000)
    for _ in range(5):
        add(1_000_000_000)
    drawn = screen.getvalue().split("\r")
    assert drawn[-2].endswith("3.00 GB of 4.00 GB  ")
    assert drawn[-1].startswith("[3/7] stage_c") and drawn[-1].endswith("4.00 GB of 4.00 GB  \n")
    assert "[########################]" in drawn[-1]


def test_progress_elsewhere_is_plain_lines():
    page = io.StringIO()
    Progress(stream=page).graph("[3/7] stage_c", 3_970_000_000)(1_000)
    assert page.getvalue() == "[3/7] stage_c: 3.97 GB\n"
    page = io.StringIO()
    quiet = Progress(quiet=True, stream=page)
    quiet.graph("[1/1] stage_a", 10)(10)
    quiet.line("hashing")
    assert page.getvalue() == ""


def test_every_weight_is_counted(folders, tmp_path, monkeypatch):
    """The bar reaches its end when the last weight is taken, not before."""

    def write(plan, deferred, folder, target):
        *most, last = deferred.recipes
        for name in most:
            deferred.value(name)
        assert "[########################]" not in screen.getvalue()
        deferred.value(last)
        folder.mkdir()
        (folder / "model.onnx").write_bytes(stub_graph("a graph"))
        return folder / "model.onnx"

    monkeypatch.setitem(BACKENDS, "onnx", replace(BACKENDS["onnx"], write=write))
    screen = Terminal()
    pair = find_pair(*map(str, folders("one_level")))
    options = ExportOptions(modules=("stage_a",), golden=False)
    run_export(*pair, tmp_path / "b", options, Progress(stream=screen))
    drawn = screen.getvalue().split("\r")
    full = [line for line in drawn if "[########################]" in line]
    assert [line.split()[0] for line in full] == ["[1/1]", "hashing"]
