"""How tensors of safetensors files are read, whoever wrote them; a header is checked first."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from runtimes.bundle.safetensors_header import read_header
from runtimes.errors import RunError, UsageError, one_line

FLOATS = {"F64", "F32", "F16", "BF16"}  # safetensors' names of floating-point types


def open_safetensors(path: Path, flag: str = "", advice: str = "") -> Any:
    """A safetensors file's handle, its header checked; UsageError when it cannot be read.

    The error begins with the `flag` that named the file, and ends with `advice`.
    """
    try:
        read_header(path)
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        named, reason = f"{flag} {path}" if flag else str(path), one_line(error)
        raise UsageError(
            f"{named} is truncated or no safetensors file ({reason}){advice}"
        ) from None


def read_tensor(path: Path, name: str) -> Tensor:
    """A tensor of a file that `open_safetensors` opened before, its pages mapped."""
    try:
        with safe_open(path, framework="pt") as handle:
            tensor: Tensor = handle.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} has changed ({one_line(error)}); export again") from None
    return tensor


def read_finite(path: Path, name: str) -> Tensor:
    """The same; RunError where a value is NaN or infinite."""
    tensor = read_tensor(path, name)
    if not is_finite(tensor):
        raise RunError(f"{path}: '{name}' holds values that are not finite; fetch it again")
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite, without a mask as large as the tensor."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(bool(torch.isfinite(bound)) for bound in tensor.aminmax())  # NaN where any is
