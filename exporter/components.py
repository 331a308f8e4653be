"""The components of a checkpoint: their folders, checked configs and weight files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from exporter.configs import (
    SchedulerConfig,
    StageAConfig,
    StageBConfig,
    StageCConfig,
    TextConfig,
    parse_config,
)
from exporter.sources import Source
from runtimes.errors import UsageError
from runtimes.manifest import DEMO_REVISION

C = TypeVar("C", StageCConfig, StageBConfig, StageAConfig, TextConfig)
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


@dataclass(frozen=True)
class Component(Generic[C]):
    """One network: its config and the safetensors files that hold its weights."""

    folder: Path
    config: C
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Constants:
    """The pipeline's numbers from the two model_index.json, diffusers' defaults where absent."""

    latent_mean: float = 42.0
    latent_std: float = 1.0
    resolution_multiple: float = 42.67
    latent_dim_scale: float = 10.67


@dataclass(frozen=True)
class Checkpoint:
    """A whole Wuerstchen checkpoint, located and checked, nothing loaded yet."""

    decoder_source: Source
    prior_source: Source
    text_encoder: Component[TextConfig]
    stage_c: Component[StageCConfig]
    decoder_text_encoder: Component[TextConfig]
    stage_b: Component[StageBConfig]
    stage_a: Component[StageAConfig]
    tokenizer: Path
    decoder_tokenizer: Path
    stage_c_scheduler: SchedulerConfig
    stage_b_scheduler: SchedulerConfig
    constants: Constants
    height: int
    width: int

    @property
    def is_demo(self) -> bool:
        """Whether it is the demo checkpoint of this package."""
        return self.decoder_source.revision == self.prior_source.revision == DEMO_REVISION


def open_checkpoint(
    source: Source, prior_source: Source, variant: str | None, *, weights: bool = True
) -> Checkpoint:
    """Locate and check every component; `weights=False` reads the configs alone.

    Raises UsageError for a missing component, another class's config, unknown config keys,
    pickled weights, or components that do not fit together.
    """
    combined = (source.folder / "prior_prior").is_dir()
    decoder, prior = source.folder, source.folder if combined else prior_source.folder
    prefix = "prior_" if combined else ""

    def network(kind: type[C], folder: Path, cls: str) -> Component[C]:
        config = parse_config(kind, _config(folder, "config.json", cls), f"{folder}/config.json")
        return Component(folder, config, _weight_files(folder, variant) if weights else ())

    def scheduler(folder: Path) -> SchedulerConfig:
        value = _config(folder, "scheduler_config.json", "DDPMWuerstchenScheduler")
        return parse_config(SchedulerConfig, value, f"{folder}/scheduler_config.json")

    height, width = _default_size(prior)
    checkpoint = Checkpoint(
        decoder_source=source,
        prior_source=source if combined else prior_source,
        text_encoder=network(TextConfig, prior / f"{prefix}text_encoder", "CLIPTextModel"),
        stage_c=network(StageCConfig, prior / f"{prefix}prior", "WuerstchenPrior"),
        decoder_text_encoder=network(TextConfig, decoder / "text_encoder", "CLIPTextModel"),
        stage_b=network(StageBConfig, decoder / "decoder", "WuerstchenDiffNeXt"),
        stage_a=network(StageAConfig, decoder / "vqgan", "PaellaVQModel"),
        tokenizer=_folder(prior / f"{prefix}tokenizer"),
        decoder_tokenizer=_folder(decoder / "tokenizer"),
        stage_c_scheduler=scheduler(prior / f"{prefix}scheduler"),
        stage_b_scheduler=scheduler(decoder / "scheduler"),
        constants=_constants(decoder, prior),
        height=height,
        width=width,
    )
    _check_fit(checkpoint)
    return checkpoint


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; UsageError when it is missing or is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"{path} is missing: this is no complete Wuerstchen checkpoint") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no JSON object")
    return value


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is missing: --model needs text_encoder, tokenizer, decoder, vqgan, "
            "scheduler; --prior needs text_encoder, tokenizer, prior, scheduler"
        )
    return folder


def _config(folder: Path, name: str, cls: str) -> dict[str, Any]:
    value = read_json(_folder(folder) / name)
    found = value.get("_class_name") or next(iter(value.get("architectures") or []), None)
    if found != cls:
        raise UsageError(f"{folder / name} is a config of {found}, expected {cls}")
    return value


def _weight_files(folder: Path, variant: str | None) -> tuple[Path, ...]:
    """The safetensors files of a component: one file, or the shards its index names."""
    middle = f".{variant}" if variant else ""
    for stem in (
        ("model",) if folder.name.endswith("text_encoder") else ("diffusion_pytorch_model",)
    ):
        single = folder / f"{stem}{middle}.safetensors"
        if single.is_file():
            return (single,)
        index = folder / f"{stem}.safetensors.index{middle}.json"
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            shards = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing or not shards:
                raise UsageError(f"{index} names no shards, or missing ones: {', '.join(missing)}")
            return tuple(folder / shard for shard in shards)
    pickles = [path.name for pattern in _PICKLES for path in folder.glob(pattern)]
    if pickles:
        raise UsageError(
            f"{folder} holds its weights as {pickles[0]}, a pickle, which runs code when it is "
            "read; convert it with diffusers' save_pretrained(safe_serialization=True)"
        )
    wanted = f"{middle.removeprefix('.')} " if middle else ""
    raise UsageError(
        f"{folder} holds no {wanted}safetensors weights (pickles such as .bin are neither fetched "
        "nor read: they run code)"
    )


def _constants(decoder: Path, prior: Path) -> Constants:
    """A combined folder has neither pipeline's constants: diffusers' defaults hold there too."""
    found: dict[str, float] = {}
    for folder, keys in (
        (prior, ("latent_mean", "latent_std", "resolution_multiple")),
        (decoder, ("latent_dim_scale",)),
    ):
        index = read_json(folder / "model_index.json")
        for key in keys:
            value = index.get(key, getattr(Constants, key))
            if type(value) not in (int, float) or (value <= 0 and key != "latent_std"):
                raise UsageError(
                    f"{folder}/model_index.json: '{key}' is {value!r}, no valid number"
                )
            found[key] = float(value)
    return Constants(**found)


def _default_size(prior: Path) -> tuple[int, int]:
    """The picture size a checkpoint was trained for: generation_config.json, else 1024 x 1024."""
    path = prior / "generation_config.json"
    value = read_json(path) if path.is_file() else {}
    height, width = value.get("height", 1024), value.get("width", 1024)
    if type(height) is not int or type(width) is not int:
        raise UsageError(f"{path}: height and width must be whole numbers of pixels")
    return height, width


def _check_fit(checkpoint: Checkpoint) -> None:
    """Whether the stages take what the ones before them give."""
    c, b, a = checkpoint.stage_c, checkpoint.stage_b, checkpoint.stage_a
    pairs: list[tuple[Path, str, int, str, Component[Any]]] = [
        (c.folder, "c_cond", c.config.c_cond, "hidden_size", checkpoint.text_encoder),
        (b.folder, "clip_embd", b.config.clip_embd, "hidden_size", checkpoint.decoder_text_encoder),
        (b.folder, "effnet_embd", b.config.effnet_embd, "c_in", c),
        (a.folder, "latent_channels", a.config.latent_channels, "c_out", b),
    ]
    for folder, key, value, other_key, other in pairs:
        expected = getattr(other.config, other_key)
        if value != expected:
            raise UsageError(
                f"{folder}/config.json: '{key}' is {value}, but {other.folder}/config.json has "
                f"'{other_key}' {expected}: these components do not belong together"
            )
