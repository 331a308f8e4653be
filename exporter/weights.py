"""A component's weights: checked against the expected table, then read tensor by tensor."""

from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from exporter.shapes import Shapes
from runtimes.errors import UsageError

_FLOATS = {"F64", "F32", "F16", "BF16"}


class WeightSource(Protocol):
    """Weights by their name in the checkpoint."""

    def __getitem__(self, name: str) -> Tensor: ...


class MetaWeights:
    """Weights with shapes and no values."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes

    def __getitem__(self, name: str) -> Tensor:
        return torch.empty(self._shapes[name], device="meta")


class Weights:
    """Memory-mapped safetensors files, read one tensor at a time as fp32.

    Opening checks every name and shape: a missing or unexpected weight is a UsageError naming
    it, before anything is read.
    """

    def __init__(self, files: tuple[Path, ...], expected: Shapes, optional: set[str]) -> None:
        self._files: dict[str, Any] = {}
        self._handles = [_open(path) for path in files]
        for path, handle in zip(files, self._handles, strict=True):
            self._files |= dict.fromkeys(handle.keys(), (path, handle))
        where = files[0].parent
        for name, shape in expected.items():
            self._check(name, shape, where)
        for name in self._files.keys() - expected.keys() - optional:
            raise UsageError(f"{self._files[name][0]}: unexpected weight '{name}' for its config")

    def _check(self, name: str, shape: tuple[int, ...], where: Path) -> None:
        if name not in self._files:
            raise UsageError(f"{where}: weight '{name}' is missing from the safetensors files")
        path, handle = self._files[name]
        found = handle.get_slice(name)
        if tuple(found.get_shape()) != shape:
            raise UsageError(
                f"{path}: weight '{name}' has shape {tuple(found.get_shape())}, "
                f"the config makes it {shape}"
            )
        if found.get_dtype() not in _FLOATS and shape != ():
            raise UsageError(f"{path}: weight '{name}' is {found.get_dtype()}, not floating point")

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name][1].get_tensor(name)
        return tensor.float()

    def __enter__(self) -> "Weights":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the files."""
        self._files.clear()
        for handle in self._handles:
            handle.__exit__(None, None, None)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt").__enter__()
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{path} is truncated or no safetensors file ({error}); fetch it again"
        ) from None


def fill(module: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load `tensors` into `module` in place, every one and no other."""
    module.load_state_dict(tensors, strict=True, assign=True)
    module.requires_grad_(False).eval()
