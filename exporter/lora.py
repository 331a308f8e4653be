"""LoRA adapters for the prior: read, matched to its weights, fused before every rewrite.

Files as diffusers and PEFT write them: `lora_A`/`lora_B`, `lora.down`/`lora.up` and diffusers'
older attention processors, with or without the prefixes `unet.`, `prior.` and `base_model.model.`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from exporter.lora_config import read_config
from exporter.shapes import Shapes
from exporter.weights import WeightSource
from runtimes.bundle import sha256
from runtimes.errors import UsageError
from runtimes.manifest import Adapter

_PREFIXES = ("base_model.model.", "unet.", "prior.")
_PART = re.compile(
    r"(?P<module>.+?)[._]lora(?:_linear_layer)?[._](?P<part>A|B|down|up)(?:\.\w+)?\.weight"
)
_ALPHA = re.compile(r"(?P<module>.+?)(?:[._]lora)?\.alpha")
_ROLES = {"A": "down", "B": "up", "down": "down", "up": "up"}
_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class LoraFile:
    """An adapter as asked for: a safetensors file, or the folder that holds it, and its weight."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Layer:
    """What an adapter adds to one weight: factor * up @ down, its tensors named as in the file."""

    down: str
    up: str
    factor: float


@dataclass(frozen=True)
class Lora:
    """An adapter whose every tensor belongs to a weight; `layers` by the weight's name."""

    file: Path
    layers: dict[str, Layer]
    adapter: Adapter

    def delta(self, name: str) -> Tensor | None:
        """What is added to a weight, (c_out, the rest flattened) in fp64; None for nothing."""
        layer = self.layers.get(name)
        if layer is None:
            return None
        with _open(self.file) as handle:
            down, up = (
                handle.get_tensor(key).double().flatten(1) for key in (layer.down, layer.up)
            )
        found: Tensor = layer.factor * (up @ down)
        return found


class Fused:
    """Weights with adapters added, in fp64 and rounded once."""

    def __init__(self, weights: WeightSource, loras: Sequence[Lora]) -> None:
        self._weights, self._loras = weights, loras

    def __getitem__(self, name: str) -> Tensor:
        weight = self._weights[name]
        deltas = [delta for lora in self._loras if (delta := lora.delta(name)) is not None]
        if not deltas:
            return weight
        found = weight.double()
        for delta in deltas:
            found += delta.view(weight.shape)
        return found.float()


def parse_lora(text: str) -> LoraFile:
    """PATH or PATH:SCALE. UsageError for a path that is not there or a scale that is no number."""
    head, colon, tail = text.rpartition(":")
    if Path(text).exists() or not (colon and Path(head).exists()):
        return LoraFile(_safetensors(Path(text), text))
    try:
        scale = float(tail)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise UsageError(f"--lora {text}: the scale '{tail}' is no number such as 0.8")
    return LoraFile(_safetensors(Path(head), text), scale)


def open_lora(given: LoraFile, shapes: Shapes) -> Lora:
    """Match an adapter's tensors to the prior's weights; nothing of it is left out.

    Raises UsageError naming the tensor that fits no weight, by name, rank or shape.
    """
    file = given.path
    with _open(file) as handle:
        keys, config = list(handle.keys()), read_config(file, handle.metadata() or {}, _PREFIXES)
        parts, alphas = _parts(file, keys, shapes)
        layers, ranks = {}, set()
        for module, found in parts.items():
            _check_shapes(file, handle, module, found, shapes[f"{module}.weight"])
            rank = handle.get_slice(found["down"]).get_shape()[0]
            alpha = _scalar(file, handle, alphas[module]) if module in alphas else None
            factor = given.scale * config.factor(file, module, rank, alpha)
            layers[f"{module}.weight"] = Layer(found["down"], found["up"], factor)
            ranks.add(rank)
        if len(ranks) > 1 and not alphas and config.lora_alpha is None:
            raise UsageError(
                f"--lora {file} has ranks {', '.join(map(str, sorted(ranks)))} and no alpha: how "
                "strong each is cannot be known; save it with its configuration"
            )
    name = file.resolve().parent.name if file.name in _FILES else file.name
    return Lora(file, layers, Adapter(name, sha256(file), given.scale))


def _parts(
    file: Path, keys: list[str], shapes: Shapes
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Each module's tensors by role ('down', 'up'), and the modules' alphas."""
    parts: dict[str, dict[str, str]] = {}
    strangers = []
    for key in keys:
        module, role = _parse(key)
        if f"{module}.weight" not in shapes:
            strangers.append(key)
        else:
            own = parts.setdefault(module, {})
            if role in own:
                raise UsageError(f"--lora {file}: '{own[role]}' and '{key}' are for one weight")
            own[role] = key
    alphas = {module: own.pop("alpha") for module, own in parts.items() if "alpha" in own}
    if not parts:
        raise UsageError(f"--lora {file} has nothing for the prior; it has {', '.join(keys[:2])}")
    if strangers:
        raise UsageError(f"--lora {file}: '{strangers[0]}' fits no weight of the prior")
    for module in [module for module in alphas if not parts[module]]:
        raise UsageError(f"--lora {file}: '{alphas[module]}' is for a weight it does not adapt")
    for module, found in parts.items():
        for role in {"down", "up"} - found.keys():
            raise UsageError(f"--lora {file}: '{module}' has no {role} projection")
    return parts, alphas


def _parse(key: str) -> tuple[str, str]:
    """A key's module by its name in the prior, and its role; ('', '') for another kind of key."""
    name = key.replace(".processor.", ".")
    while prefix := next((p for p in _PREFIXES if name.startswith(p)), ""):
        name = name.removeprefix(prefix)
    match = _PART.fullmatch(name) or _ALPHA.fullmatch(name)
    if match is None:
        return "", ""
    module = match["module"]
    module += ".0" if module.endswith(".to_out") else ""  # attention processors leave it out
    return module, _ROLES[match["part"]] if match.re is _PART else "alpha"


def _check_shapes(
    file: Path, handle: Any, module: str, found: dict[str, str], shape: tuple[int, ...]
) -> None:
    slices = {role: handle.get_slice(key) for role, key in found.items()}
    (down, up) = (tuple(slices[role].get_shape()) for role in ("down", "up"))
    for role, piece in slices.items():
        if piece.get_dtype() not in _FLOATS or len(piece.get_shape()) < 2:
            raise UsageError(f"--lora {file}: '{found[role]}' is no matrix of floating point")
    if down[0] != math.prod(up[1:]) or down[0] < 1:
        raise UsageError(f"--lora {file}: '{module}' has ranks {down[0]} and {math.prod(up[1:])}")
    if (up[0], math.prod(down[1:])) != (shape[0], math.prod(shape[1:])):
        raise UsageError(
            f"--lora {file}: '{module}' is for a weight of {up[0]} x {math.prod(down[1:])}, "
            f"the prior's has shape {shape}"
        )


def _scalar(file: Path, handle: Any, key: str) -> float:
    found = handle.get_tensor(key)
    if found.numel() != 1 or not math.isfinite(found.item()):
        raise UsageError(f"--lora {file}: '{key}' is no single number")
    return float(found.item())


def _safetensors(path: Path, given: str) -> Path:
    """The one safetensors file that a path stands for."""
    if not path.exists():
        raise UsageError(f"--lora {given}: no such file or folder")
    if path.is_dir():
        names = [name for name in _FILES if (path / name).is_file()]
        if len(names) == 1:
            return path / names[0]
        if names:
            raise UsageError(f"--lora {path} holds {' and '.join(names)}; give one of the files")
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
        if not pickles:
            raise UsageError(f"--lora {path} holds none of {', '.join(_FILES)}; give the file")
        path = path / pickles[0]
    if path.suffix in _PICKLES:
        raise UsageError(
            f"--lora {path} is a pickle, which runs code when it is read; save the adapter with "
            "safe_serialization=True"
        )
    return path


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"--lora {path} is truncated or no safetensors file ({error})") from None
