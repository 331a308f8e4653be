"""Which nodes of an fp16 graph have to stay in fp32, by what full runs showed of their values.

Beside the islands that the structure asks for (`onnx_fp16.half_nodes`): trained weights can make
any product, query or text embedding pass fp16's range, or be too small for it.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
from onnx_ir import DataType, Node

from quantization.calibration import Samples
from quantization.instrumented import instrumented
from quantization.onnx_files import load
from quantization.onnx_fp16 import half_nodes, quantize_fp16, unheld
from quantization.ranges import LARGEST_FP16
from quantization.recipes import Float16, Recipe
from quantization.roles import UNHELD
from quantization.rounded import rounded_run
from runtimes.bundle.manifest import Island
from runtimes.bundle.read import Bundle
from runtimes.decibels import decibels
from runtimes.engines.base import Tensors
from runtimes.errors import RunError
from runtimes.progress import SILENT, Progress

# Other prompts, seeds and sizes than the recorded ones may reach further.
SPARE = 8
_LARGEST = LARGEST_FP16 / SPARE
# Below 2^-14 fp16 has ever fewer digits; a tensor whose largest value is there has none left.
_SMALLEST = SPARE * 2.0**-14
_LEAST = 0.0  # dB without a target: as much error as signal
_FOLLOWS = "takes or gives what another island does"


@dataclass(frozen=True)
class Judged:
    """An fp16 recipe with the islands of one graph, and its worst step in true fp16."""

    recipe: Float16
    worst_db: float


def fp16_recipes(
    bundle: Bundle,
    plan: Mapping[str, Recipe],
    runs: Samples,
    target_db: float | None,
    progress: Progress = SILENT,
) -> dict[str, Judged]:
    """The recipe of each graph that `plan` has in fp16, by recorded runs, and how exact it is.

    Raises RunError where a graph stays below `target_db` even so, or is not finite.
    """
    judged = {}
    for name, recipe in plan.items():
        if not isinstance(recipe, Float16):
            continue
        graph = bundle.path(bundle.graph(name).file)
        judged[name] = found = judge(graph, runs.feeds[name], progress, name)
        progress.line(
            f"{name}, fp16: worst step {found.worst_db:.1f} dB with "
            f"{len(found.recipe.islands)} nodes in fp32 for their range"
        )
        if not found.worst_db >= (target_db or _LEAST):
            raise RunError(
                f"{name}: fp16 is at {found.worst_db:.1f} dB at its worst step, below "
                f"{target_db or _LEAST:g}; --precision fp16-weights computes in fp32, or give a "
                "lower --target-db"
            )
    return judged


def judge(
    graph: Path, feeds: Sequence[Tensors], progress: Progress = SILENT, name: str = "graph"
) -> Judged:
    """Measure the fp32 graph at `graph` on `feeds`, and its fp16 form against it."""
    largest, exact = _measured(graph, feeds, progress, name)
    recipe = Float16(islands=tuple(islands(load(graph), largest)))
    worst = decibels(0)
    with tempfile.TemporaryDirectory() as folder:
        half = Path(folder) / "graph" / "model.onnx"
        quantize_fp16(graph, half, recipe)
        run = rounded_run(half, Path(folder))
        for number, (sample, expected) in enumerate(zip(feeds, exact, strict=True), 1):
            worst = min(worst, _sqnr_db(run(sample), expected))
            progress.step(f"{name}, judging", number, len(feeds))
    return Judged(recipe, worst)


def islands(model: onnx_ir.Model, largest: Mapping[str, float]) -> list[Island]:
    """The nodes that would compute in fp16 and must not, by the largest absolute value of tensors.

    Tensors that `largest` has not, such as constants, are taken to be in range.
    """
    half = half_nodes(model)
    reasons = {node.name: UNHELD for node in unheld(model) if node.name in half}
    for node in model.graph:
        if node.name in half and (reason := _out_of_range(node, largest)):
            reasons.setdefault(node.name, reason)
    wide = half - half_nodes(model, {name for name in reasons if name})
    return [
        Island(node.name or "", node.op_type, reasons.get(node.name, _FOLLOWS))
        for node in model.graph
        if node.name in wide
    ]


def _out_of_range(node: Node, largest: Mapping[str, float]) -> str:
    """Why fp16 may not hold what a node takes or gives; '' where it does."""
    for which, values in (("input", node.inputs), ("output", node.outputs)):
        for value in values:
            reached = largest.get(value.name or "") if value is not None else None
            if reached is None:
                continue
            if not reached <= _LARGEST:  # a NaN is not in range either
                return f"its {which} reaches {reached:.2g}, fp16 {LARGEST_FP16:.0f}"
            if 0 < reached < _SMALLEST:
                return f"its {which} is {reached:.2g} at most: too few digits in fp16"
    return ""


def _measured(
    graph: Path, feeds: Sequence[Tensors], progress: Progress, name: str
) -> tuple[dict[str, float], list[Tensors]]:
    """The largest absolute value of each tensor around fp16's nodes over all feeds; the outputs."""
    model = onnx_ir.load(graph)
    half = half_nodes(model)
    tensors: dict[str, list[int]] = {
        value.name or "": []
        for node in model.graph
        if node.name in half
        for value in (*node.inputs, *node.outputs)
        if value is not None and value.dtype == DataType.FLOAT and not value.is_initializer()
    }
    run, largest, exact = instrumented(graph, tensors), dict.fromkeys(tensors, 0.0), []
    for number, sample in enumerate(feeds, 1):
        outputs, reached = run(sample)
        exact.append(outputs)
        for tensor, value in reached.items():
            largest[tensor] = float(np.maximum(largest[tensor], value))  # a NaN stays
        progress.step(f"{name}, ranges", number, len(feeds))
    return largest, exact


def _sqnr_db(actual: Tensors, expected: Tensors) -> float:
    """The SQNR of the worst output; -inf where one is not finite."""
    return min(_output_db(actual[name], expected[name]) for name in expected)


def _output_db(actual: np.ndarray, expected: np.ndarray) -> float:
    error = np.linalg.norm(actual.astype(np.float64) - expected)
    signal = np.linalg.norm(expected.astype(np.float64))
    if not np.isfinite(error):
        return decibels(float("inf"))
    return decibels(float(error / signal) if signal > 0 else float(error > 0) * float("inf"))
