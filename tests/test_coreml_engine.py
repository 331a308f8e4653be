"""The Core ML adapter: what it asks of coremltools, the interpreter standing in for Core ML."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.dimensions import make_static
from exporter.formats.coreml import write_coreml
from exporter.graphs import plan_graphs
from runtimes.bundle.manifest import Graph
from runtimes.engines.base import Execution, GraphFile, Placement
from runtimes.engines.coreml import COMPUTE_UNITS, check, import_coremltools, open_graph
from runtimes.errors import RunError, UsageError
from validation.mil.engine import MilEngine

pytest.importorskip("coremltools")

LARGE = {"batch": 1, "height": 4, "width": 3}
SMALL = {"batch": 1, "height": 2, "width": 3}


class Model:
    """MLModel as on a Mac: loads one function, takes a dict of arrays and gives one."""

    loaded: list[tuple[str, dict]] = []  # noqa: RUF012

    def __init__(self, path, **options):
        if path.endswith("broken.mlpackage"):
            raise RuntimeError("Error compiling model:\n  no such layer")
        Model.loaded.append((path, options))
        self.path = path

    def predict(self, feeds):
        if any(value.dtype == np.int64 for value in feeds.values()):
            raise RuntimeError("unsupported type:\n int64")
        return MilEngine(Path(self.path), Model.graph).run(feeds)


def on_mac(monkeypatch):
    """From here on, coremltools is on a Mac: only converting is over by then."""
    Model.loaded = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(import_coremltools().models, "MLModel", Model)


def opened(path, device):
    return open_graph(GraphFile(path, Model.graph, ""), Execution(device))


def written(checkpoint, folder, name, sizes):
    """The package and the static plan of its first size."""
    plan = next(
        p for p in plan_graphs(checkpoint("one_level"), "nchw", text=True) if p.name == name
    )
    with plan.module() as module:
        path = write_coreml(
            plan, module, folder / name, license="", metadata={}, target="iOS18", sizes=sizes
        )
    static = make_static(plan, next(iter(sizes.values())))
    Model.graph = Graph("", "fp32", static.inputs, static.outputs)
    return path, static, module


def test_runs_a_graph_and_places_it(monkeypatch, checkpoint, tmp_path):
    path, _, module = written(checkpoint, tmp_path, "text_encoder", {"only": SMALL})
    on_mac(monkeypatch)
    engine = opened(path, "npu")
    ids = torch.arange(77)[None]
    feeds = {"input_ids": ids.numpy(), "attention_mask": np.ones((1, 77), np.int64)}
    found = engine.run(feeds)["last_hidden_state"]
    assert np.allclose(found, module(ids, torch.ones_like(ids)).numpy(), rtol=1e-4, atol=1e-4)
    units = import_coremltools().ComputeUnit.CPU_AND_NE
    assert Model.loaded == [(str(path), {"compute_units": units})]
    name = f"Core ML, coremltools {import_coremltools().__version__}"
    assert engine.placement == Placement(name, "CPU_AND_NE", "f32")
    engine.close()


def test_keeps_bound_inputs_and_loads_the_function_of_the_sizes_fed(
    monkeypatch, checkpoint, tmp_path
):
    sizes = {"small": SMALL, "large": LARGE}
    path, _, module = written(checkpoint, tmp_path, "stage_c", sizes)
    on_mac(monkeypatch)
    engine = opened(path, "cpu")
    rest = {"timestep_embedding": torch.randn(1, 16), "text_kv": torch.randn(1, 2, 2, 77, 40)}
    run = engine.bind({name: value.numpy() for name, value in rest.items()})
    for height in (2, 4, 4, 2):
        latents = torch.randn(1, 8, height, 3)
        found = run({"latents": latents.numpy()})["epsilon"]
        assert np.allclose(found, module(latents, *rest.values()).numpy(), rtol=1e-3, atol=1e-4)
    names = [options["function_name"] for _, options in Model.loaded]
    assert names == ["small", "large", "small"]
    with pytest.raises(RunError, match=r"no function of the package takes .*latents': \(1, 8, 5"):
        run({"latents": np.zeros((1, 8, 5, 3), np.float32)})


def test_errors_are_one_line(monkeypatch, checkpoint, tmp_path):
    path, plan, _ = written(checkpoint, tmp_path, "stage_a", {"only": SMALL})
    on_mac(monkeypatch)
    engine = opened(path, "cpu")
    with pytest.raises(RunError, match=r"inputs that were not given: \['latents'\]"):
        engine.run({})
    broken = path.rename(path.parent / "broken.mlpackage")
    engine = opened(broken, "cpu")
    latents = np.zeros(plan.inputs[0].shape, np.float32)
    with pytest.raises(RunError, match=r"cannot load .*: Error compiling model: no such layer$"):
        engine.run({"latents": latents})
    (broken / "Manifest.json").unlink()
    with pytest.raises(RunError, match="is no readable Core ML package"):
        opened(broken, "cpu")


def test_devices(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(UsageError, match=r"Core ML runs on macOS only: .* 'python -m validation'"):
        check(Execution("cpu"))
    monkeypatch.setattr(sys, "platform", "darwin")
    for device, units in COMPUTE_UNITS.items():
        check(Execution(device))
        assert hasattr(import_coremltools().ComputeUnit, units)
    with pytest.raises(
        UsageError, match="--device cuda: Core ML bundles run on cpu, gpu, npu, all"
    ):
        check(Execution("cuda"))
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(UsageError, match=r"pip install 'wuerstchen-export\[coreml\]'"):
        check(Execution("cpu"))
