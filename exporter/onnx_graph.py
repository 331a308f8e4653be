"""One graph to an ONNX file."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import nn

from exporter.dimensions import dynamic_shapes, example_inputs
from exporter.graphs import GraphPlan

OPSET = 18
EXTERNAL_DATA_BYTES = 1 << 20  # a graph with this much weight keeps it in the file beside it
SMALL_TENSOR_BYTES = 1 << 10  # what shape inference reads stays in the graph
DATA_NAME = "model.onnx.data"


def write_onnx(plan: GraphPlan, module: nn.Module, folder: Path, *, static: bool) -> Path:
    """Export `module` as `folder/model.onnx` (+ model.onnx.data) and check the file.

    Batch and sides stay open unless `static`. Raises onnx.checker's error when the file does
    not pass the checker and shape inference: that is a fault of this program, not of the user.
    """
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    inputs = example_inputs(plan)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            dynamic_shapes=None if static else _shapes_for(module, plan),
            input_names=[tensor.name for tensor in plan.inputs],
            output_names=[tensor.name for tensor in plan.outputs],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model
    for value, tensor in zip(
        (*model.graph.inputs, *model.graph.outputs), (*plan.inputs, *plan.outputs), strict=True
    ):
        value.shape = onnx_ir.Shape(tensor.shape)  # the manifest's names for the open dimensions
    model.producer_name = "wuerstchen-export"
    for node in model.graph:
        node.metadata_props.clear()  # the tracer's notes: source paths of this machine
    total = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if total < EXTERNAL_DATA_BYTES:
        onnx_ir.save(model, path)
    else:
        onnx_ir.save(model, path, external_data=DATA_NAME, size_threshold_bytes=SMALL_TENSOR_BYTES)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def _shapes_for(module: nn.Module, plan: GraphPlan) -> tuple[Any, ...]:
    """Dynamic shapes in the form of the signature: Stage B takes its conditions as *args."""
    shapes = dynamic_shapes(plan)
    return (*shapes[:2], shapes[2:]) if plan.name == "stage_b" else shapes


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notices about packages this project does not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
