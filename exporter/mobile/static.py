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
    known = [value for value in model.graph.value_info if is_fixed_size_tensor(value)]
    del model.graph.value_info[:]
    model.graph.value_info.extend(known)
    model = onnx.shape_inference.infer_shapes(model)
    for value in (*model.graph.input, *model.graph.output):
        if not is_fixed_size_tensor(value):
            raise RunError(f"{source}: '{value.name}' has no fixed shape, whatever the inputs have")
    target.parent.mkdir(parents=True, exist_ok=True)
    for location in read_header(source).locations:
        (target.parent / location).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / location, target.parent / location)
    onnx.save(model, target)
