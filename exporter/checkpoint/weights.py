"""A component's weights: checked against the expected table, then read tensor by tensor."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from exporter.checkpoint.reading import refuse_pointer
from exporter.checkpoint.shapes import TEXT_PREFIX, Shapes
from exporter.checkpoint.tensors import FLOATS, open_safetensors, read_finite
from exporter.modules.layout import Pointwise
from runtimes.errors import RunError, UsageError

# What makes one weight of an export-form module, when it is called.
Recipe = Callable[[], Tensor]
Recipes = dict[str, Recipe]

SMALL = 1 << 16  # values of a tensor that is copied rather than mapped


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
    it, before anything is read; names that match a pattern of `unused` may be there. Each read
    maps its file anew, so that a tensor's pages leave memory with the tensor.
    """

    def __init__(self, files: tuple[Path, ...], expected: Shapes, unused: Collection[str]) -> None:
        self._prefix = left_out_prefix(files, expected)
        expected = {name.removeprefix(self._prefix): shape for name, shape in expected.items()}
        self._files: dict[str, Path] = {}
        for path in files:
            with _open(path) as handle:
                names = set(handle.keys())
                _check_once(path, names & self._files.keys(), self._files)
                self._files |= dict.fromkeys(names, path)
                for name in names & expected.keys():
                    _check(path, handle.get_slice(name), name, expected[name])
        for name in expected:
            if name not in self._files:
                raise UsageError(
                    f"{files[0].parent}: weight '{name}' is missing from the safetensors files"
                )
        for name in sorted(self._files.keys() - expected.keys()):
            if not any(fnmatchcase(name, pattern) for pattern in unused):
                raise UsageError(f"{self._files[name]}: unexpected weight '{name}' for its config")

    def __getitem__(self, name: str) -> Tensor:
        name = name.removeprefix(self._prefix)
        tensor = read_finite(self._files[name], name)
        # Each tensor keeps its whole file mapped: too much address space for the many small ones.
        return tensor.float() if tensor.numel() > SMALL else tensor.clone().float()

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
        """Read no more; tensors that were read stay mapped."""
        self._files.clear()


@dataclass(frozen=True)
class Deferred:
    """An export-form module on the meta device, and what makes each weight of its state dict.

    Weights can so be taken one at a time, in the module's dtypes: `module.half()` costs nothing.
    """

    module: nn.Module
    recipes: Recipes

    def value(self, name: str) -> Tensor:
        """One weight as the module keeps it; RunError where fp16 would make it infinite."""
        owner, kept = name.rpartition(".")[0], self.module.get_parameter(name)
        weight = self.recipes[name]()
        layer = self.module.get_submodule(owner)
        if isinstance(layer, Pointwise) and weight.ndim == 2:
            weight = layer.kernel(weight)
        if weight.shape != kept.shape:
            raise ValueError(
                f"{name} is made with shape {weight.shape}, its module has {kept.shape}"
            )
        narrow = weight.to(kept.dtype)
        if narrow.dtype == torch.float16 and not narrow.isfinite().all():
            raise RunError(
                f"weight '{name}' passes fp16's range: give --precision fp32, and let "
                "'python -m quantization --precision fp16' find what stays fp32"
            )
        return narrow

    def load(self) -> nn.Module:
        """The module with all of its weights."""
        fill(self.module, {name: self.value(name) for name in self.module.state_dict()})
        return self.module


def weight_names(path: Path) -> list[str]:
    """The names of a safetensors file's tensors."""
    with _open(path) as handle:
        return list(handle.keys())


def left_out_prefix(files: tuple[Path, ...], expected: Shapes) -> str:
    """What all names in the files lack: transformers 5 saves text encoders without a prefix."""
    names = []
    for path in files:
        with _open(path) as handle:
            names += handle.keys()
    prefixed = any(name.startswith(TEXT_PREFIX) for name in expected)
    bare = not any(name.startswith(TEXT_PREFIX) for name in names)
    return TEXT_PREFIX if prefixed and bare else ""


def _check_once(path: Path, again: set[str], files: Mapping[str, Path]) -> None:
    """UsageError for a weight that two files have: which of them holds is the loader's choice."""
    if again:
        name = min(again)
        raise UsageError(f"{path}: weight '{name}' is in {files[name].name}, too; remove one")


def _check(path: Path, piece: Any, name: str, shape: tuple[int, ...]) -> None:
    if tuple(piece.get_shape()) != shape:
        raise UsageError(
            f"{path}: weight '{name}' has shape {tuple(piece.get_shape())}, "
            f"the config makes it {shape}"
        )
    if piece.get_dtype() not in FLOATS and shape != ():
        raise UsageError(f"{path}: weight '{name}' is {piece.get_dtype()}, not floating point")


def _open(path: Path) -> Any:
    try:
        return open_safetensors(path, advice="; fetch it again")
    except UsageError:
        refuse_pointer(path)  # says more
        raise


def fill(module: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load `tensors` into `module` in place, every one and no other."""
    module.load_state_dict(tensors, strict=True, assign=True)
    module.requires_grad_(False).eval()
