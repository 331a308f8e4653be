"""The header of a safetensors file as a stranger wrote it: which tensors it has, and where.

Eight bytes say how long the header is; it is JSON, and gives each tensor its type, its shape and
its place in the rest of the file. All of that has to agree, so that whoever reads on finds every
tensor whole, in bytes of its own.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from runtimes.bundle.ranges import Items, OneOf, Range
from runtimes.bundle.typed_json import decode
from runtimes.bundle.untrusted import open_regular, parse_json
from runtimes.bundle.values import Name
from runtimes.errors import RunError

# The public prior's header has 0.1 MB; training tools add notes, of which some have a megabyte.
_MOST_BYTES, _MOST_VALUES = 8_000_000, 400_000
_LENGTH = 8  # bytes that say how long the header is
_METADATA = "__metadata__"
# Bits of a value of each type.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16,
    "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "C64": 64, "U64": 64, "I64": 64,
    "F64": 64, "F4": 4,
}  # fmt: skip
_Place = Annotated[int, Range(0, 1 << 60)]
_Size = Annotated[int, Range(0, 1 << 40)]
# What pickles begin with: zip archives, which PyTorch writes, and the plain ones before them.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Stored:
    """A tensor's type by safetensors' name for it, its shape, and from where to where it lies.

    The offsets are bytes behind the header.
    """

    dtype: Annotated[str, OneOf(tuple(_BITS))]
    shape: Annotated[tuple[_Size, ...], Items(0, 8)]
    data_offsets: tuple[_Place, _Place]


@dataclass(frozen=True)
class Header:
    """A file's tensors by name, its notes, and at which byte the tensors begin."""

    tensors: dict[str, Stored]
    metadata: dict[str, str]
    start: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file whose tensors fill the rest of it, without gap or overlap.

    Raises OSError where there is no file, and ValueError saying what is wrong with it.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_LENGTH)
        length = int.from_bytes(head, "little")
        if len(head) < _LENGTH or length > size - _LENGTH:
            raise ValueError(_not_even_a_header(head))
        if length > _MOST_BYTES:
            raise ValueError(f"its header has {length / 1e6:.1f} MB, more than 8 MB")
        value = parse_json(file.read(length), _MOST_VALUES)
    header = _decoded(value, _LENGTH + length)
    _check_places(header.tensors, size - header.start)
    return header


def _not_even_a_header(head: bytes) -> str:
    if head.startswith(_PICKLES):
        return "it is a pickle by another name, which runs code when it is read"
    return "it ends before its header does"


def _decoded(value: Any, start: int) -> Header:
    if not isinstance(value, dict):
        raise ValueError("its header holds no JSON object")
    try:
        metadata = decode(dict[str, str], value.pop(_METADATA, {}), _METADATA)
        return Header(decode(dict[Name, Stored], value, "header"), metadata, start)
    except RunError as error:
        raise ValueError(str(error)) from None


def _check_places(tensors: Mapping[str, Stored], size: int) -> None:
    """ValueError where the tensors are not one behind the other, from first byte to last."""
    end = 0
    for name, stored in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        first, last = stored.data_offsets
        needed, rest = divmod(math.prod(stored.shape) * _BITS[stored.dtype], 8)
        if rest or last - first != needed:
            raise ValueError(
                f"'{name}' of type {stored.dtype} and shape {list(stored.shape)} has bytes "
                f"{first} to {last}"
            )
        if first != end:
            raise ValueError(f"'{name}' begins at byte {first}, the one before it ends at {end}")
        end = last
    if end != size:
        raise ValueError(f"its tensors take {end} bytes, it has {size}")
