"""A graph of open shapes as the same graph of fixed ones, by ONNX Runtime's own helpers."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnxruntime.tools.onnx_model_utils import is_fixed_size_tensor, make_dim_param_fixed

from runtimes.bundle.manifest import Graph, Tensor
from runtimes.bundle.onnx_header import read_header
from runtimes.dimensions import shape_at
from runtimes.errors import RunError


def closed(graph: Graph, named: Mapping[str, int]) -> Graph:
    """What a manifest says of a graph whose named dimensions have these sizes."""

    def at(tensor: Tensor) -> Tensor:
        return dataclasses.replace(tensor, shape=shape_at(tensor, named))

    return dataclasses.replace(
        graph, inputs=tuple(map(at, graph.inputs)), outputs=tuple(map(at, graph.outputs))
    )


def write_static(source: Path, graph: Graph, named: Mapping[str, int], target: Path) -> None:
    """Write `source`, whose manifest entry is `graph`, as `target`; its weights lie beside it.

    Weights are copied, not read: a graph may have more than a message of ONNX holds. RunError for
    a graph that does not get fixed inputs and outputs by that.
    """
    model = onnx.load(source, load_external_data=False)
    fixed = closed(graph, named)
    for tensor, at in zip(
        (*graph.inputs, *graph.outputs), (*fixed.inputs, *fixed.outputs), strict=True
    ):
        for dimension, size in zip(tensor.shape, at.shape, strict=True):
            if isinstance(dimension, str):
                make_dim_param_fixed(model.graph, dimension, size)
    # Sizes in between have names that no manifest knows: they are inferred anew.
    _forget_names(model.graph)
    model = onnx.shape_inference.infer_shapes(model)
    _forget_names(model.graph)
    for value in (*model.graph.input, *model.graph.output):
        if not is_fixed_size_tensor(value):
            raise RunError(f"{source}: '{value.name}' has no fixed shape, whatever the inputs have")
    target.parent.mkdir(parents=True, exist_ok=True)
    for location in read_header(source).locations:
        (target.parent / location).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / location, target.parent / location)
    onnx.save(model, target)


def _forget_names(graph: onnx.GraphProto) -> None:
    """Take the shapes of values in between whose sizes are not numbers; list what is not listed.

    ONNX Runtime writes the shapes that it infers for the values that are listed, and for no others.
    """
    for value in graph.value_info:
        if not is_fixed_size_tensor(value):
            value.type.tensor_type.ClearField("shape")
    listed = {value.name for value in (*graph.value_info, *graph.output)}
    for node in graph.node:
        if node.op_type == "MatMulNBits" and node.output[0] not in listed:
            value = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
            graph.value_info.append(value)
