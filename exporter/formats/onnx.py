"""One graph to an ONNX file, its weights written one at a time.

PyTorch traces the module with weights that have shapes and no memory; the file's weights are made
from the checkpoint as they are written. So an export needs little more memory than its largest
tensor, whatever the graph's size.
"""

import contextlib
import copy
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from onnxscript import opset18 as op
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from exporter.checkpoint.weights import Deferred
from exporter.dimensions import dynamic_shapes, example_inputs
from exporter.graphs import GraphPlan
from exporter.modules.blocks import AttnBlock, fuse_attention
from runtimes.bundle.graph_files import EXTERNAL_DATA_BYTES, SMALL_TENSOR_BYTES

OPSET = 18
FUSED_OPSET = 23  # the first with Attention
# The oldest IR version that onnx pairs each opset with (onnx.helper.VERSION_TABLE): the tracer's is
# the newest one, which shuts out engines that know every operator of the graph.
IR_VERSIONS = {OPSET: 8, FUSED_OPSET: 11}
DATA_NAME = "model.onnx.data"


def write_onnx(
    plan: GraphPlan,
    deferred: Deferred,
    folder: Path,
    *,
    static: bool,
    fused_attention: bool = False,
) -> Path:
    """Write `folder/model.onnx` (+ model.onnx.data) in the dtypes of the module; check the file.

    Batch and sides stay open unless `static`. `fused_attention` writes the denoisers' attention
    as the operator Attention and thereby takes a newer opset. Raises onnx.checker's error when the
    file does not pass the checker and shape inference: that is a fault of this program, not of
    the user.
    """
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    if fused_attention:
        fuse_attention(deferred.module)
    fused = any(isinstance(m, AttnBlock) and m.fused for m in deferred.module.modules())
    model = _traced(plan, deferred, static, FUSED_OPSET if fused else OPSET)
    for value, tensor in zip(
        (*model.graph.inputs, *model.graph.outputs), (*plan.inputs, *plan.outputs), strict=True
    ):
        value.shape = onnx_ir.Shape(tensor.shape)  # the manifest's names for the open dimensions
    model.producer_name = "wuerstchen-export"
    _give_norms_a_bias(model.graph)
    _forget_notes(model)
    model.ir_version = IR_VERSIONS[model.opset_imports[""]]
    total = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if total < EXTERNAL_DATA_BYTES:
        onnx_ir.save(model, path)
    else:
        onnx_ir.save(model, path, external_data=DATA_NAME, size_threshold_bytes=SMALL_TENSOR_BYTES)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def _traced(plan: GraphPlan, deferred: Deferred, static: bool, opset: int) -> onnx_ir.Model:
    """The optimised graph, each large weight a promise."""
    module = _fake(deferred.module)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            example_inputs(plan),
            dynamo=True,
            dynamic_shapes=None if static else _shapes_for(module, plan),
            input_names=[tensor.name for tensor in plan.inputs],
            output_names=[tensor.name for tensor in plan.outputs],
            opset_version=opset,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
            optimize=False,  # it would look for values
        )
        assert program is not None
        graph = program.model.graph
        for name in deferred.recipes:
            if name in graph.initializers:
                _promise(graph.initializers[name], partial(_array, deferred, name))
        _fold_transposes(graph)
        program.optimize()
    return program.model


def _give_norms_a_bias(graph: onnx_ir.Graph) -> None:
    """Write the bias of a LayerNormalization that has none as zeros.

    ONNX Runtime up to 1.18 fuses the addition in front of a norm and looks for its bias: without
    one, loading Stage B's condition graph ended the process.
    """
    for node in graph:
        if node.op_type != "LayerNormalization" or len(node.inputs) > 2:
            continue
        scale = node.inputs[1]
        assert scale is not None and scale.const_value is not None and scale.dtype is not None
        zeros = np.zeros(scale.const_value.shape.numpy(), scale.dtype.numpy())
        bias = onnx_ir.Value(
            name=f"{node.outputs[0].name}_bias",
            shape=onnx_ir.Shape(zeros.shape),
            type=onnx_ir.TensorType(scale.dtype),
            const_value=onnx_ir.tensor(zeros),
        )
        graph.register_initializer(bias)
        node.resize_inputs(3)
        node.replace_input_with(2, bias)


def _forget_notes(model: onnx_ir.Model) -> None:
    """Drop the tracer's notes: this machine's paths, in fields that no IR below 10 has."""
    values = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:
        node.metadata_props.clear()
        values |= {*node.outputs}
    for value in values:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def _gelu(x: Any, approximate: str = "none") -> Any:
    """GELU in an order of factors that ONNX Runtime knows as one operator; PyTorch's own differs.

    One pass over the tensor in place of five: docs/performance.md. No product passes |x|, which
    may be near the end of fp16's range.
    """
    assert approximate == "none"

    def number(value: float) -> Any:  # in the type of x, which is not always fp32
        return op.Constant(value=onnx_ir.to_proto(onnx_ir.tensor(value, dtype=x.dtype)))

    erf = op.Erf(op.Div(x, number(math.sqrt(2))))
    return op.Mul(op.Mul(x, number(0.5)), op.Add(erf, number(1.0)))


# Operators that are written otherwise than PyTorch's exporter would.
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.gelu.default: _gelu}


def _fake(module: nn.Module) -> nn.Module:
    """A copy whose weights have shapes on the CPU and no memory."""
    fake = copy.deepcopy(module)
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = {
            name: torch.empty(value.shape, dtype=value.dtype, device="cpu")
            for name, value in module.state_dict().items()
        }
    fake.load_state_dict(state, assign=True)
    return fake.requires_grad_(False).eval()


def _array(deferred: Deferred, name: str) -> np.ndarray[Any, Any]:
    return deferred.value(name).numpy()


def _transposed(tensor: onnx_ir.LazyTensor, perm: Sequence[int]) -> np.ndarray[Any, Any]:
    return tensor.numpy().transpose(perm)


def _promise(value: onnx_ir.Value, make: Callable[[], np.ndarray[Any, Any]]) -> None:
    """Let `value` be what `make` gives whenever it is asked for; nothing is kept."""
    assert value.dtype is not None and value.shape is not None
    value.const_value = onnx_ir.LazyTensor(
        lambda: onnx_ir.tensor(np.ascontiguousarray(make())),
        value.dtype,
        onnx_ir.Shape(value.shape),
        name=value.name,
    )


def _fold_transposes(graph: onnx_ir.Graph) -> None:
    """Take a promised weight's transpose as the weight, as onnxscript's optimiser does with values.

    Its other foldings look at small tensors only, and may well ask for those.
    """
    for node in graph:
        value, folded = node.inputs[0] if node.inputs else None, node.outputs[0]
        if node.op_type != "Transpose" or value is None or not value.is_initializer():
            continue
        if len(value.uses()) > 1 or value.name is None:
            continue
        lazy, perm = value.const_value, node.attributes["perm"].as_ints()
        assert isinstance(lazy, onnx_ir.LazyTensor) and folded.name is not None
        new = onnx_ir.Value(
            name=folded.name,
            type=onnx_ir.TensorType(lazy.dtype),
            shape=onnx_ir.Shape([lazy.shape[axis] for axis in perm]),
        )
        _promise(new, partial(_transposed, lazy, perm))
        graph.register_initializer(new)
        onnx_ir.convenience.replace_nodes_and_values(graph, node, [node], [], [folded], [new])
        graph.initializers.pop(value.name)


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
