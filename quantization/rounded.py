"""What a graph computes where fp16 is fp16: each node's result rounded, overflow included.

ONNX Runtime's x86 CPU provider widens fp16 nodes to fp32 and keeps more than fp16 between two of
them, so that nothing overflows there. onnx's reference evaluator rounds, and takes minutes a step.
Here the fp16 graph is written in fp32, with a rounding after every node that computes in fp16, and
runs in ONNX Runtime. A product's terms are added up in fp32, as GPUs do.
"""

from collections.abc import Callable
from pathlib import Path

import onnx_ir
from onnx_ir import DataType, Graph, Model, Node, TensorType, Value

from quantization.onnx_files import load, recast, save
from quantization.onnx_fp16 import MOVES
from runtimes.engines.base import Feeds, Tensors
from runtimes.errors import RunError

# These give what they take, which is rounded already.
_EXACT = (*MOVES, "Gather")


def rounded_run(graph: Path, scratch: Path) -> Callable[[Feeds], Tensors]:
    """The fp16 graph at `graph`, with outputs as true fp16 arithmetic gives them.

    `scratch`: a folder for the widened graph, which has to stay while the callable is used.
    """
    import onnxruntime

    model = load(graph)
    _write_in_fp32(model)
    save(model, scratch / "rounded.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Every optimisation would be one that takes roundings out.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        str(scratch / "rounded.onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Feeds) -> Tensors:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


def _write_in_fp32(model: Model) -> None:
    """Turn fp16 values into fp32 ones that hold no more than fp16."""
    for constant in model.graph.initializers.values():
        if constant.dtype == DataType.FLOAT16:
            recast(constant, DataType.FLOAT)
    for node in list(model.graph):
        for value in node.outputs:
            if value.dtype is None:
                raise RunError(f"'{value.name}' has no type: nothing says whether it is rounded")
            if value.dtype == DataType.FLOAT16:
                value.dtype = DataType.FLOAT
                if node.op_type not in _EXACT:
                    _round(model.graph, value, node)
        if node.op_type == "Cast" and node.attributes["to"].as_int() == DataType.FLOAT16:
            node.attributes["to"] = onnx_ir.AttrInt64("to", DataType.FLOAT)


def _round(graph: Graph, value: Value, maker: Node) -> None:
    """Round a value for all its users.

    Without Identity between them, ONNX Runtime drops both casts as if they did nothing.
    """
    users, last = list(value.uses()), value
    for kind, to in (
        ("Cast", DataType.FLOAT16),
        ("Identity", DataType.FLOAT16),
        ("Cast", DataType.FLOAT),
    ):
        attributes = [onnx_ir.AttrInt64("to", to)] if kind == "Cast" else []
        node = Node("", kind, [last], attributes, name=f"{last.name}_{kind}")
        node.outputs[0].name, node.outputs[0].type = f"{last.name}_r", TensorType(to)
        node.outputs[0].shape = value.shape
        graph.insert_after(maker, node)
        maker, last = node, node.outputs[0]
    for user, index in users:
        user.replace_input_with(index, last)
