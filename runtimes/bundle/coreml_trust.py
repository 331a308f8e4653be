"""What a Core ML package asks for that it should not.

A package is a folder: Manifest.json says which of its files is the program (a protocol buffer,
Model.proto and MIL.proto of Core ML), and the program where in the weights each constant lies.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from runtimes.bundle.protobuf import Message, as_message, as_number, as_text, fields, only
from runtimes.bundle.untrusted import map_regular, open_regular, parse_json, read_regular
from runtimes.bundle.values import MOST_AXES, MOST_SIZE

# Operations of ML programs that compute, and nothing else: none holds a program (cond, while_loop),
# keeps a state (read_state) or is somebody's own (custom_layer).
_NAMES = """
    abs add avg_pool batch_norm cast ceil clip concat const constexpr_affine_dequantize
    constexpr_blockwise_shift_scale constexpr_cast constexpr_lut_to_dense constexpr_lut_to_sparse
    constexpr_sparse_blockwise_shift_scale constexpr_sparse_to_dense conv conv_transpose cos
    cumsum depth_to_space dequantize einsum elu equal erf exp exp2 expand_dims fill floor floor_div
    gather gather_along_axis gather_nd gelu greater greater_equal identity instance_norm l2_norm
    layer_norm leaky_relu less less_equal linear log logical_and logical_not logical_or logical_xor
    matmul max_pool maximum minimum mod mul not_equal pad pixel_shuffle pixel_unshuffle pow prelu
    quantize range_1d real_div reduce_l1_norm reduce_l2_norm reduce_max reduce_mean reduce_min
    reduce_prod reduce_sum reduce_sum_square relu relu6 reshape rsqrt
    scaled_dot_product_attention select shape sigmoid sigmoid_hard sign silu sin slice_by_index
    slice_by_size softmax softplus softsign space_to_depth split sqrt square squeeze stack sub tanh
    thresholded_relu tile transpose upsample_bilinear upsample_nearest_neighbor
"""
OPERATIONS = frozenset(_NAMES.split())
# Bits of a value of each DataType: bool, float16, float32, float64, int8, int16, int32, int64,
# int4, the unsigned ones, uint6 and uint3. None of strings, which only stand in the program.
_BITS = {1: 8, 10: 16, 11: 32, 12: 64, 21: 8, 22: 16, 23: 32, 24: 64, 25: 4,
         31: 8, 32: 16, 33: 32, 34: 64, 35: 4, 36: 2, 37: 1, 38: 6, 39: 3}  # fmt: skip
_MANIFEST, _MODEL, _PREFIX = "Manifest.json", "com.apple.CoreML/model.mlmodel", "@model_path/"
_MOST_BYTES = 1_000_000  # of Manifest.json, which names two files
_BLOB = struct.Struct("<IIQQ")  # of a constant in the weights: sentinel, type, bytes, offset
_SENTINEL = 0xDEADBEEF

# Field numbers.
_VERSION, _DESCRIPTION, _PROGRAM = 1, 2, 502  # Model
_FUNCTIONS = 2  # Program
_BLOCKS = 3  # Function: by the operator set that they are written for
_MAP_VALUE = 2
_ATTRIBUTES = 4  # Program, Function, Block
_OPERATIONS = 3  # Block
_TYPE, _INPUTS, _NESTED, _VALUES = 1, 2, 4, 5  # Operation
_VALUE_TYPE, _IMMEDIATE, _BLOB_FILE = 2, 3, 5  # Value
_TENSOR, _DICTIONARY = 1, 4  # ImmediateValue: tuples and lists are the others
_ITEMS = 1  # of these
_TENSOR_TYPE = 1  # ValueType
_DATA_TYPE, _DIMENSIONS = 1, 3  # TensorType
_ARGUMENTS, _ARGUMENT_VALUE = 1, 2  # Argument, Binding
_FILE, _OFFSET = 1, 2  # BlobFileValue
_CONSTANT = 1  # Dimension, and its size in that


def specification_file(package: Path) -> Path:
    """Where the package's manifest says that its program is; ValueError where it may not be."""
    manifest = parse_json(read_regular(package / _MANIFEST, _MOST_BYTES))
    entries = manifest["itemInfoEntries"]
    for entry in entries.values():
        path = PurePosixPath(entry["path"])
        if path.is_absolute() or ".." in path.parts or {"\\", "\0"} & set(entry["path"]):
            raise ValueError(f"its manifest leads out of the package, to {ascii(str(path))[:60]}")
    return package / "Data" / PurePosixPath(entries[manifest["rootModelIdentifier"]]["path"])


def coreml_faults(package: Path, files: Mapping[str, int]) -> Iterator[str]:
    """What a package asks for beside weights of its own and known operations.

    `files` are the sizes in bytes of its files by their paths in it. Of the weights, only what
    says where each constant lies is read. ValueError, KeyError or the like for what is no package.
    """
    program = specification_file(package)
    if program != package / "Data" / _MODEL or f"Data/{_MODEL}" not in files:
        yield "its program is not where it belongs"
        return
    programs = 0
    for number, value in fields(map_regular(program)):
        if number == _PROGRAM:
            programs += 1
            weights = _Weights(program.parent, f"Data/{PurePosixPath(_MODEL).parent}", files)
            yield from _program(as_message(value), weights)
        elif number not in (_VERSION, _DESCRIPTION):
            yield f"it is a model of another kind (field {number})"
    if programs != 1:
        yield f"it has {programs} programs"


class _Weights:
    """Where a program's constants may lie: the files below its folder."""

    def __init__(self, folder: Path, inside: str, files: Mapping[str, int]) -> None:
        self._folder = folder
        self._sizes = {
            name.removeprefix(f"{inside}/"): size
            for name, size in files.items()
            if name.startswith(f"{inside}/") and not name.endswith(_MODEL)
        }

    def faults(self, file: str, offset: int, needed: int) -> Iterator[str]:
        """What is wrong with a constant of `needed` bytes whose entry is at `offset` of a file."""
        name = file.removeprefix(_PREFIX)
        if name == file or name not in self._sizes:
            yield f"a constant lies in {ascii(file)[:60]}, none of the graph's own files"
            return
        size = self._sizes[name]
        if offset + _BLOB.size > size:
            yield f"a constant begins at byte {offset} of {name}, which has {size}"
            return
        with open_regular(self._folder / name) as weights:
            weights.seek(offset)
            sentinel, _, length, start = _BLOB.unpack(weights.read(_BLOB.size))
        if sentinel != _SENTINEL:
            yield f"there is no constant at byte {offset} of {name}"
        elif length != needed:
            yield f"a constant at byte {offset} of {name} takes {needed} bytes and has {length}"
        elif start + length > size:
            yield f"a constant ends at byte {start + length} of {name}, which has {size}"


def _program(program: Message, weights: _Weights) -> Iterator[str]:
    yield from _attributes(program, weights)
    for function in _entries(program, _FUNCTIONS):
        yield from _attributes(function, weights)
        for block in _entries(function, _BLOCKS):
            yield from _attributes(block, weights)
            for operation in _all(block, _OPERATIONS):
                yield from _operation(operation, weights)


def _attributes(message: Message, weights: _Weights) -> Iterator[str]:
    for value in _entries(message, _ATTRIBUTES):
        yield from _value(value, weights)


def _operation(operation: Message, weights: _Weights) -> Iterator[str]:
    kind = ""
    for number, value in fields(operation):
        if number == _TYPE:
            kind = as_text(value)
        elif number == _NESTED:
            yield "an operation holds a program"
        elif number == _VALUES:
            yield from _value(_entry(as_message(value)), weights)
        elif number == _INPUTS:
            for argument in _all(_entry(as_message(value)), _ARGUMENTS):
                for literal in _all(argument, _ARGUMENT_VALUE):
                    yield from _value(literal, weights)
    if kind not in OPERATIONS:
        yield f"it has an operation {ascii(kind)[:60]}"


def _entries(message: Message, field: int) -> Iterator[Message]:
    """The values of a map."""
    return (_entry(pair) for pair in _all(message, field))


def _entry(pair: Message) -> Message:
    value = only(pair, _MAP_VALUE)
    return b"" if value is None else as_message(value)


def _all(message: Message, field: int) -> Iterator[Message]:
    """The messages of a repeated field."""
    return (as_message(value) for number, value in fields(message) if number == field)


def _value(value: Message, weights: _Weights) -> Iterator[str]:
    """What is wrong with a value that lies in a file; one that stands in the program is whole."""
    immediate, place = only(value, _IMMEDIATE), only(value, _BLOB_FILE)
    for further in _held(as_message(immediate or b"")):
        yield from _value(further, weights)
    if place is not None:
        where = as_message(place)
        file, offset = only(where, _FILE), only(where, _OFFSET)
        kind = as_message(only(value, _VALUE_TYPE) or b"")
        yield from weights.faults(as_text(file or b""), as_number(offset or 0), _bytes(kind))


def _held(immediate: Message) -> Iterator[Message]:
    """The values that a tuple, a list or a dictionary holds."""
    for number, value in fields(immediate):
        for held in _all(as_message(value), _ITEMS) if number != _TENSOR else ():
            if number == _DICTIONARY:
                yield from (as_message(part) for _, part in fields(held))  # a key and a value
            else:
                yield held


def _bytes(kind: Message) -> int:
    """The bytes that a value of a tensor type takes; KeyError for a type that is not known."""
    tensor = as_message(only(kind, _TENSOR_TYPE) or b"")
    bits = _BITS[as_number(only(tensor, _DATA_TYPE) or 0)]
    axes = [_size(axis) for axis in _all(tensor, _DIMENSIONS)]
    if len(axes) > MOST_AXES or any(size > MOST_SIZE for size in axes):
        raise ValueError("a tensor is too large")
    return -(-math.prod(axes) * bits // 8)


def _size(axis: Message) -> int:
    """The size of an axis, which has to be a number."""
    constant = as_message(only(axis, _CONSTANT) or b"")
    return as_number(only(constant, _CONSTANT) or 0)
