"""An ONNX graph as a stranger wrote it: refused before an engine or a quantiser sees it.

An engine maps the bytes that a graph asks for and runs the operators that it names. So every
tensor has to lie whole in the graph itself or in the files which the manifest lists for it, and
every operator has to be one that computes, and nothing else.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtimes.bundle.packed_products import packed_faults
from runtimes.bundle.protobuf import Message, Value, as_message, as_number, as_text, fields, numbers
from runtimes.bundle.ranges import shown
from runtimes.bundle.untrusted import map_regular
from runtimes.bundle.values import MOST_AXES, MOST_SIZE

# Domains of operators, and the operators of each: what exports, quantisers and fusions write, and
# what else torch.onnx makes of the same modules. None has a graph inside (If, Loop, Scan), reads
# or writes anything but tensors, or is somebody's own.
_STANDARD = """
    Abs Add And Attention AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant
    ConstantOfShape Conv ConvInteger ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div
    DynamicQuantizeLinear Einsum Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND
    Gelu Gemm GlobalAveragePool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish
    Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log MatMul
    MatMulInteger Max Min Mod Mul Neg Not Or Pad Pow QLinearConv QLinearMatMul QuantizeLinear
    RMSNormalization Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice
    Softmax SpaceToDepth Split Sqrt Squeeze Sub Swish Tanh Tile Transpose Trilu Unsqueeze Where Xor
"""
_MICROSOFT = """
    Attention BiasGelu DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul
    GatherBlockQuantized Gelu
    MatMulIntegerToFloat MatMulNBits MultiHeadAttention QuickGelu SkipLayerNormalization
"""
OPERATORS = {
    domain: frozenset(names.split())
    for domain, names in (("", _STANDARD), ("ai.onnx", _STANDARD), ("com.microsoft", _MICROSOFT))
}
# Bits of a value of each data type (TensorProto.DataType): float, uint8, int8, uint16, int16,
# int32, int64, bool, float16, double, uint32, uint64, bfloat16, the four of 8-bit floats, uint4,
# int4, and float4. None of strings and complex numbers, which no graph here has.
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64,
         16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4}  # fmt: skip
_BIT = 8

# Field numbers of onnx.proto.
_GRAPH, _OPSETS, _TRAINING, _FUNCTIONS = 7, 8, 20, 25  # ModelProto
_DOMAIN = 1  # OperatorSetIdProto
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15  # GraphProto
_OP, _ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7  # NodeProto
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS = 5, 10  # AttributeProto
_ATTRIBUTE_GRAPHS = (6, 11, 22, 23)  # and sparse tensors
_DIMS, _TYPE, _TENSOR_NAME, _RAW, _EXTERNAL, _PLACE = 1, 2, 8, 9, 13, 14  # TensorProto
# Values written one by one: of 4 bytes, of 8, and whole numbers of as many as each takes.
_TYPED = {4: 4, 10: 8, 5: 0, 7: 0, 11: 0}
_KEY, _VALUE = 1, 2  # StringStringEntryProto


def onnx_faults(path: Path, files: Mapping[str, int]) -> Iterator[str]:
    """What a graph asks for beside tensors of its own and known operators.

    `files` are the sizes in bytes of the graph's further files, by the location that it may call
    them. Nothing of them is read. ValueError, IndexError, KeyError or TypeError for a file that is
    no graph.
    """
    return _model(map_regular(path), files)


def _model(model: Message, files: Mapping[str, int]) -> Iterator[str]:
    graphs = 0
    for number, value in fields(model):
        if number in (_FUNCTIONS, _TRAINING):
            yield "it brings functions or training steps of its own"
        if number == _OPSETS:
            domain = as_text(dict(fields(as_message(value))).get(_DOMAIN, b""))
            if domain not in OPERATORS:
                yield f"it asks for operators of {ascii(domain)[:60]}"
        if number == _GRAPH:
            graphs += 1
            yield from _graph(as_message(value), files)
    if graphs != 1:
        yield f"it has {graphs} graphs"


def _graph(graph: Message, files: Mapping[str, int]) -> Iterator[str]:
    for number, value in fields(graph):
        if number == _NODE:
            yield from _node(as_message(value))
        if number == _INITIALIZER:
            yield from _tensor(as_message(value), files)
        if number == _SPARSE:
            yield "it has sparse weights"
    yield from packed_faults(graph)


def _node(node: Message) -> Iterator[str]:
    operator, domain = "", ""
    for number, value in fields(node):
        if number == _OP:
            operator = as_text(value)
        if number == _NODE_DOMAIN:
            domain = as_text(value)
        if number == _ATTRIBUTE:
            yield from _attribute(as_message(value))
    if operator not in OPERATORS.get(domain, ()):
        yield f"it has an operator {ascii(f'{domain}:{operator}'.lstrip(':'))[:60]}"


def _attribute(attribute: Message) -> Iterator[str]:
    tensors = 0
    for number, value in fields(attribute):
        tensors += number == _ATTRIBUTE_TENSOR
        if tensors > 1:  # a parser would make one of them, which nobody looked at
            yield "an attribute has two tensors"
        if number in _ATTRIBUTE_GRAPHS:
            yield "a node holds a graph or a sparse tensor"
        if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            yield from _tensor(as_message(value), {})


@dataclass
class _Stored:
    """A tensor as it is written: its sizes and type, and what of its values is where.

    `raw` bytes are in the graph, `typed` so many values written one by one, `places` the entries
    that say where else it lies.
    """

    name: str = "a tensor"
    dims: list[int] = field(default_factory=list)
    kind: int = 0
    raw: int | None = None
    typed: int = 0
    external: bool = False
    places: dict[str, str] = field(default_factory=dict)


def _stored(tensor: Message) -> _Stored:
    found = _Stored()
    for number, value in fields(tensor):
        if number == _DIMS:
            found.dims += numbers(value, MOST_AXES)
        elif number == _TYPE:
            found.kind = as_number(value)
        elif number == _TENSOR_NAME:
            found.name = ascii(as_text(value))[:60]
        elif number == _RAW:
            found.raw = len(as_message(value))
        elif number == _PLACE:
            found.external = as_number(value) != 0
        elif number == _EXTERNAL:
            _add_place(found, dict(fields(as_message(value))))
        elif number in _TYPED:
            found.typed += _values(value, _TYPED[number])
    found.external = found.external or bool(found.places)
    return found


def _values(value: Value, size: int) -> int:
    """How many values of `size` bytes, or 0 for whole numbers, a repeated field holds."""
    if not isinstance(value, bytes | memoryview):
        return 1
    if size:
        return len(value) // size
    return sum(byte < 0x80 for byte in value)  # each number's last byte is below


def _add_place(found: _Stored, pair: Mapping[int, Value]) -> None:
    key = as_text(pair[_KEY])
    if key in found.places:
        raise ValueError(f"{key} is there twice")
    found.places[key] = as_text(pair.get(_VALUE, b""))


def _tensor(tensor: Message, files: Mapping[str, int]) -> Iterator[str]:
    """What is wrong with where a tensor's values lie, or how many they are."""
    stored = _stored(tensor)
    if stored.kind not in BITS:
        yield f"{stored.name} has values of a kind that is not known"
        return
    # Negative ones are written as numbers above 2^63.
    if len(stored.dims) > MOST_AXES or any(size > MOST_SIZE for size in stored.dims):
        yield f"{stored.name} has a negative size, or one that is too large"
        return
    count = math.prod(stored.dims)
    needed = -(-count * BITS[stored.kind] // 8)
    if stored.external:
        yield from _external(stored, needed, files)
    elif stored.raw is not None:
        if stored.raw != needed:
            yield f"{stored.name} takes {shown(needed)} bytes and has {stored.raw}"
    elif stored.typed != (needed if BITS[stored.kind] < _BIT else count):
        yield f"{stored.name} has {stored.typed} values of {shown(count)}"


def _external(stored: _Stored, needed: int, files: Mapping[str, int]) -> Iterator[str]:
    name, places = stored.name, stored.places
    location = places.get("location", "")
    if location not in files:
        yield f"{name} lies in {ascii(location)[:60]}, none of the graph's own files"
        return
    offset, length = _count(places.get("offset", "0")), _count(places.get("length", ""))
    if offset is None or length is None:
        yield f"{name} does not say where in {location} it lies"
    elif length != needed:
        yield f"{name} takes {shown(needed)} bytes and asks for {length}"
    elif offset + length > files[location]:
        yield f"{name} ends at byte {offset + length} of {location}, which has {files[location]}"


def _count(text: str) -> int | None:
    """A whole number from 0, in as many digits as a file has bytes; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
