"""The architecture of each component, from the checkpoint's config.json: checked, typed, frozen.

Unknown keys and values are errors that name themselves: a config this code does not fully
understand would export to a graph that is silently wrong.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from exporter.checkpoint import ranges as r
from exporter.checkpoint.harmless import is_harmless
from exporter.checkpoint.ranges import checked
from runtimes.bundle.ranges import shown
from runtimes.errors import UsageError


@dataclass(frozen=True)
class StageCConfig:
    """WuerstchenPrior: `depth` times ResBlock, TimestepBlock, AttnBlock at width c."""

    c_in: r.Channels = 16
    c: r.Width = 1280
    c_cond: r.Width = 1024
    c_r: r.TimestepWidth = 64
    depth: r.Blocks = 16
    nhead: r.Heads = 16

    def check(self) -> None:
        _check_divides(self.nhead, self.c, "nhead")


@dataclass(frozen=True)
class StageBConfig:
    """WuerstchenDiffNeXt: a U-Net over levels of ResBlocks (C), timestep (T), attention (A)."""

    c_in: r.Channels = 4
    c_out: r.Channels = 4
    c_r: r.TimestepWidth = 64
    patch_size: r.Factor = 2
    c_cond: r.Width = 1024
    c_hidden: Annotated[tuple[r.Width, ...], r.A_LEVEL] = (320, 640, 1280, 1280)
    nhead: Annotated[tuple[r.HeadsOrNone, ...], r.A_LEVEL] = (-1, 10, 20, 20)
    blocks: Annotated[tuple[r.Blocks, ...], r.A_LEVEL] = (4, 4, 14, 4)
    level_config: Annotated[tuple[r.Kinds, ...], r.A_LEVEL] = ("CT", "CTA", "CTA", "CTA")
    inject_effnet: Annotated[tuple[bool, ...], r.A_LEVEL] = (False, True, True, True)
    effnet_embd: r.Channels = 16
    clip_embd: r.Width = 1024
    kernel_size: r.Kernel = 3

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
            if "A" in kinds:
                _check_divides(heads, width, "nhead")
        count = sum(n * len(kinds) for n, kinds in zip(self.blocks, self.level_config, strict=True))
        if count > r.MOST_BLOCKS:
            raise ValueError(
                f"'blocks' and 'level_config' make {count} blocks, more than any model"
            )


@dataclass(frozen=True)
class StageAConfig:
    """PaellaVQModel; the decoder half runs, the encoder and codebook do not."""

    in_channels: r.Channels = 3
    out_channels: r.Channels = 3
    up_down_scale_factor: r.Factor = 2
    levels: r.Levels = 2
    bottleneck_blocks: r.Blocks = 12
    embed_dim: r.Width = 384
    latent_channels: r.Channels = 4
    num_vq_embeddings: r.Rows = 8192
    scale_factor: r.ScaleFactor = 0.3764

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
        if self.widths[-1] < 1:
            raise ValueError(f"embed_dim {self.embed_dim} cannot be halved at {self.levels} levels")


@dataclass(frozen=True)
class TextConfig:
    """CLIPTextModel: a causal pre-norm transformer."""

    vocab_size: r.Rows = 49408
    hidden_size: r.Width = 512
    intermediate_size: r.Width = 2048
    num_hidden_layers: r.Blocks = 12
    num_attention_heads: r.Heads = 8
    max_position_embeddings: r.Positions = 77
    hidden_act: r.Activation = "quick_gelu"
    layer_norm_eps: r.Epsilon = 1e-5

    def check(self) -> None:
        _check_divides(self.num_attention_heads, self.hidden_size, "num_attention_heads")


@dataclass(frozen=True)
class SchedulerConfig:
    """DDPMWuerstchenScheduler."""

    s: r.Offset = 0.008
    scaler: r.Exponent = 1.0

    def check(self) -> None:
        """Nothing beside the ranges."""


# All of them compute the same hidden states; the latter two hold more, which is not exported.
TEXT_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel")
_TYPES = {"clip_text_model": "CLIPTextModel", "clip": "CLIPModel"}

C = TypeVar("C", StageCConfig, StageBConfig, StageAConfig, TextConfig, SchedulerConfig)


def parse_config(kind: type[C], value: dict[str, Any], where: str) -> C:
    """A typed config from parsed JSON. Raises UsageError naming file and key.

    As in diffusers, a key named by `_use_default_values` takes its class's default.
    """
    kinds = get_type_hints(kind, include_extras=True)
    defaulted = () if kind is TextConfig else _names(value.get("_use_default_values"), where)
    values = {}
    for key, item in value.items():
        if key.startswith("_") or key in defaulted:
            continue
        if key in kinds:
            values[key] = checked(kinds[key], item, f"{where}: {shown(key)}")
        elif not is_harmless(kind.__name__, key, item, where):
            raise UsageError(
                f"{where}: unknown key {shown(key)} (value {shown(item)}) for {kind.__name__}"
            )
    config = kind(**values)
    try:
        config.check()
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    return config


def _names(value: Any, where: str) -> tuple[str, ...]:
    return tuple(checked(tuple[str, ...] | None, value, f"{where}: '_use_default_values'") or ())


def class_of(config: dict[str, Any]) -> str | None:
    """The class that a config.json is of, by its name, else by transformers' model type."""
    listed = config.get("architectures")
    named = config.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else "")
    return str(named) if named else _TYPES.get(str(config.get("model_type")))


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


def _check_divides(heads: int, width: int, key: str) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"'{key}' {heads} does not divide the width {width}")
