"""What is timed: a graph, its feeds, and what PyTorch makes of them in fp32."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from exporter.dimensions import make_static, numbers
from exporter.graphs import GraphPlan, plan_graphs
from exporter.onnx_graph import write_onnx
from runtimes.bundle import Bundle
from runtimes.engine import GraphFile, Tensors
from runtimes.manifest import Graph
from runtimes.options import timesteps_for
from runtimes.schedule import schedule, timestep_embedding
from validation.bench.public import (
    STAGE_B,
    STAGE_B_BLOCKS,
    STAGE_C,
    STAGE_C_DEPTH,
    RandomWeights,
    public_checkpoint,
)
from validation.recording import Recording


@dataclass(frozen=True)
class Case:
    """One graph on one set of inputs; `expected` is the fp32 module's outputs."""

    name: str
    module: nn.Module
    file: GraphFile
    feeds: Tensors
    expected: Tensors


def bundle_cases(bundle: Bundle, plans: list[GraphPlan], recording: Recording) -> Iterator[Case]:
    """Every graph of an ONNX bundle on a recorded run's inputs; denoisers on the last step's.

    The last step is where rounding shows most: epsilon is divided by the least noise.
    """
    for plan in plans:
        graph = bundle.manifest.graphs[plan.name]
        feeds = _recorded_feeds(bundle, plan, recording)
        file = GraphFile(bundle.path(graph.file), graph, bundle.digest(plan.name))
        with plan.module() as module:
            yield Case(plan.name, module, file, feeds, run_module(module, plan, feeds))


def block_cases(folder: Path) -> Iterator[Case]:
    """Stage B and Stage C at the public widths and sizes with fewer blocks, random weights."""
    checkpoint = public_checkpoint(
        dataclasses.replace(STAGE_B, blocks=STAGE_B_BLOCKS),
        dataclasses.replace(STAGE_C, depth=STAGE_C_DEPTH),
    )
    named = {
        "stage_c": {"batch": 2, "height": 24, "width": 24},
        "stage_b": {"batch": 1, "height": 256, "width": 256},
    }
    generator = torch.Generator().manual_seed(0)
    for plan in plan_graphs(checkpoint, "nchw", text=True):
        if plan.name not in named:
            continue
        static = make_static(plan, named[plan.name])
        module = plan.build(RandomWeights(plan.shapes)).requires_grad_(False).eval()
        path = write_onnx(static, module, folder / plan.name, static=True)
        feeds = {
            tensor.name: torch.randn(numbers(tensor, {}), generator=generator).numpy()
            for tensor in static.inputs
        }
        file = GraphFile(path, Graph(path.name, "fp32", static.inputs, static.outputs), plan.name)
        expected = run_module(module, plan, feeds)
        yield Case(f"{plan.name} blocks", module, file, feeds, expected)


def run_module(module: nn.Module, plan: GraphPlan, feeds: Tensors) -> Tensors:
    """All outputs of a module by name."""
    with torch.inference_mode():
        outputs = module(*(torch.from_numpy(feeds[tensor.name]) for tensor in plan.inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {t.name: value.numpy() for t, value in zip(plan.outputs, outputs, strict=True)}


def _recorded_feeds(bundle: Bundle, plan: GraphPlan, recording: Recording) -> Tensors:
    names = [tensor.name for tensor in plan.inputs]
    if plan.name not in ("stage_c", "stage_b"):
        return {name: np.array(recording.tensors[f"{plan.name}.{name}"]) for name in names}
    feeds = {
        name: np.array(recording.tensors[f"{plan.name}_condition.{name}"]) for name in names[2:]
    }
    denoiser = getattr(bundle.manifest.sampling, plan.name)
    last = recording.steps(plan.name) - 1
    before = "start" if last == 0 else str(last - 1)
    latents = recording.tensors[f"{plan.name}/{before}.latents"]
    timesteps = timesteps_for(recording.options, plan.name, denoiser)
    row = schedule(timesteps, denoiser.s, denoiser.scaler)[last]
    rows = len(recording.tensors[f"{plan.name}/{last}.epsilon"])
    embedding = timestep_embedding(row.t, denoiser)
    return {
        "latents": np.concatenate([latents] * (rows // len(latents))),
        "timestep_embedding": np.repeat(embedding, rows, axis=0),
        **feeds,
    }
