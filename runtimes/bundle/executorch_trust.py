"""What an ExecuTorch program (.pte) asks for that it should not.

The file is a flatbuffer with a header, and segments of bytes behind it: constants, weights by name,
and graphs of XNNPACK's, flatbuffers of their own. ExecuTorch and XNNPACK take what these say of
places, sizes and numbers as it stands. So all of it is asked here: every tensor lies whole in a
segment or in the memory that the program plans, every call is of a known kernel with as many
arguments as that takes.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtimes.bundle.executorch_schema import PROGRAM, XNNPACK
from runtimes.bundle.flatbuffer import Buffer, Table, read
from runtimes.bundle.untrusted import map_regular
from runtimes.bundle.values import MOST_AXES, MOST_SIZE

# Kernels that compute, and nothing else, by the number of their arguments; what exports write.
KERNELS = {
    "aten::arange.start_out": 5,
    "aten::bitwise_and.Tensor_out": 4,
    "aten::embedding.out": 7,
    "aten::expand_copy.out": 5,
    "aten::full.out": 4,
    "aten::full_like.out": 5,
    "aten::le.Scalar_out": 4,
    "aten::logical_and.out": 4,
    "aten::lt.Scalar_out": 4,
    "aten::mean.out": 6,
    "aten::mm.out": 4,
    "aten::native_layer_norm.out": 9,
    "aten::ne.Scalar_out": 4,
    "aten::scalar_tensor.out": 3,
    "aten::split_with_sizes_copy.out": 5,
    "aten::squeeze_copy.dims_out": 4,
    "aten::sub.out": 5,
    "aten::sum.IntList_out": 6,
    "aten::unsqueeze_copy.out": 4,
    "aten::where.self_out": 5,
    "dim_order_ops::_clone_dim_order.out": 5,
    "dim_order_ops::_to_dim_order_copy.out": 5,
}
DELEGATE = "XnnpackBackend"
# Bytes of a value of each ScalarType: byte, char, short, int, long, half, float, double, bool.
_BYTES = {0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 11: 1}
# Bytes of a value of XNNPACK's types: fp32; weights in int8, and what is rounded to it as it comes.
_XNN_BYTES = {1: 4}
_QUANTISED_BYTES = {"PerChannelQuant": {6: 1}, "PerTokenDynamicQuant": {9: 1}}
_SCALE_BYTES = 4
_NONE = (1 << 32) - 1  # of XNNPACK's ids
_MOST_MEMORY = 1 << 36  # bytes that a program plans: some 10 GB at four times the public size
_HEADER = struct.Struct("<4sIQQQ")  # magic, length, the program's size, the segments' place, size
_HEADER_AT, _MAGIC = 8, b"eh00"
_XNN_HEADER = struct.Struct("<4x4sHIIIQ")  # magic, length, graph's place, size, constants' place
_XNN_MAGIC = b"XH00"


def executorch_faults(path: Path, files: Mapping[str, int]) -> Iterator[str]:
    """What a program asks for beside weights of its own and known kernels.

    ValueError or the like for a file that is no program.
    """
    content = map_regular(path)
    magic, _, size, start, length = _HEADER.unpack_from(content, _HEADER_AT)
    if magic != _MAGIC or not 0 < size <= start <= len(content) - length:
        raise ValueError("no program with segments behind it")
    program = read(content[:size], PROGRAM)
    if program.get("constant_buffer") or program.get("backend_delegate_data"):
        yield "it has constants in another place than its segments"
    if program.get("mutable_data_segments"):
        yield "it keeps a state"
    segments = _Segments(content[start : start + length], program)
    yield from segments.faults()
    plans = program["execution_plan"]
    if [plan.get("name") for plan in plans] != ["forward"]:
        yield "it has another method than 'forward'"
    for plan in plans:
        yield from _Plan(plan, segments).faults()


class _Segments:
    """Where a program's bytes may lie: its segments, the constants in one of them, and names."""

    def __init__(self, content: Buffer, program: Table) -> None:
        self._content = content
        self._places = [(s.get("offset", 0), s.get("size", 0)) for s in program.get("segments", ())]
        constants = program.get("constant_segment", {})
        self._offsets = constants.get("offsets", ())
        self._constants = constants.get("segment_index", 0)
        self._named = {n["key"]: n.get("segment_index", 0) for n in program.get("named_data", ())}

    def faults(self) -> Iterator[str]:
        for offset, size in self._places:
            if offset + size > len(self._content):
                yield f"a segment ends at byte {offset + size} of {len(self._content)}"
        if any(index >= len(self._places) for index in (*self._named.values(), self._constants)):
            yield "it names a segment that is not there"

    def bytes_of(self, index: int) -> Buffer:
        """A segment's bytes; IndexError where it is not there."""
        offset, size = self._places[index]
        return self._content[offset : offset + size]

    def size_of(self, key: str) -> int:
        """Bytes of what is stored by a name; KeyError where nothing is."""
        return int(self._places[self._named[key]][1])

    def room(self, constant: int) -> int:
        """Bytes from where a constant begins to the end of its segment."""
        return int(self._places[self._constants][1] - self._offsets[constant])


class _Plan:
    """A method: its values, and the calls that compute with them."""

    def __init__(self, plan: Table, segments: _Segments) -> None:
        self._plan, self._segments = plan, segments
        self._values = plan["values"]
        self._memory = plan.get("non_const_buffer_sizes", ())
        self._externals: list[int] = []

    def faults(self) -> Iterator[str]:
        if sum(self._memory) > _MOST_MEMORY or any(size < 0 for size in self._memory):
            yield f"it plans {sum(self._memory)} bytes of memory"
        for value in self._values:
            yield from self._value(value)
        for index in (*self._plan["inputs"], *self._plan["outputs"]):
            if self._kind(index) != "Tensor":
                yield "an input or output is no tensor"
        for delegate in self._plan.get("delegates", ()):
            yield from self._delegate(delegate)
        if len(self._plan["chains"]) != 1:
            yield f"it has {len(self._plan['chains'])} chains of instructions"
        for chain in self._plan["chains"]:
            for instruction in chain.get("instructions", ()):
                yield from self._call(instruction)

    def _kind(self, index: int) -> str:
        """The kind of a value; '' for one that is not there."""
        value = self._values[index] if 0 <= index < len(self._values) else {}
        return str(value.get("val_type", ""))

    def _value(self, value: Table) -> Iterator[str]:
        kind, held = value.get("val_type", "Null"), value.get("val", {})
        if kind == "Tensor":
            yield from self._tensor(held)
        elif kind in ("TensorList", "OptionalTensorList", "IntList"):
            # Numbers of values, too; in these lists -1 stands for none.
            least = -1 if kind == "OptionalTensorList" else 0
            if any(not least <= index < len(self._values) for index in held.get("items", ())):
                yield "a list names a value that is not there"

    def _tensor(self, tensor: Table) -> Iterator[str]:
        sizes = tensor.get("sizes", ())
        needed = _volume(sizes) * _BYTES[tensor.get("scalar_type", 0)]
        constant, place = tensor.get("data_buffer_idx", 0), tensor.get("allocation_info")
        if sorted(tensor.get("dim_order", b"")) != list(range(len(sizes))):
            yield "a tensor's order is none of its axes"
        if tensor.get("storage_offset", 0) or tensor.get("shape_dynamism", 0) not in (0, 1):
            yield "a tensor is of a kind that is not known"
        if (constant > 0) == (place is not None):
            yield "a tensor lies in no place, or in two"
        elif place is None:
            if needed > self._segments.room(constant):
                yield f"a constant of {needed} bytes has {self._segments.room(constant)}"
        else:
            offset = place.get("memory_offset_low", 0) + (place.get("memory_offset_high", 0) << 32)
            arena = place.get("memory_id", 0)
            if not 0 < arena < len(self._memory) or offset + needed > self._memory[arena]:
                yield f"a tensor of {needed} bytes ends outside of the planned memory"

    def _delegate(self, delegate: Table) -> Iterator[str]:
        place = delegate["processed"]
        if (
            delegate["id"] != DELEGATE
            or delegate.get("compile_specs")
            or place.get("location") != 1
        ):
            yield f"a part is for {ascii(delegate['id'])[:40]}, or not as {DELEGATE}'s are"
            self._externals.append(0)
            return
        graph = _Graph(self._segments.bytes_of(place.get("index", 0)), self._segments)
        self._externals.append(graph.externals)
        yield from graph.faults()

    def _call(self, instruction: Table) -> Iterator[str]:
        call = instruction["instr_args"]
        arguments = call.get("args", ())
        if not all(0 <= index < len(self._values) for index in arguments):
            yield "a call's argument is not there"
        if instruction["instr_args_type"] == "DelegateCall":
            index = call.get("delegate_index", 0)
            if not 0 <= index < len(self._externals) or len(arguments) != self._externals[index]:
                yield "a part is called with other arguments than it takes"
            elif any(self._kind(index) != "Tensor" for index in arguments):
                yield "a part is called with something else than tensors"
            return
        index, operators = call.get("op_index", 0), self._plan.get("operators", ())
        operator = operators[index] if 0 <= index < len(operators) else {}
        name = f"{operator.get('name', '')}.{operator.get('overload', '')}"
        if KERNELS.get(name) != len(arguments):
            yield f"it calls {ascii(name)[:60]} with {len(arguments)} arguments"


class _Graph:
    """A graph of XNNPACK's: its values by their ids, and the nodes between them."""

    def __init__(self, content: Buffer, segments: _Segments) -> None:
        magic, _, start, size, constants, length = _XNN_HEADER.unpack_from(content)
        if magic != _XNN_MAGIC or start + size > len(content):
            raise ValueError("no graph of XNNPACK's")
        if constants + length > len(content):
            raise ValueError("its constants end outside")
        self._graph, self._inline = read(content[start : start + size], XNNPACK), length
        self._segments = segments
        self.externals = int(self._graph.get("num_externs", 0))

    def faults(self) -> Iterator[str]:
        sizes = [0]
        for constant in self._graph.get("constant_data", ())[1:]:
            sizes.append(constant.get("size", 0))
            yield from self._constant(constant)
        ids = {_NONE: _NONE}  # and which argument of a call a value is
        for value in self._graph.get("xvalues", ()):
            tensor, held = value["xvalue_union"], _XNN_BYTES
            if value["xvalue_union_type"] == "QuantizedTensorValue":
                yield from self._scales(tensor, sizes)
                held = _QUANTISED_BYTES[tensor["quant_params_type"]]
                tensor = tensor["tensor_value"]
            ids[tensor.get("id_out", 0)] = tensor.get("external_id", 0)
            yield from self._value(tensor, sizes, held)
        ends = (*self._graph.get("input_ids", ()), *self._graph.get("output_ids", ()))
        # 0 is what fields that are left out say.
        if 0 not in ids or any(ids.get(index, _NONE) >= self.externals for index in ends):
            yield "an input or output of a part is not there"
        for node in self._graph.get("xnodes", ()):
            for key, index in node["xnode_union"].items():
                if key.endswith("_id") and index not in ids:
                    yield f"a {node['xnode_union_type']} names a value that is not there"

    def _constant(self, constant: Table) -> Iterator[str]:
        key, size = constant.get("named_key", ""), constant.get("size", 0)
        room = self._segments.size_of(key) if key else self._inline - constant.get("offset", 0)
        if size > room:
            yield f"a weight of {size} bytes has {room}"

    def _scales(self, value: Table, sizes: list[int]) -> Iterator[str]:
        """XNNPACK takes as many scales as a weight's first axis is long, and an axis on trust."""
        tensor, how = value["tensor_value"], value["quant_params"]
        dims, constant = tensor.get("dims", ()), tensor.get("constant_buffer_idx", 0)
        if value["quant_params_type"] == "PerChannelQuant":
            index = how.get("scale_buffer_idx", 0)
            if not constant or not dims or how.get("channel_dim", 0) or not index:
                yield "a quantised weight has no scale for each of its outputs"
            elif "scale" not in how or sizes[index] < _SCALE_BYTES * dims[0]:
                yield f"the scales of {dims[0]} outputs have {sizes[index]} bytes"
        elif constant or how.get("num_nonbatch_dims", 0) != 1 or not dims:
            yield "what is rounded as it comes is no activation"

    def _value(self, tensor: Table, sizes: list[int], held: Mapping[int, int]) -> Iterator[str]:
        dims = tensor.get("dims", ())
        needed = _volume(dims) * held[tensor.get("datatype", 0)]
        index, external = tensor.get("constant_buffer_idx", 0), tensor.get("external_id", 0)
        if len(dims) != tensor.get("num_dims", 0):
            yield "a value of a part has another number of axes than it says"
        if index and needed > sizes[index]:
            yield f"a weight of {needed} bytes has {sizes[index]}"
        if external not in range(self.externals) and external != _NONE:
            yield "a value of a part is none of its own and none of its inputs"


def _volume(sizes: tuple[int, ...]) -> int:
    """Values of a tensor; ValueError for one that cannot be."""
    if len(sizes) > MOST_AXES or any(not 0 <= size <= MOST_SIZE for size in sizes):
        raise ValueError("a tensor is too large")
    return math.prod(sizes)
