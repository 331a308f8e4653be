"""How large the inputs of each product of a denoiser are, measured in the graph itself.

Graphs are those of `channels_last`: a product is MatMul by a weight (inputs, outputs).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import Graph, Node, Value

from quantization.instrumented import append, open_session
from quantization.onnx_files import add_initializer
from runtimes.engines.base import Tensors

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Powers:
    """The inputs of one product over S feeds: mean squares of each of the K, (S,K).

    `low` and `high` (S,) are its least and largest input. `peaks` are mean squares of the largest
    input of each block of channels, (S, blocks), by the block's size.
    """

    inputs: Floats
    low: Floats
    high: Floats
    peaks: Mapping[int, Floats]


def product_powers(
    path: Path,
    blocks: Mapping[str, Collection[int]],
    feeds: Sequence[Tensors],
    on_feed: Callable[[], None] = lambda: None,
) -> dict[str, Powers]:
    """The powers of every product of the graph at `path`, by its weight, one run for each feed.

    `blocks` are the sizes to take `peaks` of, by weight. Of a weight that several nodes share, the
    first counts.
    """
    model = onnx_ir.load(path)
    nodes = {weight: node for weight, node in products(model).items() if weight in blocks}
    results = _Results(model.graph)
    asked = {weight: _ask(results, node, blocks[weight]) for weight, node in nodes.items()}
    session = open_session(model, path.parent)
    rows: list[dict[str, Floats]] = []
    for feed in feeds:
        rows.append(dict(zip(results.names, session.run(results.names, dict(feed)), strict=True)))
        on_feed()
    return {weight: _powers(names, rows) for weight, names in asked.items()}


def products(model: onnx_ir.Model) -> dict[str, Node]:
    """The MatMul of each constant matrix, in running order."""
    nodes: dict[str, Node] = {}
    for node in model.graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is not None and weight.is_initializer() and weight.name:
            nodes.setdefault(weight.name, node)
    return nodes


class _Results:
    """What the graph is made to give, each thing once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.names: list[str] = []
        self._flat: dict[Value, Value] = {}

    def channel_powers(self, value: Value, width: int) -> str:
        """The mean squares of its channels."""
        name = f"{value.name}_channel_powers"
        return self._once(name, lambda n: self._mean_square(self._rows(value, width), n))

    def ends(self, value: Value) -> tuple[str, str]:
        """Its least and its largest value."""
        low, high = (
            self._once(f"{value.name}_{kind}", partial(self._whole, kind, value))
            for kind in ("ReduceMin", "ReduceMax")
        )
        return low, high

    def peaks(self, value: Value, width: int, block: int) -> str:
        """The mean square of the largest number of each block of channels."""

        def make(name: str) -> Value:
            count = -(-width // block)
            rows = self._rows(value, width)
            if count * block > width:
                ends = self._constant(f"{name}_ends", [0, 0, 0, count * block - width])
                rows = append(self._graph, "Pad", [rows, ends], f"{name}_padded", {})
            shape = self._constant(f"{name}_shape", [-1, count, block])
            blocks = append(self._graph, "Reshape", [rows, shape], f"{name}_blocks", {})
            size = append(self._graph, "Abs", [blocks], f"{name}_size", {})
            axis = self._constant(f"{name}_axis", [2])
            inputs = [size, axis]
            top = append(self._graph, "ReduceMax", inputs, f"{name}_top", {"keepdims": 0})
            return self._mean_square(top, name)

        return self._once(f"{value.name}_peaks_{block}", make)

    def _once(self, name: str, make: Callable[[str], Value]) -> str:
        if name not in self.names:
            self._graph.outputs.append(make(name))
            self.names.append(name)
        return name

    def _whole(self, kind: str, value: Value, name: str) -> Value:
        return append(self._graph, kind, [value], name, {"keepdims": 0})

    def _rows(self, value: Value, width: int) -> Value:
        if value not in self._flat:
            shape = self._constant(f"rows_of_{width}", [-1, width])
            name = f"{value.name}_rows"
            self._flat[value] = append(self._graph, "Reshape", [value, shape], name, {})
        return self._flat[value]

    def _mean_square(self, value: Value, name: str) -> Value:
        """Over all but the last axis of two."""
        square = append(self._graph, "Mul", [value, value], f"{name}_square", {})
        axis = self._constant(f"{name}_axes", [0])
        return append(self._graph, "ReduceMean", [square, axis], name, {"keepdims": 0})

    def _constant(self, name: str, numbers: list[int]) -> Value:
        known = self._graph.initializers.get(name)
        tensor = onnx_ir.tensor(np.array(numbers, np.int64), name=name)
        return known or add_initializer(self._graph, tensor)


def _ask(results: _Results, node: Node, blocks: Collection[int]) -> dict[str, Any]:
    source, weight = node.inputs
    assert source is not None and weight is not None and weight.shape is not None
    width = int(weight.shape[0])  # type: ignore[arg-type]
    return {
        "inputs": results.channel_powers(source, width),
        "ends": results.ends(source),
        "peaks": {block: results.peaks(source, width, block) for block in blocks},
    }


def _powers(names: Mapping[str, Any], rows: Sequence[Mapping[str, Floats]]) -> Powers:
    def column(name: str) -> Floats:
        return np.array([row[name] for row in rows], np.float32)

    low, high = (column(name) for name in names["ends"])
    peaks = {block: column(name) for block, name in names["peaks"].items()}
    return Powers(column(names["inputs"]), low, high, peaks)
