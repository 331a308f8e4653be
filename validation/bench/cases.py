"""What is timed: a graph on its inputs, and what the public module makes of the same in fp32."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from exporter.checkpoint.open import Checkpoint
from exporter.checkpoint.weights import MetaWeights, WeightSource
from exporter.cost import GraphCost, inspect
from exporter.graphs import GraphPlan, plan_graphs
from runtimes.bundle.manifest import DENOISERS, Denoiser, Graph
from runtimes.bundle.read import Bundle
from runtimes.engines.base import GraphFile, Tensors
from runtimes.engines.table import graph_file
from runtimes.plan import pixels_asked, timesteps_for
from runtimes.recording import Recording
from runtimes.schedule import schedule, timestep_embedding
from validation.bench.conditioning import Conditioning, watched
from validation.bench.reference_modules import REFERENCE_INPUTS, reference_module

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Case:
    """One graph on one set of inputs.

    `module` on `inputs` is the yardstick: the public module or, where `public` is False, the
    export form of a condition graph. `expected` are its outputs in fp32. `cost` is the graph's,
    `module_flops` the module's; `folder` is where exports of the module may be written.
    """

    name: str
    module: nn.Module
    inputs: tuple[torch.Tensor, ...]
    public: bool
    file: GraphFile
    feeds: Tensors
    expected: Tensors
    cost: GraphCost
    module_flops: int
    conditioning: Conditioning
    folder: Path

    @property
    def weight_bytes(self) -> int:
        """Bytes of the module's weights in fp32."""
        return sum(4 * parameter.numel() for parameter in self.module.parameters())

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations alive at once in the graph, attention's products included."""
        return self.cost.peak_bytes - 4 * self.cost.parameters


def bundle_cases(
    bundle: Bundle,
    checkpoint: Checkpoint,
    graphs: Sequence[str],
    recording: Recording,
    folder: Path,
) -> Iterator[Case]:
    """Graphs of an ONNX bundle on a recorded run's inputs; denoisers on the last step's.

    The last step is where rounding shows most: epsilon is divided by the least noise.
    """
    text = bundle.manifest.text_graphs["stage_b"] is not None
    pixels = pixels_asked(bundle.manifest.sampling, recording.options)
    costs = graph_costs(checkpoint, *pixels, text=text)
    for plan in plan_graphs(checkpoint, "nchw", text=text):
        if plan.name not in graphs:
            continue
        file = graph_file(bundle, plan.name)
        values = _recorded(bundle, plan, recording)
        with plan.weights() as weights:
            yield make_case(plan, weights, file, values, costs[plan.name], folder / plan.name)


def make_case(
    plan: GraphPlan,
    weights: WeightSource,
    file: GraphFile,
    values: Arrays,
    cost: GraphCost,
    folder: Path,
) -> Case:
    """A case of `values`, which hold both the graph's inputs and the public module's by name."""
    feeds = {tensor.name: np.array(values[tensor.name]) for tensor in plan.inputs}
    module = reference_module(plan, weights)
    public = module is not None
    names = REFERENCE_INPUTS[plan.name] if public else tuple(feeds)
    inputs = tuple(torch.from_numpy(np.array(values[name])) for name in names)
    module = plan.build(weights) if module is None else module
    with watched(module, plan.name) as conditioning, torch.inference_mode():
        expected = named(file.graph, module(*inputs))
    bare = reference_module(plan, MetaWeights(plan.shapes))
    return Case(
        name=plan.name,
        module=module,
        inputs=inputs,
        public=public,
        file=file,
        feeds=feeds,
        expected=expected,
        cost=cost,
        module_flops=cost.flops if bare is None else count_flops(bare, inputs),
        conditioning=conditioning,
        folder=folder,
    )


def named(graph: Graph, outputs: Any) -> Tensors:
    """A module's or an engine's outputs by name, in the graph's order; fp32 where they are less.

    What a public module gives besides, such as CLIP's pooled text, comes after and is left out.
    """
    values = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    return {tensor.name: _array(values[i]) for i, tensor in enumerate(graph.outputs)}


def _array(value: Any) -> NDArray[np.generic]:
    return value.float().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def count_flops(module: nn.Module, inputs: Sequence[torch.Tensor]) -> int:
    """FLOPs of one run of a module on PyTorch's meta device, attention's products included."""
    on_meta = [tensor.to("meta") for tensor in inputs]
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*on_meta)
    return counter.get_total_flops()


def graph_costs(
    checkpoint: Checkpoint, height: int, width: int, *, text: bool
) -> dict[str, GraphCost]:
    """What each graph costs for a picture of height x width pixels, by name."""
    return {cost.name: cost for cost in inspect(checkpoint, height, width, text=text).graphs}


def step_values(latents: NDArray[np.generic], t: float, denoiser: Denoiser) -> Tensors:
    """A denoiser's own inputs at timestep t: its latents, t itself, and the embedding of t."""
    rows = len(latents)
    return {
        "latents": latents,
        "timestep": np.full(rows, t, np.float32),
        "timestep_embedding": np.repeat(timestep_embedding(t, denoiser), rows, axis=0),
    }


def _recorded(bundle: Bundle, plan: GraphPlan, recording: Recording) -> Arrays:
    if plan.name not in DENOISERS:
        return _tensors(recording, plan.name)
    values = _tensors(recording, f"{plan.name}_condition")
    denoiser = getattr(bundle.manifest.sampling, plan.name)
    last = recording.steps(plan.name) - 1
    before = "start" if last == 0 else str(last - 1)
    latents = recording.tensors[f"{plan.name}/{before}.latents"]
    timesteps = timesteps_for(recording.options, plan.name, denoiser)
    row = schedule(timesteps, denoiser.s, denoiser.scaler)[last]
    rows = len(recording.tensors[f"{plan.name}/{last}.epsilon"])
    values |= step_values(np.concatenate([latents] * (rows // len(latents))), row.t, denoiser)
    if "last_hidden_state" not in values:  # text-free: exact against zero text (rewrite 6)
        text = recording.tensors["text_encoder.last_hidden_state"]
        width = plan.component.config.clip_embd  # type: ignore[union-attr]
        values["last_hidden_state"] = np.zeros((rows, text.shape[1], width), np.float32)
    return values


def _tensors(recording: Recording, graph: str) -> Tensors:
    """A graph's inputs and outputs in a recording."""
    start = f"{graph}."
    return {
        key.removeprefix(start): values
        for key, values in recording.tensors.items()
        if key.startswith(start)
    }
