"""The architecture of each component, from the checkpoint's config.json: checked, typed, frozen.

Unknown keys and values are errors that name themselves: a config this code does not fully
understand would export to a graph that is silently wrong.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from exporter.checkpoint.harmless import is_harmless
from runtimes.errors import UsageError


@dataclass(frozen=True)
class StageCConfig:
    """WuerstchenPrior: `depth` times ResBlock, TimestepBlock, AttnBlock at width c."""

    c_in: int = 16
    c: int = 1280
    c_cond: int = 1024
    c_r: int = 64
    depth: int = 16
    nhead: int = 16

    def check(self) -> None:
        _check_divides(self.nhead, self.c, "nhead")
        _check_timestep_width(self.c_r)


@dataclass(frozen=True)
class StageBConfig:
    """WuerstchenDiffNeXt: a U-Net over levels of ResBlocks (C), timestep (T), attention (A)."""

    c_in: int = 4
    c_out: int = 4
    c_r: int = 64
    patch_size: int = 2
    c_cond: int = 1024
    c_hidden: tuple[int, ...] = (320, 640, 1280, 1280)
    nhead: tuple[int, ...] = (-1, 10, 20, 20)
    blocks: tuple[int, ...] = (4, 4, 14, 4)
    level_config: tuple[str, ...] = ("CT", "CTA", "CTA", "CTA")
    inject_effnet: tuple[bool, ...] = (False, True, True, True)
    effnet_embd: int = 16
    clip_embd: int = 1024
    kernel_size: int = 3

    @property
    def levels(self) -> int:
        return len(self.c_hidden)

    @property
    def multiple(self) -> int:
        """Stage B's latent sides are multiples of this: each level halves the patches."""
        return self.patch_size * 2 ** (self.levels - 1)

    @property
    def effnet_levels(self) -> tuple[int, ...]:
        """Levels that take the image embedding; the same going down and up."""
        return tuple(i for i in range(self.levels) if self.inject_effnet[i])

    @property
    def text_widths(self) -> tuple[int, ...]:
        """Distinct widths of the levels with attention, in ascending order."""
        widths = {
            c for c, kinds in zip(self.c_hidden, self.level_config, strict=True) if "A" in kinds
        }
        return tuple(sorted(widths))

    def check(self) -> None:
        for key in ("nhead", "blocks", "level_config", "inject_effnet"):
            if len(getattr(self, key)) != self.levels:
                raise ValueError(
                    f"'{key}' has {len(getattr(self, key))} entries for {self.levels} levels"
                )
        if self.c_in != self.c_out:
            raise ValueError(
                f"c_in {self.c_in} and c_out {self.c_out} differ: no epsilon to predict"
            )
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size {self.kernel_size} is even: blocks would not keep their size"
            )
        for width, heads, kinds in zip(self.c_hidden, self.nhead, self.level_config, strict=True):
            if set(kinds) - set("CTA"):
                raise ValueError(f"level_config '{kinds}' has blocks other than C, T and A")
            if "A" in kinds:
                _check_divides(heads, width, "nhead")
        _check_timestep_width(self.c_r)


@dataclass(frozen=True)
class StageAConfig:
    """PaellaVQModel; the decoder half runs, the encoder and codebook do not."""

    in_channels: int = 3
    out_channels: int = 3
    up_down_scale_factor: int = 2
    levels: int = 2
    bottleneck_blocks: int = 12
    embed_dim: int = 384
    latent_channels: int = 4
    num_vq_embeddings: int = 8192
    scale_factor: float = 0.3764

    @property
    def scale(self) -> int:
        """Pixels per latent cell."""
        return int(self.up_down_scale_factor * 2 ** (self.levels - 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per level as the decoder runs: deepest first."""
        return tuple(self.embed_dim // 2**i for i in range(self.levels))

    def check(self) -> None:
        if self.out_channels != 3:
            raise ValueError(f"out_channels is {self.out_channels}; pictures have 3")


@dataclass(frozen=True)
class TextConfig:
    """CLIPTextModel: a causal pre-norm transformer."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def check(self) -> None:
        _check_divides(self.num_attention_heads, self.hidden_size, "num_attention_heads")
        if self.hidden_act not in ("gelu", "quick_gelu"):
            raise ValueError(f"hidden_act '{self.hidden_act}' is neither gelu nor quick_gelu")


@dataclass(frozen=True)
class SchedulerConfig:
    """DDPMWuerstchenScheduler."""

    s: float = 0.008
    scaler: float = 1.0

    def check(self) -> None:
        if not 0 < self.s < 1 or self.scaler <= 0:
            raise ValueError(f"s {self.s} and scaler {self.scaler} make no schedule")


# All of them compute the same hidden states; the latter two hold more, which is not exported.
TEXT_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel")
_TYPES = {"clip_text_model": "CLIPTextModel", "clip": "CLIPModel"}

C = TypeVar("C", StageCConfig, StageBConfig, StageAConfig, TextConfig, SchedulerConfig)


def parse_config(kind: type[C], value: dict[str, Any], where: str) -> C:
    """A typed config from parsed JSON. Raises UsageError naming file and key.

    As in diffusers, a key named by `_use_default_values` takes its class's default.
    """
    defaulted = () if kind is TextConfig else value.get("_use_default_values") or ()
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = {}
    for key, item in value.items():
        if key.startswith("_") or key in defaulted:
            continue
        if key not in fields:
            if is_harmless(kind.__name__, key, item, where):
                continue
            raise UsageError(f"{where}: unknown key '{key}' (value {item!r}) for {kind.__name__}")
        values[key] = _typed(item, fields[key].default, f"{where}: '{key}'")
    for key, item in values.items():
        numbers = item if isinstance(item, tuple) else (item,)
        least = -1 if key == "nhead" else 1  # -1: a level without attention
        if not numbers or any(type(n) is int and n < least for n in numbers):
            raise UsageError(f"{where}: '{key}' is {value[key]!r}; numbers here are at least 1")
    config = kind(**values)
    try:
        config.check()
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    return config


def class_of(config: dict[str, Any]) -> str | None:
    """The class that a config.json is of, by its name, else by transformers' model type."""
    named = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    return named or _TYPES.get(str(config.get("model_type")))


def text_section(config: dict[str, Any], path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A text encoder's config and a line on it; CLIPModel's has the text encoder's in it.

    As CLIPTextModel.from_pretrained does, the section is taken by itself. Raises UsageError where
    an older version's second section says something else.
    """
    if class_of(config) != "CLIPModel":
        return config, ()
    section = config.get("text_config")
    if not isinstance(section, dict):
        raise UsageError(f"{path} is a config of CLIPModel without a 'text_config'")
    older = config.get("text_config_dict")
    for key, value in (older if isinstance(older, dict) else {}).items():
        if section.get(key, value) != value:
            raise UsageError(
                f"{path}: 'text_config' and 'text_config_dict' differ in '{key}'; save it again "
                "with transformers, as CLIPTextModel"
            )
    return section, (f"{path} is a whole CLIPModel's: its text encoder alone is taken",)


def _typed(value: Any, default: Any, where: str) -> Any:
    """`value`, if it has the type of `default`; lists become tuples."""
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where} is {value!r}, expected a list")
        return tuple(_typed(item, default[0], where) for item in value)
    if type(default) is float and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise UsageError(f"{where} is {value!r}, expected {type(default).__name__}")
    return value


def _check_divides(heads: int, width: int, key: str) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"'{key}' {heads} does not divide the width {width}")


def _check_timestep_width(c_r: int) -> None:
    if c_r < 4:
        raise ValueError(f"c_r {c_r} is too narrow for a timestep embedding (at least 4)")
