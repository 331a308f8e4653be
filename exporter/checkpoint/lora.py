"""LoRA adapters for the prior and its text encoder: read, matched, fused before every rewrite.

Files as diffusers, PEFT, kohya's sd-scripts and OneTrainer write them: see `lora_names`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from exporter.checkpoint.lora_config import Scaling, read_config
from exporter.checkpoint.lora_file import FILES, LoraFile
from exporter.checkpoint.lora_names import CALLED, Target, other_method, spellings, split_name
from exporter.checkpoint.ranges import Rank, Strength, checked
from exporter.checkpoint.shapes import Shapes
from exporter.checkpoint.tensors import FLOATS, is_finite, open_safetensors, read_finite
from exporter.checkpoint.weights import WeightSource
from runtimes.bundle.manifest import Adapter
from runtimes.bundle.read import sha256
from runtimes.errors import UsageError

Roles = dict[str, str]  # a weight's tensors in the file by role: 'down', 'up' and perhaps 'alpha'


@dataclass(frozen=True)
class Layer:
    """What an adapter adds to one weight: factor * up @ down, its tensors named as in the file."""

    down: str
    up: str
    factor: float


@dataclass(frozen=True)
class LoraPart:
    """What an adapter adds to one component; `layers` by the weight's name."""

    file: Path
    layers: dict[str, Layer]

    def delta(self, name: str) -> Tensor | None:
        """What is added to a weight, (c_out, the rest flattened) in fp64; None for nothing."""
        layer = self.layers.get(name)
        if layer is None:
            return None
        down, up = (
            read_finite(self.file, key).double().flatten(1) for key in (layer.down, layer.up)
        )
        product: Tensor = layer.factor * (up @ down)
        return product


@dataclass(frozen=True)
class Lora:
    """An adapter whose every tensor belongs to a weight; `parts` by `lora_names`' PRIOR, TEXT."""

    parts: dict[str, LoraPart]
    adapter: Adapter


class Fused:
    """Weights with adapters added.

    In fp64 and rounded once, or the adapters' order would show in fp32.
    """

    def __init__(self, weights: WeightSource, loras: Sequence[LoraPart]) -> None:
        self._weights, self._loras = weights, loras

    def __getitem__(self, name: str) -> Tensor:
        weight = self._weights[name]
        deltas = [delta for lora in self._loras if (delta := lora.delta(name)) is not None]
        if not deltas:
            return weight
        fused = weight.double()
        for delta in deltas:
            fused += delta.view(weight.shape)
        return fused.float()


def open_lora(lora_file: LoraFile, shapes: Mapping[str, Shapes]) -> Lora:
    """Match an adapter's tensors to the weights of each part; nothing of it is left out.

    Raises UsageError naming the tensor that fits no weight, by name, rank or shape, or that
    belongs to another method than plain LoRA.
    """
    file = lora_file.path
    with open_safetensors(file, "--lora") as handle:
        tensors = _match(file, list(handle.keys()), spellings(shapes))
        parts = {}
        for part in shapes:
            modules = {
                target.module: roles for target, roles in tensors.items() if target.part == part
            }
            if modules:
                scaling = read_config(file, handle.metadata() or {}, part)
                layers = _layers(file, handle, part, modules, shapes[part], scaling)
                parts[part] = LoraPart(file, _scaled(layers, lora_file.scale))
    name = file.resolve().parent.name if file.name in FILES else file.name
    return Lora(parts, Adapter(name, sha256(file), lora_file.scale))


def _match(
    file: Path, keys: Iterable[str], table: Mapping[str, set[Target]]
) -> dict[Target, Roles]:
    """Each adapted weight's tensors, every name looked up in `table`."""
    tensors: dict[Target, Roles] = {}
    strangers = []
    for key in keys:
        if method := other_method(key):
            raise UsageError(
                f"--lora {file}: '{key}' belongs to {method}, which cannot be fused; plain LoRA can"
            )
        spelling, role = split_name(key)
        targets = table.get(spelling, set())
        if len(targets) > 1:
            names = " or ".join(sorted(target.module for target in targets))
            raise UsageError(f"--lora {file}: '{key}' may be for {names}; rename it with dots")
        if not targets:
            strangers.append(key)
            continue
        roles = tensors.setdefault(next(iter(targets)), {})
        if role in roles:
            raise UsageError(f"--lora {file}: '{roles[role]}' and '{key}' are for one weight")
        roles[role] = key
    if not tensors:
        raise UsageError(
            f"--lora {file} has nothing for the prior or its text encoder; it has "
            f"{', '.join(strangers[:2]) or 'no tensors'}"
        )
    if strangers:
        raise UsageError(
            f"--lora {file}: '{strangers[0]}' fits no weight of the prior or its text encoder"
        )
    _check_pairs(file, tensors)
    return tensors


def _check_pairs(file: Path, tensors: Mapping[Target, Roles]) -> None:
    for target, roles in tensors.items():
        if roles.keys() == {"alpha"}:
            raise UsageError(f"--lora {file}: '{roles['alpha']}' is for a weight it does not adapt")
        for role in {"down", "up"} - roles.keys():
            raise UsageError(f"--lora {file}: '{target.module}' has no {role} projection")


def _layers(
    file: Path,
    handle: Any,
    part: str,
    modules: Mapping[str, Roles],
    shapes: Shapes,
    scaling: Scaling,
) -> dict[str, Layer]:
    """Each adapted weight's tensors and alpha / rank, before the adapter's own weight."""
    layers, ranks, without_alpha = {}, set(), []
    for module, roles in modules.items():
        name = f"{module}.weight"
        _check_shapes(file, handle, CALLED[part], module, roles, shapes[name])
        rank = handle.get_slice(roles["down"]).get_shape()[0]
        alpha = _scalar(file, handle, roles["alpha"]) if "alpha" in roles else None
        layers[name] = Layer(roles["down"], roles["up"], scaling.factor(file, module, rank, alpha))
        ranks.add(rank)
        # kohya's loader takes a missing alpha for the rank, diffusers' for that of most layers.
        if (
            alpha is None
            and scaling.config.lora_alpha is None
            and not roles["down"].startswith("lora_")
        ):
            without_alpha.append(module)
    if len(without_alpha) == len(layers) and len(ranks) > 1:
        raise UsageError(
            f"--lora {file} has ranks {', '.join(map(str, sorted(ranks)))} and no alpha: how "
            "strong each is cannot be known; save it with its configuration"
        )
    if 0 < len(without_alpha) < len(layers):
        raise UsageError(
            f"--lora {file}: '{without_alpha[0]}' has no alpha and others have: how strong it is "
            "cannot be known; save it with its configuration"
        )
    return layers


def _scaled(layers: Mapping[str, Layer], scale: float) -> dict[str, Layer]:
    """The layers with the weight that the adapter was asked for with."""
    return {name: replace(layer, factor=scale * layer.factor) for name, layer in layers.items()}


def _check_shapes(
    file: Path, handle: Any, whose: str, module: str, roles: Roles, shape: tuple[int, ...]
) -> None:
    slices = {role: handle.get_slice(roles[role]) for role in ("down", "up")}
    for role, piece in slices.items():
        if piece.get_dtype() not in FLOATS or len(piece.get_shape()) < 2:
            raise UsageError(f"--lora {file}: '{roles[role]}' is no matrix of floating point")
    (down, up) = (tuple(piece.get_shape()) for piece in slices.values())
    if down[0] != math.prod(up[1:]) or down[0] < 1:
        raise UsageError(f"--lora {file}: '{module}' has ranks {down[0]} and {math.prod(up[1:])}")
    if (up[0], math.prod(down[1:])) != (shape[0], math.prod(shape[1:])):
        raise UsageError(
            f"--lora {file}: '{module}' is for a weight of {up[0]} x {math.prod(down[1:])}, "
            f"{whose}'s has shape {shape}"
        )
    checked(Rank, down[0], f"--lora {file}: rank of '{module}'")
    for role in slices:
        if not is_finite(handle.get_tensor(roles[role])):
            raise UsageError(f"--lora {file}: '{roles[role]}' holds values that are not finite")


def _scalar(file: Path, handle: Any, key: str) -> float:
    if math.prod(handle.get_slice(key).get_shape()) != 1:
        raise UsageError(f"--lora {file}: '{key}' is no single number")
    number: float = checked(
        Strength, float(handle.get_tensor(key).item()), f"--lora {file}: '{key}'"
    )
    return number
