"""How large every value of every graph gets over full runs: what fp16's 65504 has to hold."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir

from quantization.instrumented import Run, instrumented
from quantization.onnx_fp16 import half_nodes
from runtimes.bundle.manifest import CONDITION_GRAPHS
from runtimes.bundle.read import Bundle
from runtimes.dimensions import shape_at, sizes_at
from runtimes.engines.base import Engine, Feeds, Placement, Tensors
from runtimes.pipeline import Pipeline, load_tokenizers
from runtimes.plan import Options, make_plan
from runtimes.progress import SILENT, Progress

LARGEST_FP16 = 65504.0


@dataclass(frozen=True)
class Range:
    """One node: its largest absolute output, and its type in fp16 by the structure alone."""

    graph: str
    node: str
    op: str
    largest: float
    precision: str

    @property
    def headroom(self) -> float:
        """How often the value fits under fp16's largest; below 1 it is infinite in fp16."""
        return LARGEST_FP16 / self.largest if self.largest > 0 else float("inf")


def ranges(
    bundle: Bundle, prompts: Sequence[str], options: Options, progress: Progress = SILENT
) -> list[Range]:
    """Run an fp32 ONNX bundle's own pipeline on every prompt, and list every node of every graph.

    `options` are those of the first prompt; each later one has the next seed.
    """
    graphs = _Measured(bundle)
    seed = options.seed if isinstance(options.seed, int) else 0
    with Pipeline(bundle.manifest, graphs, load_tokenizers(bundle), low_memory=True) as pipeline:
        for index, prompt in enumerate(prompts):
            on_step = progress.runs("runs", index, len(prompts))
            seeded = dataclasses.replace(options, seed=seed + index)
            pipeline([prompt], "", seeded, on_step=on_step)
    return [node for name in bundle.manifest.graphs for node in graphs.ranges(name)]


def normal_ranges(bundle: Bundle, options: Options, progress: Progress = SILENT) -> list[Range]:
    """The same with standard normal inputs to each graph by itself, batch 1.

    For random weights, whose runs leave the range that trained latents stay in: nothing they
    predict cancels the noise, which one step can magnify a hundred times.
    """
    graphs, rng = _Measured(bundle), np.random.default_rng(options.seed)
    plan = make_plan(bundle.manifest.sampling, options, 1, None)
    for number, (name, graph) in enumerate(bundle.manifest.graphs.items(), 1):
        named = sizes_at(name, 1, plan.sizes)
        feeds: Tensors = {}
        for tensor in graph.inputs:
            shape = shape_at(tensor, named)
            feeds[tensor.name] = (
                np.ones(shape, np.int64)
                if tensor.dtype == "int64"
                else rng.standard_normal(shape, np.float32)
            )
        engine = graphs.open(name)
        engine.run(feeds)
        engine.close()
        progress.step("graphs", number, len(bundle.manifest.graphs))
    return [node for name in bundle.manifest.graphs for node in graphs.ranges(name)]


class _Measured:
    """A bundle's graphs, instrumented; maxima are kept from one opening to the next."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._largest: dict[str, dict[str, float]] = {name: {} for name in bundle.manifest.graphs}

    def open(self, name: str) -> Engine:
        values: dict[str, list[int]] = {
            value: [] for node in _float_nodes(self._model(name)) for value in _names(node)
        }
        path = self._bundle.path(self._bundle.graph(name).file)
        return _Measuring(instrumented(path, values), self._largest[name])

    def ranges(self, name: str) -> list[Range]:
        if not self._largest[name]:  # no run from a prompt opens the picture side's graphs
            return []
        model = self._model(name)
        half = set() if name in CONDITION_GRAPHS else half_nodes(model)
        return [
            Range(
                name,
                node.name or "",
                node.op_type,
                max(self._largest[name].get(value, 0.0) for value in _names(node)),
                "fp16" if node.name in half else "fp32",
            )
            for node in _float_nodes(model)
        ]

    def _model(self, name: str) -> onnx_ir.Model:
        return onnx_ir.load(self._bundle.path(self._bundle.graph(name).file))


def _float_nodes(model: onnx_ir.Model) -> list[onnx_ir.Node]:
    """Nodes whose outputs are fp32 tensors."""
    float32 = onnx_ir.DataType.FLOAT
    return [node for node in model.graph if all(value.dtype == float32 for value in node.outputs)]


def _names(node: onnx_ir.Node) -> list[str]:
    return [value.name or "" for value in node.outputs]


class _Measuring:
    """An engine that keeps the largest value of every tensor it has seen."""

    load_seconds = 0.0
    placement = Placement("ONNX Runtime", "CPU", "f32")

    def __init__(self, run: Run, largest: dict[str, float]) -> None:
        self._run, self._largest = run, largest

    def run(self, feeds: Feeds) -> Tensors:
        outputs, largest = self._run(feeds)
        for name, value in largest.items():
            self._largest[name] = float(np.maximum(self._largest.get(name, 0.0), value))
        return outputs

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        return lambda feeds: self.run({**constants, **feeds})

    def close(self) -> None:
        del self._run
