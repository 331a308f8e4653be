"""A saved .mlpackage as plain data: functions of typed operations, constants with their values.

Read from the protobuf and the weight file themselves, not through coremltools' own loader, which
would infer every type anew: what is checked is what is declared in the file.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtimes.coreml_engine import read_specification, specification_file
from runtimes.errors import RunError

# MIL's DataType (MIL.proto) as torch's; strings are parameters only.
DTYPES = {1: torch.bool, 10: torch.float16, 11: torch.float32, 23: torch.int32}
_STRING = 2
_FIELDS = {torch.bool: "bools", torch.float32: "floats", torch.int32: "ints"}
_NUMPY = {torch.bool: np.bool_, torch.float16: np.float16, torch.float32: np.float32,
          torch.int32: np.int32}  # fmt: skip
_BLOB = struct.Struct("<IIQQ")  # sentinel, type, bytes, offset of the data
_SENTINEL = 0xDEADBEEF
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
            constants[operation.outputs[0].name] = _constant(operation, weights)
        else:
            operations.append(_operation(operation))
    inputs = tuple(_value(value) for value in function.inputs)
    return Function(name, inputs, tuple(block.outputs), constants, tuple(operations))


def _operation(operation: Any) -> Operation:
    if operation.blocks:
        raise ValueError(f"{operation.type} has nested blocks")
    inputs = {}
    for name, argument in operation.inputs.items():
        if any(binding.WhichOneof("binding") != "name" for binding in argument.arguments):
            raise ValueError(f"{operation.type} has a parameter '{name}' that is no constant")
        inputs[name] = tuple(binding.name for binding in argument.arguments)
    return Operation(operation.type, inputs, tuple(_value(value) for value in operation.outputs))


def _value(value: Any) -> Value:
    dtype, shape = _tensor_type(value.name, value.type)
    return Value(value.name, dtype, shape)


def _tensor_type(name: str, found: Any) -> tuple[torch.dtype, tuple[int, ...]]:
    tensor = found.tensorType
    if found.WhichOneof("type") != "tensorType" or tensor.dataType not in DTYPES:
        raise ValueError(f"'{name}' has a type that this interpreter does not know: {found}")
    if any(size.WhichOneof("dimension") != "constant" for size in tensor.dimensions):
        raise ValueError(f"'{name}' has open dimensions; only static programs can be interpreted")
    return DTYPES[tensor.dataType], tuple(size.constant.size for size in tensor.dimensions)


def _constant(operation: Any, weights: np.ndarray[Any, Any]) -> Constant:
    name, value = operation.outputs[0].name, operation.attributes["val"]
    immediate = value.immediateValue.tensor
    if value.type.tensorType.dataType == _STRING:
        return str(immediate.strings.values[0])
    dtype, shape = _tensor_type(name, value.type)
    if value.WhichOneof("value") == "blobFileValue":
        flat = _blob(name, value.blobFileValue.offset, _NUMPY[dtype], weights)
    elif dtype == torch.float16:
        flat = np.frombuffer(bytearray(immediate.bytes.values), np.float16)
    else:
        flat = np.array(getattr(immediate, _FIELDS[dtype]).values, _NUMPY[dtype])
    return torch.from_numpy(flat.reshape(shape))


def _blob(
    name: str, offset: int, dtype: type[np.generic], weights: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """A constant in the weight file: its header at `offset` says where its bytes are."""
    sentinel, _, size, start = _BLOB.unpack(weights[offset : offset + _BLOB.size].tobytes())
    if sentinel != _SENTINEL or start + size > len(weights):
        raise ValueError(f"the weight file is damaged at '{name}'")
    return weights[start : start + size].view(dtype)
