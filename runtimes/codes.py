"""Codes: a picture as Stage B reads it, in a file. The paper's compression, 42 to 1 a side.

A safetensors file of `image_embedding` (C,h,w), 16 values a cell of Stage C: what the compressor
gives and Stage B reads, so that no constant of the prior is between the file and the picture, and
every channel is near mean 0 and variance 1, which suits int8. In fp16, or in int8 with a `scale`
(C,) a channel: image_embedding = values * scale.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle import values as v
from runtimes.bundle.atomic_file import atomic_file
from runtimes.bundle.manifest import Manifest, Model, Sampling
from runtimes.bundle.ranges import OneOf, shown
from runtimes.bundle.safetensors_header import Stored, read_header
from runtimes.bundle.typed_json import decode
from runtimes.bundle.untrusted import read_regular
from runtimes.errors import RunError, UsageError, reason_of
from runtimes.pictures import FITS
from runtimes.sizes import pixels_for, sizes

FORMAT, FORMAT_VERSION = "wuerstchen-code", "1"
SUFFIX = ".safetensors"
PRECISIONS = ("fp16", "int8")
_EMBEDDING, _SCALE = "image_embedding", "scale"
# The tensors of a code, and their types.
_LAYOUTS = {"fp16": {_EMBEDDING: "F16"}, "int8": {_EMBEDDING: "I8", _SCALE: "F32"}}
_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "F32": np.dtype("<f4"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LARGEST = 127  # of int8: symmetric, -128 is not used
# A picture of 65,535 pixels a side, more than anybody makes, has 75 MB of fp16.
_MOST_BYTES = 100_000_000
_MOST_CELLS = 65_535
_DIGITS = 9  # of a size in pixels, at most: more are out of its range, too


@dataclass(frozen=True)
class About:
    """What a code says of itself.

    `model` is the bundle's, as id@revision; `height` and `width` are the picture's in pixels that
    was encoded and that a decoder makes, `fit` how the file was brought to that size,
    `source_sha256` that file's.
    """

    model: v.Words
    height: v.Side
    width: v.Side
    fit: Annotated[str, OneOf(FITS)]
    source_sha256: v.Sha256


@dataclass(frozen=True)
class Code:
    """A picture's code as it is stored: `values` (C,h,w) in fp16, or int8 with `scale` (C,)."""

    values: NDArray[np.generic]
    scale: NDArray[np.float32] | None
    about: About

    @property
    def precision(self) -> Literal["fp16", "int8"]:
        """One of PRECISIONS."""
        return "fp16" if self.scale is None else "int8"

    @property
    def cells(self) -> tuple[int, int]:
        """Height and width in cells of Stage C."""
        return self.values.shape[1], self.values.shape[2]

    @property
    def image_embedding(self) -> NDArray[np.float32]:
        """(1,C,h,w), what Stage B is given."""
        values = self.values.astype(np.float32)
        if self.scale is not None:
            values = values * self.scale[:, None, None]
        return values[None]

    @property
    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """What the file holds, by name."""
        values = {_EMBEDDING: self.values}
        return values if self.scale is None else {**values, _SCALE: self.scale}

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(values.nbytes for values in self.tensors.values())

    @property
    def area_factor(self) -> float:
        """Pixels of the picture to a cell."""
        return self.about.height * self.about.width / (self.cells[0] * self.cells[1])

    def bits_per_pixel(self, size: int) -> float:
        """Bits that `size` bytes are of each pixel of the picture."""
        return 8 * size / (self.about.height * self.about.width)


def model_of(model: Model) -> str:
    """A bundle's model as codes and pictures name it."""
    return f"{model.id}@{model.revision}"


def make_code(embedding: NDArray[np.float32], precision: str, about: About) -> Code:
    """The code of an `image_embedding` (C,h,w); `precision` is one of PRECISIONS."""
    if precision == "fp16":
        with np.errstate(over="ignore"):  # said in words
            values = embedding.astype(np.float16)
        if not np.isfinite(values).all():
            raise RunError("the image embedding has values that fp16 does not hold; give int8")
        return Code(values, None, about)
    largest = np.abs(embedding).max(axis=(1, 2))
    scale = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    return Code(np.rint(embedding / scale[:, None, None]).astype(np.int8), scale, about)


def write_code(code: Code, path: Path) -> None:
    """Write a code as a safetensors file, all or nothing; RunError where that fails."""
    about = {name: str(value) for name, value in asdict(code.about).items()}
    header: dict[str, Any] = {
        "__metadata__": {"format": FORMAT, "format_version": FORMAT_VERSION, **about}
    }
    end = 0
    for name, values in code.tensors.items():
        start, end = end, end + values.nbytes
        kind = _NAMES[values.dtype.newbyteorder("<")]
        header[name] = {"dtype": kind, "shape": values.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in code.tensors.values():
            file.write(values.astype(values.dtype.newbyteorder("<")).tobytes())


def read_code(path: Path) -> Code:
    """The code in a file, as a stranger may have written it; UsageError where it is none."""
    try:
        return _read(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}") from None
    except (ValueError, RunError) as error:
        raise UsageError(
            f"{path} is no code of a picture: {error}; make one with 'python -m runtimes encode'"
        ) from None


def is_code(path: Path) -> bool:
    """Whether a file says that it is a code, of any version: what may be replaced by a new one."""
    try:
        return read_header(path).metadata.get("format") == FORMAT
    except (OSError, ValueError):
        return False


def check_code(code: Code, manifest: Manifest, path: Path) -> None:
    """UsageError unless the code is one of the bundle's model, of the size that it says."""
    about, sampling, wanted = code.about, manifest.sampling, model_of(manifest.model)
    if about.model != wanted:
        raise UsageError(
            f"{path} is a code of {shown(about.model)} and this bundle is of {wanted}, to which it "
            "means nothing; take a bundle of that model"
        )
    channels = len(code.values)
    if channels != sampling.stage_c.channels:
        raise UsageError(
            f"{path} has {channels} channels, this model {sampling.stage_c.channels}; encode again"
        )
    height, width = _picture_of(code.cells, sampling)
    if (height, width) != (about.height, about.width):
        raise UsageError(
            f"{path} says that it is of a picture of {about.height} x {about.width} pixels, and "
            f"its cells make {height} x {width}; encode again"
        )


def _picture_of(cells: tuple[int, int], sampling: Sampling) -> tuple[int, int]:
    height, width = (pixels_for(side, sampling) for side in cells)
    return sizes(height, width, sampling).picture


def _read(path: Path) -> Code:
    """ValueError or RunError saying what is wrong, OSError where there is no file."""
    data = read_regular(path, _MOST_BYTES)
    header = read_header(path)
    about = _about(header.metadata)
    _check_layout(header.tensors)
    values = {
        name: _values(stored, data[header.start :]) for name, stored in header.tensors.items()
    }
    code = Code(values[_EMBEDDING], values.get(_SCALE), about)
    with np.errstate(all="ignore"):  # said in words
        finite = np.isfinite(code.image_embedding).all()
    if not finite:
        raise ValueError("it has values that are NaN or infinite")
    return code


def _about(metadata: Mapping[str, str]) -> About:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {shown(metadata.get('format', ''))}, not '{FORMAT}'")
    if metadata.get("format_version") != FORMAT_VERSION:
        version = shown(metadata.get("format_version", ""))
        raise ValueError(f"its version is {version}, this program reads '{FORMAT_VERSION}'")
    said: dict[str, Any] = {
        name: text for name, text in metadata.items() if name not in ("format", "format_version")
    }
    for name in ("height", "width"):
        if said.get(name, "").isdecimal():  # anything else is refused by its type
            said[name] = int(said[name][:_DIGITS])
    return decode(About, said, "metadata")


def _check_layout(tensors: Mapping[str, Stored]) -> None:
    """ValueError for other tensors than a code has, or of other types and shapes."""
    found = {name: stored.dtype for name, stored in tensors.items()}
    if found not in _LAYOUTS.values():
        listed = shown(", ".join(f"{name} {dtype}" for name, dtype in found.items()))
        raise ValueError(f"it holds {listed}, not image_embedding F16, or I8 and scale F32")
    shape = tensors[_EMBEDDING].shape
    if len(shape) != 3 or not all(1 <= size <= _MOST_CELLS for size in shape):
        raise ValueError(f"image_embedding has shape {list(shape)}, not channels, height, width")
    if _SCALE in tensors and tensors[_SCALE].shape != shape[:1]:
        raise ValueError(f"scale has shape {list(tensors[_SCALE].shape)}, not {list(shape[:1])}")


def _values(stored: Stored, body: bytes) -> NDArray[Any]:
    start, end = stored.data_offsets
    return np.frombuffer(body[start:end], _DTYPES[stored.dtype]).reshape(stored.shape)
