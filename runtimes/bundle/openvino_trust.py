"""What an OpenVINO graph (.xml beside its weights, .bin) asks for that it should not.

OpenVINO's own reader takes more than XML allows. So nothing is parsed as XML here: every place
where a layer could begin is looked at, and a file with anything that could make it mean something
else (declarations, entities, comments, other encodings) is refused.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtimes.bundle.ranges import shown
from runtimes.bundle.untrusted import read_regular

# Operations of the opsets that compute, and nothing else: none holds a graph (If, Loop,
# TensorIterator), keeps a state (Assign, ReadValue) or comes from an extension.
_NAMES = """
    Abs Add AvgPool BatchNormInference Broadcast Ceiling Clamp Concat Const Convert ConvertLike
    Convolution ConvolutionBackpropData Cos CumSum DepthToSpace Divide Einsum Elu Equal Erf Exp
    FakeConvert FakeQuantize Floor FloorMod Gather GatherElements GatherND Gelu Greater GreaterEqual
    GroupConvolution GroupConvolutionBackpropData GroupNormalization HSigmoid HSwish HardSigmoid
    Interpolate LayerNorm Less LessEqual Log LogicalAnd LogicalNot LogicalOr LogicalXor MVN MatMul
    MaxPool Maximum Minimum Mish Mod Multiply Negative NormalizeL2 NotEqual OneHot PReLU Pad
    Parameter Power RMS Range ReLU ReduceL1 ReduceL2 ReduceLogicalAnd ReduceLogicalOr ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Result ScaledDotProductAttention
    ScatterElementsUpdate ScatterNDUpdate ScatterUpdate Select ShapeOf Sigmoid Sign Sin Slice
    SoftMax SoftPlus Softmax SpaceToDepth Split Sqrt SquaredDifference Squeeze StridedSlice Subtract
    Swish Tan Tanh Tile TopK Transpose Unsqueeze VariadicSplit
"""
OPERATIONS = frozenset(_NAMES.split())
# Bits of a value of each element type; none of strings, whose length the weights would say.
_BITS = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "i64": 64, "u64": 64, "i32": 32, "u32": 32,
         "i16": 16, "u16": 16, "i8": 8, "u8": 8, "boolean": 8, "i4": 4, "u4": 4, "nf4": 4,
         "f8e4m3": 8, "f8e5m2": 8}  # fmt: skip
# As OpenVINO writes them; whoever writes them otherwise means something by it.
_LAYER = re.compile(
    r'id="\d+" name="([^"<]*)" type="(\w+)" version="(opset\d{1,2})"'
    r'(?: output_names="[^"<]*")?\s*/?>',
    re.ASCII,  # OpenVINO reads no other digits
)
_DATA = re.compile(
    r'<data element_type="(\w+)" shape="((?:\d{1,15}(?:, ?\d{1,15}){0,15})?)" '
    r'offset="(\d{1,19})" size="(\d{1,19})"\s*/>',
    re.ASCII,
)
_MOST_BYTES = 100_000_000  # of the .xml: the public Stage B's has 3 million
_START = ('<?xml version="1.0"?>', "<net ")


def openvino_faults(path: Path, files: Mapping[str, int]) -> Iterator[str]:
    """What a graph asks for beside weights of its own and known operations.

    `files` are the sizes in bytes of its further files, by name; nothing of them is read.
    ValueError or KeyError for a file that is no such graph.
    """
    text = read_regular(path, _MOST_BYTES).decode("utf-8")
    if not text.startswith(_START) or "\0" in text:
        raise ValueError("no OpenVINO graph")
    for sign, what in (("<!", "a declaration or comment"), ("<?", "an instruction")):
        if text.find(sign, 1) > 0:
            yield f"it has {what}, which OpenVINO does not write"
    weights = path.with_suffix(".bin").name
    yield from _layers(text, weights, files.get(weights, 0))


def _layers(text: str, weights: str, size: int) -> Iterator[str]:
    layers = text.split("<layer ")[1:]
    if len(layers) != text.count("<layer") - text.count("<layers"):
        yield "a layer cannot be read"
    for layer in layers:
        head = _LAYER.match(layer)
        if head is None or head[2] not in OPERATIONS:
            kind = "" if head is None else f" {head[3]}:{head[2]}"
            yield f"it has an operation{kind[:60]} that is not known ({layer[:40]!a})"
        elif head[2] == "Const":
            data = _DATA.search(layer)
            if data is None or layer.count("<data") != 1:
                yield f"{ascii(head[1])[:60]} does not say where its values lie"
            else:
                yield from _constant(ascii(head[1])[:60], data, weights, size)


def _constant(name: str, data: re.Match[str], weights: str, size: int) -> Iterator[str]:
    """What is wrong with where a constant's values lie, or how many they are."""
    if data[1] not in _BITS:
        yield f"{name} has values of a kind that is not known"
        return
    shape = [int(part) for part in data[2].split(",")] if data[2].strip() else []
    needed = -(-math.prod(shape) * _BITS[data[1]] // 8)
    offset, length = int(data[3]), int(data[4])
    if length != needed:
        yield f"{name} takes {shown(needed)} bytes and asks for {length}"
    elif offset + length > size:
        yield f"{name} ends at byte {offset + length} of {weights}, which has {size}"
