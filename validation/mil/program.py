"""A saved .mlpackage as plain data: functions of typed operations, constants with their values.

Read from the protobuf and the weight file themselves, not through coremltools' own loader, which
would infer every type anew: what is checked is what is declared in the file.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtimes.bundle.coreml_trust import specification_file
from runtimes.engines.coreml import read_specification
from runtimes.errors import RunError

# MIL's DataType (MIL.proto) as torch's; strings are parameters only.
DTYPES = {
    1: torch.bool, 10: torch.float16, 11: torch.float32, 21: torch.int8, 23: torch.int32,
    25: torch.int8, 31: torch.uint8, 33: torch.uint32, 35: torch.uint8, 38: torch.uint8,
}  # fmt: skip
_BITS = {25: 4, 35: 4, 38: 6}  # int4, uint4 and uint6: packed in the file, a byte each in here
_STRING = 2
_FIELDS = {torch.bool: "bools", torch.float32: "floats", torch.int32: "ints"}
_NUMPY = {torch.bool: np.bool_, torch.float16: np.float16, torch.float32: np.float32,
          torch.int8: np.int8, torch.int32: np.int32, torch.uint8: np.uint8,
          torch.uint32: np.uint32}  # fmt: skip
_BLOB = struct.Struct("<IIQQ")  # sentinel, type, bytes, offset of the data
_SENTINEL = 0xDEADBEEF
_COMPRESSED = "constexpr_"  # operations that make a weight of fewer bits, once
Constant = torch.Tensor | str


@dataclass(frozen=True)
class Value:
    """A declared tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


@dataclass(frozen=True)
class Operation:
    """One operation: the names of what each parameter takes, and the declared outputs."""

    kind: str
    inputs: dict[str, tuple[str, ...]]
    outputs: tuple[Value, ...]

    @property
    def name(self) -> str:
        return self.outputs[0].name


@dataclass(frozen=True)
class Function:
    """One function of a program; operations in running order, constants apart."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]
    constants: dict[str, Constant]
    operations: tuple[Operation, ...]


def read_program(package: Path) -> dict[str, Function]:
    """The functions of a package by name; RunError when it is damaged or holds what we cannot."""
    spec = read_specification(package)
    blob = specification_file(package).parent / "weights" / "weight.bin"
    weights = np.memmap(blob, np.uint8, mode="c") if blob.is_file() else np.empty(0, np.uint8)
    try:
        return {
            name: _function(name, function, weights)
            for name, function in sorted(spec.mlProgram.functions.items())
        }
    except (ValueError, struct.error) as error:
        raise RunError(f"{package} is no package to interpret: {error}") from error


def _function(name: str, function: Any, weights: np.ndarray[Any, Any]) -> Function:
    block = function.block_specializations[function.opset]
    constants: dict[str, Constant] = {}
    operations = []
    for operation in block.operations:
        if operation.type == "const":
            stored = {operation.outputs[0].name: operation.attributes["val"]}
        else:
            stored = _stored(operation)
            operations.append(_operation(operation))
        constants |= {key: _constant(key, value, weights) for key, value in stored.items()}
    inputs = tuple(_value(value) for value in function.inputs)
    return Function(name, inputs, tuple(block.outputs), constants, tuple(operations))


def _stored(operation: Any) -> dict[str, Any]:
    """What a compressed weight is made of, by the names that `_operation` gives it.

    iOS 16's operations have it as attributes, those of iOS 18 as parameters without a name.
    """
    if not operation.type.startswith(_COMPRESSED):
        return {}
    values = {key: value for key, value in operation.attributes.items() if key != "name"}
    for key, argument in operation.inputs.items():
        if argument.arguments[0].WhichOneof("binding") == "value":
            values[key] = argument.arguments[0].value
    return {f"{operation.outputs[0].name}.{key}": value for key, value in values.items()}


def _operation(operation: Any) -> Operation:
    if operation.blocks:
        raise ValueError(f"{operation.type} has nested blocks")
    inputs: dict[str, tuple[str, ...]] = {
        name.rpartition(".")[2]: (name,) for name in _stored(operation)
    }
    for name, argument in operation.inputs.items():
        if name in inputs:
            continue
        if any(binding.WhichOneof("binding") != "name" for binding in argument.arguments):
            raise ValueError(f"{operation.type} has a parameter '{name}' that is no constant")
        inputs[name] = tuple(binding.name for binding in argument.arguments)
    return Operation(operation.type, inputs, tuple(_value(value) for value in operation.outputs))


def _value(value: Any) -> Value:
    dtype, shape = _tensor_type(value.name, value.type)
    return Value(value.name, dtype, shape)


def _tensor_type(name: str, declared: Any) -> tuple[torch.dtype, tuple[int, ...]]:
    tensor = declared.tensorType
    if declared.WhichOneof("type") != "tensorType" or tensor.dataType not in DTYPES:
        raise ValueError(f"'{name}' has a type that this interpreter does not know: {declared}")
    if any(size.WhichOneof("dimension") != "constant" for size in tensor.dimensions):
        raise ValueError(f"'{name}' has open dimensions; only static programs can be interpreted")
    return DTYPES[tensor.dataType], tuple(size.constant.size for size in tensor.dimensions)


def _constant(name: str, value: Any, weights: np.ndarray[Any, Any]) -> Constant:
    immediate, kind = value.immediateValue.tensor, value.type.tensorType.dataType
    raw: np.ndarray[Any, Any]
    if kind == _STRING:
        return str(immediate.strings.values[0])
    dtype, shape = _tensor_type(name, value.type)
    if value.WhichOneof("value") == "blobFileValue":
        raw = _blob(name, value.blobFileValue.offset, weights)
    elif immediate.WhichOneof("value") == "bytes":
        raw = np.frombuffer(bytearray(immediate.bytes.values), np.uint8)
    else:
        raw = np.array(getattr(immediate, _FIELDS[dtype]).values, _NUMPY[dtype])
    if kind in _BITS:
        raw = unpack(raw, _BITS[kind], math.prod(shape), signed=dtype == torch.int8)
    return torch.from_numpy(raw.view(_NUMPY[dtype]).reshape(shape))


def unpack(
    raw: np.ndarray[Any, Any], bits: int, count: int, *, signed: bool = False
) -> np.ndarray[Any, Any]:
    """`count` integers of `bits` bits each, the lowest bit first, as bytes."""
    single = np.unpackbits(raw, bitorder="little", count=bits * count).reshape(count, bits)
    values = single @ (1 << np.arange(bits, dtype=np.uint8))
    return (values ^ (1 << bits - 1)) - (1 << bits - 1) if signed else values


def _blob(name: str, offset: int, weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A constant's bytes in the weight file: its header at `offset` says where they are."""
    sentinel, _, size, start = _BLOB.unpack(weights[offset : offset + _BLOB.size].tobytes())
    if sentinel != _SENTINEL or start + size > len(weights):
        raise ValueError(f"the weight file is damaged at '{name}'")
    return weights[start : start + size]
