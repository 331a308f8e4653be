"""Quantised graphs taken apart by NumPy, to compare with: nothing of ours decodes them."""

import numpy as np
import onnx_ir
import onnxruntime
from onnx_ir import Node

from quantization.integers import group_of, quantized
from quantization.onnx_files import load
from quantization.roles import uses


def attributes(node):
    return {key: value.value for key, value in node.attributes.items()}


def widened(node):
    """The weight (K,N) of a MatMulNBits as its specification decodes it."""
    options = attributes(node)
    bits, block, rows = options["bits"], options["block_size"], options["N"]
    stored, scale = (value.const_value.numpy() for value in node.inputs[1:3])
    if bits == 4:  # two a byte, the low one first
        stored = np.stack([stored & 15, stored >> 4], axis=-1)
    integers = stored.reshape(rows, -1, block).astype(np.float32) - (1 << (bits - 1))
    return (integers * scale.reshape(rows, -1, 1)).reshape(rows, -1)[:, : options["K"]].T


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def feeds_for(path, sizes, seed=0):
    """Standard normal inputs; names of sizes in the graph stand for what `sizes` says."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in session(path).get_inputs():
        shape = [
            side if isinstance(side, int) else eval(side.replace("/", "//"), {}, sizes)
            for side in value.shape
        ]
        feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def in_fp32(path):
    """A session of the graph at `path` with every MatMulNBits as MatMul by its widened weight."""
    model = load(path)
    for node in list(model.graph):
        if node.op_type != "MatMulNBits":
            continue
        name = f"{node.name}_wide"
        weight = np.ascontiguousarray(widened(node))
        value = onnx_ir.val(name, const_value=onnx_ir.tensor(weight, name=name))
        model.graph.register_initializer(value)
        product = Node("", "MatMul", [node.inputs[0], value], name=node.name)
        product.outputs[0].name = f"{node.outputs[0].name}_wide"
        model.graph.insert_before(node, product)
        node.outputs[0].replace_all_uses_with(product.outputs[0], replace_graph_outputs=True)
        model.graph.remove(node)
    serialized = onnx_ir.to_proto(model).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def grouped_in_fp32(path, recipe):
    """A session of the fp32 graph at `path` with its weights rounded as an IR's are: in groups."""
    model = load(path)
    for use in uses(model):
        if use.reason:
            continue
        value = model.graph.initializers[use.weight]
        weight = np.asarray(value.const_value.numpy(), np.float32)
        group = group_of(weight.shape[use.input_axis], recipe.group)
        integers, scale = quantized(weight, use, recipe.bits, group, np.float16)
        if group:
            wide = np.repeat(scale.astype(np.float32), group, axis=use.input_axis)
        else:
            wide = np.expand_dims(scale.astype(np.float32), use.input_axis)
        value.const_value = onnx_ir.tensor(integers * wide, name=use.weight)
    return session(onnx_ir.to_proto(model).SerializeToString())


def run(session, feeds):
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))
