"""Graphs of the public architecture on drawn inputs, one in memory at a time."""

import dataclasses
import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from exporter.checkpoint.configs import TextConfig
from exporter.checkpoint.open import Checkpoint
from exporter.dimensions import close, named_sizes
from exporter.formats.onnx import write_onnx
from exporter.graphs import GraphPlan, plan_graphs
from exporter.sampling import sampling
from runtimes.bundle.manifest import CONDITION_GRAPHS, DENOISERS, Graph, Sampling
from runtimes.dimensions import shape_at
from runtimes.engines.base import GraphFile, Tensors
from runtimes.errors import RunError
from runtimes.sizes import sizes
from validation.bench.cases import Case, graph_costs, make_case, named, step_values
from validation.bench.devices import Form
from validation.bench.public import (
    STAGE_B,
    STAGE_B_BLOCKS,
    STAGE_C,
    STAGE_C_DEPTH,
    RandomWeights,
    public_checkpoint,
)

SIDE = 1024  # pixels: Stage C at 16 x 24 x 24, Stage B at 4 x 256 x 256
PROMPT_TOKENS = 20  # of 77, the rest is padding


def real_size() -> Checkpoint:
    """The public configs, whole."""
    return public_checkpoint(STAGE_B, STAGE_C)


def few_blocks() -> Checkpoint:
    """The public widths and sizes with fewer blocks of each kind."""
    return public_checkpoint(
        dataclasses.replace(STAGE_B, blocks=STAGE_B_BLOCKS),
        dataclasses.replace(STAGE_C, depth=STAGE_C_DEPTH),
    )


def public_cases(
    checkpoint: Checkpoint,
    graphs: Sequence[str],
    folder: Path,
    report: Callable[[str], None],
    form: Form,
) -> Iterator[Case]:
    """Export `graphs` with random weights, one after the other, and yield each.

    Condition graphs stay fp32, as in a bundle. Denoisers get the middle step of their default
    schedule. Raises RunError when the weights drawn make a denoiser whose errors would say nothing.
    """
    constants = sampling(checkpoint, SIDE, SIDE)
    plans = {plan.name: plan for plan in plan_graphs(checkpoint, "nchw", text=True)}
    costs = graph_costs(checkpoint, SIDE, SIDE, text=True)
    for name in (name for name in plans if name in graphs):
        plan, weights = plans[name], RandomWeights(plans[name].shapes)
        report(f"exporting {name}")
        values = _values(plan, plans.get(f"{name}_condition", plan), constants, weights)
        file = _export(plan, weights, folder / name / "graph", form, constants)
        case = make_case(plan, weights, file, values, costs[name], folder / name)
        if name in DENOISERS and not case.conditioning.sound:
            raise RunError(f"{name}'s errors would say nothing: {case.conditioning}")
        yield case
        del case
        shutil.rmtree(folder / name)
        gc.collect()


def _export(
    plan: GraphPlan, weights: RandomWeights, folder: Path, form: Form, constants: Sampling
) -> GraphFile:
    deferred = plan.defer(weights)
    precision = "fp32" if plan.name in CONDITION_GRAPHS else form.precision
    if precision == "fp16":
        deferred.module.half()
    if form.static:
        plan = close(plan, [named_sizes(plan, 1, constants, sizes(SIDE, SIDE, constants))])
    fused = form.fused_attention
    path = write_onnx(plan, deferred, folder, static=form.static, fused_attention=fused)
    return GraphFile(path, Graph(path.name, precision, plan.inputs, plan.outputs), plan.name)


def _values(
    plan: GraphPlan, first: GraphPlan, constants: Sampling, weights: RandomWeights
) -> Tensors:
    """Inputs of a graph and its public module; a denoiser's come by way of its condition graph."""
    named_dimensions = named_sizes(plan, 1, constants, sizes(SIDE, SIDE, constants))
    generator = torch.Generator().manual_seed(0)
    drawn: dict[str, torch.Tensor] = {}
    for tensor in first.inputs:
        shape = shape_at(tensor, named_dimensions)
        drawn[tensor.name] = torch.randn(shape, generator=generator)
        if isinstance(plan.component.config, TextConfig):
            vocabulary = plan.component.config.vocab_size
            drawn[tensor.name] = torch.randint(vocabulary, shape, generator=generator)
    if "attention_mask" in drawn:
        drawn["attention_mask"] = (torch.arange(77) < PROMPT_TOKENS).long().repeat(2, 1)
    values: Tensors = {name: tensor.numpy() for name, tensor in drawn.items()}
    if plan is first:
        return values
    with torch.inference_mode():
        outputs = first.build(weights)(*drawn.values())
    values |= named(Graph("", "fp32", first.inputs, first.outputs), outputs)
    shape = shape_at(plan.inputs[0], named_dimensions)
    latents = torch.randn(shape, generator=generator).numpy()
    denoiser = getattr(constants, plan.name)
    t = denoiser.schedule[len(denoiser.schedule) // 2].t
    return values | step_values(latents, t, denoiser)
