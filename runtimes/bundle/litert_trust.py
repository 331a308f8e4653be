"""What a LiteRT model (.tflite) asks for that it should not.

The file is one flatbuffer; weights beyond its 2 GB lie behind it, in places that its buffers name.
LiteRT takes what it says of sizes and numbers as it stands. So all of it is asked here: every
constant has the bytes that its tensor takes, every operator is one that computes, and nothing else.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtimes.bundle.flatbuffer import Buffer, Table, read
from runtimes.bundle.litert_schema import MODEL
from runtimes.bundle.untrusted import map_regular
from runtimes.bundle.values import MOST_AXES, MOST_SIZE

# Operators that compute, and nothing else, by their numbers in BuiltinOperator: the name, and how
# many inputs it may have. None holds a graph (IF, WHILE, CALL), keeps a state (VAR_HANDLE, the
# LSTMs) or is somebody's own (CUSTOM).
_MANY = 1_000
OPERATORS = {
    0: ("ADD", 2, 2),
    2: ("CONCATENATION", 1, _MANY),
    3: ("CONV_2D", 3, 3),
    4: ("DEPTHWISE_CONV_2D", 3, 3),
    6: ("DEQUANTIZE", 1, 1),
    7: ("EMBEDDING_LOOKUP", 2, 2),
    9: ("FULLY_CONNECTED", 3, 3),
    14: ("LOGISTIC", 1, 1),
    18: ("MUL", 2, 2),
    22: ("RESHAPE", 2, 2),
    25: ("SOFTMAX", 1, 1),
    34: ("PAD", 2, 2),
    39: ("TRANSPOSE", 2, 2),
    40: ("MEAN", 2, 2),
    41: ("SUB", 2, 2),
    42: ("DIV", 2, 2),
    53: ("CAST", 1, 1),
    64: ("SELECT", 3, 3),
    65: ("SLICE", 3, 3),
    67: ("TRANSPOSE_CONV", 4, 4),
    72: ("NOT_EQUAL", 2, 2),
    74: ("SUM", 2, 2),
    75: ("SQRT", 1, 1),
    76: ("RSQRT", 1, 1),
    86: ("LOGICAL_AND", 2, 2),
    98: ("LEAKY_RELU", 1, 1),
    99: ("SQUARED_DIFFERENCE", 2, 2),
    123: ("SELECT_V2", 3, 3),
    126: ("BATCH_MATMUL", 2, 2),
    150: ("GELU", 1, 1),
    152: ("RELU_0_TO_1", 1, 1),
}
# Bits of a value of each TensorType: float32, float16, int32, int64, bool, int8, int4.
_BITS = {0: 32, 1: 16, 2: 32, 4: 64, 6: 8, 9: 8, 17: 4}
_OPTIONAL = -1  # an input that is left out


def litert_faults(path: Path, files: Mapping[str, int]) -> Iterator[str]:
    """What a model asks for beside weights of its own and known operators.

    ValueError or the like for a file that is no model.
    """
    content = map_regular(path)
    model = read(content, MODEL)
    graphs = model.get("subgraphs", ())
    if len(graphs) != 1:
        yield f"it has {len(graphs)} graphs"
    buffers = [_bytes(buffer, content) for buffer in model.get("buffers", ())]
    if buffers and buffers[0]:
        yield "its first buffer, which stands for none, has bytes"
    held = (*model.get("metadata_buffer", ()), *(m.get("buffer", 0) for m in model["metadata"]))
    if any(not 0 <= index < len(buffers) for index in held):
        yield "its notes lie in a buffer that is not there"
    codes = [code_of(code) for code in model.get("operator_codes", ())]
    for graph in graphs:
        yield from _Graph(graph, buffers, codes).faults()
        yield from _signatures(model.get("signature_defs", ()), len(graph["tensors"]))


def _bytes(buffer: Table, content: Buffer) -> int:
    """Bytes of a constant, which lies in the flatbuffer or behind it; ValueError for neither."""
    offset, size = buffer.get("offset", 0), buffer.get("size", 0)
    if offset <= 1 and size <= 1:  # as if there were none
        return len(buffer.get("data", b""))
    if "data" in buffer or offset + size > len(content):
        raise ValueError("a constant ends outside of the file")
    return int(size)


def code_of(code: Table) -> int:
    """An operator's number: those up to 127 have it in the older field, too."""
    return max(code.get("deprecated_builtin_code", 0), code.get("builtin_code", 0))


def _signatures(signatures: list[Table], tensors: int) -> Iterator[str]:
    if len(signatures) != 1 or signatures[0].get("subgraph_index", 0):
        yield f"it has {len(signatures)} signatures"
    for signature in signatures:
        named = (*signature.get("inputs", ()), *signature.get("outputs", ()))
        if any(entry.get("tensor_index", 0) >= tensors for entry in named):
            yield "its signature names a tensor that is not there"


class _Graph:
    """The graph of a model: its tensors, and the operators between them."""

    def __init__(self, graph: Table, buffers: list[int], codes: list[int]) -> None:
        self._graph, self._buffers, self._codes = graph, buffers, codes
        self._tensors = graph["tensors"]

    def faults(self) -> Iterator[str]:
        for tensor in self._tensors:
            yield from self._tensor(tensor)
        ends = (*self._graph["inputs"], *self._graph["outputs"])
        if not all(self._is_there(index) for index in ends):
            yield "an input or output is not there"
        for operator in self._graph.get("operators", ()):
            yield from self._operator(operator)

    def _is_there(self, index: int) -> bool:
        return 0 <= index < len(self._tensors)

    def _tensor(self, tensor: Table) -> Iterator[str]:
        shape, buffer = tensor.get("shape", ()), tensor.get("buffer", 0)
        if len(shape) > MOST_AXES or any(not 0 <= size <= MOST_SIZE for size in shape):
            raise ValueError("a tensor is too large")
        if tensor.get("is_variable"):
            yield "it keeps a state"
        needed = -(-math.prod(shape) * _BITS[tensor.get("type", 0)] // 8)
        stored = self._buffers[buffer]
        if stored not in (0, needed):
            yield f"a constant of {needed} bytes has {stored}"
        scaled = tensor.get("quantization", {})
        axis, scales = scaled.get("quantized_dimension", 0), len(scaled.get("scale", ()))
        if scales > 1 and (not 0 <= axis < len(shape) or scales != shape[axis]):
            yield f"a constant has {scales} scales"
        if len(scaled.get("zero_point", ())) not in (0, scales):
            yield f"a constant has {scales} scales and another number of zero points"

    def _operator(self, operator: Table) -> Iterator[str]:
        code = self._codes[operator.get("opcode_index", 0)]
        inputs, outputs = operator.get("inputs", ()), operator.get("outputs", ())
        name, least, most = OPERATORS.get(code, ("", 0, 0))
        if not least <= len(inputs) <= most or len(outputs) != 1 or not name:
            yield f"it has an operator {name or code} of {len(inputs)} inputs"
        if not all(index == _OPTIONAL or self._is_there(index) for index in inputs) or not all(
            map(self._is_there, outputs)
        ):
            yield f"a tensor of an operator {name} is not there"
