"""How large graphs would be with integer weights, or in ORT format, without making them.

Weights by the rules that `python -m quantization` documents, and records weight by weight: matrices
and convolutions over points in blocks with a scale each, embeddings and other convolutions in eight
bits, and what is small, depthwise, a timestep mapper or the last projection in fp32.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import onnx

from runtimes.bundle.manifest import DENOISERS, UNTOUCHED_GRAPHS, Manifest

# Bits of the weights of a denoiser, and of the other graphs, by precision.
BITS = {"int8-weights": (8, 8), "int4-weights": (4, 8)}
_LARGEST_BLOCK = {8: 64, 4: 32}  # inputs that share an fp32 scale; twice that of wide weights
_WIDE, _SMALLEST_BLOCK = 1024, 16
_KINDS = ("Conv", "ConvTranspose", "MatMul", "Gather")
_INPUTS = {"Conv": 1, "ConvTranspose": 0, "MatMul": 0, "Gather": 1}  # the axis that is summed over
_SMALLEST = 1024  # values; smaller weights stay as they are
# Beside its weights, ORT format has a table of kernels, and says of every node what feeds it and of
# every value its type; integers bring nodes of their own. Bytes, and shares of what describes the
# graph in ONNX: the demo's six graphs take 26 kB and up to 1.9, and 0.9 for integers.
_KERNELS, _ORT, _INTEGERS = 30_000, 2.0, 1.0


def estimated_bytes(graph: Path, stored: int, bits: int | None, *, ort: bool) -> int:
    """Bytes of a graph of `stored` bytes in another form.

    `bits`: of fp32 weights that become integers (None: they stay as they are); `ort`: in ORT
    format.
    """
    model = onnx.load(graph, load_external_data=False)
    saved = _saved(model.graph, bits) if bits is not None else 0
    for weight in model.graph.initializer:
        weight.ClearField("raw_data")
    described = model.ByteSize() * (ort * _ORT + (bits is not None) * _INTEGERS)
    return stored - saved + int(described) + ort * _KERNELS


def bits_of(precision: str, name: str) -> int | None:
    """Bits of a graph's weights in a precision; None for none of those here."""
    if precision not in BITS or name in UNTOUCHED_GRAPHS:
        return None
    denoiser, other = BITS[precision]
    return denoiser if name in DENOISERS else other


def precisions(manifest: Manifest) -> Sequence[str]:
    """What a bundle could be made smaller to, the least damaging first."""
    plain = manifest.precision == "fp32" and not manifest.quantization
    return tuple(BITS) if plain else ()


def _saved(graph: onnx.GraphProto, bits: int) -> int:
    sizes = {
        weight.name: tuple(weight.dims)
        for weight in graph.initializer
        if weight.data_type == onnx.TensorProto.FLOAT
    }
    saved = 0
    for node in graph.node:
        position = 0 if node.op_type == "Gather" else 1
        name = node.input[position] if len(node.input) > position else ""
        if node.op_type in _KINDS and name in sizes:
            shape = sizes.pop(name)  # once, where nodes share it
            saved += 4 * math.prod(shape) - _stored(node, shape, bits)
    return saved


def _stored(node: onnx.NodeProto, shape: tuple[int, ...], bits: int) -> int:
    """Bytes of a weight as it will be."""
    count, kernel = math.prod(shape), math.prod(shape[2:])
    grouped = any(a.name == "group" and a.i > 1 for a in node.attribute)
    last = node.op_type == "ConvTranspose" and kernel == 1
    if len(shape) < 2 or count < _SMALLEST or grouped or last:
        return 4 * count
    inputs = shape[_INPUTS[node.op_type]]
    if node.op_type == "Gather" or kernel > 1:
        return count + 4 * count // (kernel * min(inputs, _LARGEST_BLOCK[8]))
    return count // inputs * _column(inputs, bits)


def _column(inputs: int, bits: int) -> int:
    """Bytes of the weights of one output, in the blocks that take the least."""
    size = _LARGEST_BLOCK[bits] * (2 if inputs >= _WIDE else 1)
    found = []
    while size >= _SMALLEST_BLOCK:
        found.append(-(-inputs // size) * (size * bits // 8 + 4))
        size //= 2
    return min(found)
