"""The components of a checkpoint: their folders, checked configs and weight files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from exporter.checkpoint import ranges as r
from exporter.checkpoint.compressor import CompressorConfig
from exporter.checkpoint.configs import (
    TEXT_CLASSES,
    SchedulerConfig,
    StageAConfig,
    StageBConfig,
    StageCConfig,
    TextConfig,
    class_of,
    parse_config,
    text_section,
)
from exporter.checkpoint.files import weight_files
from exporter.checkpoint.find import Source
from exporter.checkpoint.harmless import note_keys
from exporter.checkpoint.picture_files import (
    IN_FOLDER,
    PictureFiles,
    compressor_config,
    find_picture_file,
    preview_config,
)
from exporter.checkpoint.picture_names import COMPRESSOR_FILE, PREVIEW_FILE
from exporter.checkpoint.previewer import PreviewConfig
from exporter.checkpoint.ranges import checked
from exporter.checkpoint.reading import read_json, refuse_pointer
from runtimes.bundle.manifest import DEMO_REVISION
from runtimes.bundle.values import Latent, Ratio, Side
from runtimes.errors import UsageError

C = TypeVar("C", StageCConfig, StageBConfig, StageAConfig, TextConfig)
# With those that come without a config.json.
D = TypeVar(
    "D", StageCConfig, StageBConfig, StageAConfig, TextConfig, CompressorConfig, PreviewConfig
)


@dataclass(frozen=True)
class Component(Generic[D]):
    """One network: its config and the safetensors files that hold its weights.

    `variant` is that of the files, '' for the plain ones; `notes` say what of it was ignored.
    """

    folder: Path
    config: D
    files: tuple[Path, ...]
    variant: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Constants:
    """The pipeline's numbers from the two model_index.json, diffusers' defaults where absent."""

    latent_mean: r.Positive = 42.0
    latent_std: Latent = 1.0  # it is subtracted, so that 0 is one
    resolution_multiple: Ratio = 42.67
    latent_dim_scale: Ratio = 10.67


@dataclass(frozen=True)
class Checkpoint:
    """A whole Wuerstchen checkpoint, located and checked, nothing loaded yet.

    `notes`: lines on what was taken where something else was asked for, and what was ignored.
    """

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
    compressor: Component[CompressorConfig] | None = None
    preview: Component[PreviewConfig] | None = None
    notes: tuple[str, ...] = ()

    @property
    def components(self) -> "tuple[Component[Any], ...]":
        return (
            self.text_encoder,
            self.stage_c,
            self.decoder_text_encoder,
            self.stage_b,
            self.stage_a,
        )

    @property
    def variant(self) -> str:
        """The variant of all components' files, '' where they differ."""
        kinds = {component.variant for component in self.components}
        return kinds.pop() if len(kinds) == 1 else ""

    @property
    def license(self) -> str:
        """The license that the decoder's model card names."""
        return self.decoder_source.front_matter.get("license", "unknown")

    @property
    def is_demo(self) -> bool:
        """Whether it is the demo checkpoint of this package."""
        return self.decoder_source.revision == self.prior_source.revision == DEMO_REVISION


def open_checkpoint(
    source: Source,
    prior_source: Source,
    variant: str | None,
    pictures: PictureFiles = IN_FOLDER,
    *,
    weights: bool = True,
) -> Checkpoint:
    """Locate and check every component; `weights=False` reads the networks' configs alone.

    `pictures` are the picture side's files, whose headers are their configs.

    Raises UsageError for a missing component, another class's config, config keys that could
    change a graph, pickled weights, or components that do not fit together.
    """
    decoder, prior = source.folder, prior_source.folder
    prefix = "prior_" if (prior / "prior_prior").is_dir() else ""

    def network(kind: type[C], folder: Path, *classes: str) -> Component[C]:
        path = _folder(folder) / "config.json"
        value = _config(path, classes)
        files: tuple[Path, ...] = ()
        notes: tuple[str, ...] = ()
        files_variant = ""
        if kind is TextConfig:  # the one network that may come inside another's config
            value, notes = text_section(value, path)
        config = parse_config(kind, value, str(path))
        if weights:
            files, files_variant = weight_files(folder, variant)
        ignored = note_keys(kind.__name__, value, path)
        return Component(folder, config, files, files_variant, notes + ignored)

    def tokenizer(folder: Path) -> Path:
        for file in _folder(folder).iterdir() if weights else ():
            refuse_pointer(file)
        return folder

    stage_c_scheduler, c_notes = _scheduler(prior / f"{prefix}scheduler", needed=weights)
    stage_b_scheduler, b_notes = _scheduler(decoder / "scheduler", needed=weights)
    height, width = _default_size(prior)
    checkpoint = Checkpoint(
        decoder_source=source,
        prior_source=prior_source,
        text_encoder=network(TextConfig, prior / f"{prefix}text_encoder", *TEXT_CLASSES),
        stage_c=network(StageCConfig, prior / f"{prefix}prior", "WuerstchenPrior"),
        decoder_text_encoder=network(TextConfig, decoder / "text_encoder", *TEXT_CLASSES),
        stage_b=network(StageBConfig, decoder / "decoder", "WuerstchenDiffNeXt"),
        stage_a=network(StageAConfig, decoder / "vqgan", "PaellaVQModel"),
        tokenizer=tokenizer(prior / f"{prefix}tokenizer"),
        decoder_tokenizer=tokenizer(decoder / "tokenizer"),
        stage_c_scheduler=stage_c_scheduler,
        stage_b_scheduler=stage_b_scheduler,
        constants=_constants(decoder, prior, needed=weights),
        height=height,
        width=width,
        notes=(*source.notes, *prior_source.notes, *c_notes, *b_notes),
    )
    _check_fit(checkpoint)
    checkpoint = _with_pictures(checkpoint, pictures)
    return replace(checkpoint, notes=_notes(checkpoint, variant if weights else None))


def _with_pictures(checkpoint: Checkpoint, given: PictureFiles) -> Checkpoint:
    """The checkpoint with the picture side that it, or the command line, has."""
    folder, c_latent = checkpoint.prior_source.folder, checkpoint.stage_c.config.c_in
    compressor = find_picture_file(given.compressor, folder, COMPRESSOR_FILE, "--compressor")
    if compressor is not None:
        config = compressor_config(compressor, c_latent)
        held = Component(compressor.parent, config, (compressor,))
        checkpoint = replace(checkpoint, compressor=held)
    preview = find_picture_file(given.preview, folder, PREVIEW_FILE, "--preview")
    if preview is not None:
        seen = Component(preview.parent, preview_config(preview, c_latent), (preview,))
        checkpoint = replace(checkpoint, preview=seen)
    return checkpoint


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is missing: --model needs text_encoder, tokenizer, decoder, vqgan, "
            "scheduler; --prior needs text_encoder, tokenizer, prior, scheduler"
        )
    return folder


def _config(path: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    value = read_json(path)
    name = class_of(value)
    if name not in classes:
        which = f"a config of {name}" if name else "a config that names no class"
        cascade = " (Stable Cascade is not supported)" if "StableCascade" in str(name) else ""
        raise UsageError(f"{path} is {which}, expected {' or '.join(classes)}{cascade}")
    return value


def _scheduler(folder: Path, *, needed: bool) -> tuple[SchedulerConfig, tuple[str, ...]]:
    """A scheduler's config and notes; its defaults where there is none and none is needed."""
    path = folder / "scheduler_config.json"
    if not needed and not path.exists():
        return SchedulerConfig(), ()
    _folder(folder)
    value = _config(path, ("DDPMWuerstchenScheduler",))
    config = parse_config(SchedulerConfig, value, str(path))
    return config, note_keys("SchedulerConfig", value, path)


def _notes(checkpoint: Checkpoint, variant: str | None) -> tuple[str, ...]:
    """Every note once. Raises UsageError where no component has the variant asked for."""
    notes = list(checkpoint.notes)
    notes += [note for component in checkpoint.components for note in component.notes]
    variants = {str(component.folder): component.variant for component in checkpoint.components}
    plain = [folder for folder, kind in variants.items() if not kind]
    if variant and variant not in variants.values():
        raise UsageError(
            f"--variant {variant}: no component has such weight files; leave it out to take the "
            "plain ones"
        )
    if variant and plain:
        notes.append(f"no {variant} weights, the plain ones are taken: {', '.join(plain)}")
    if not variant:
        for kind in sorted(set(variants.values()) - {""}):
            names = ", ".join(folder for folder, held in variants.items() if held == kind)
            notes.append(f"no plain weights, the {kind} ones are taken: {names}")
    return tuple(dict.fromkeys(notes))


def _constants(decoder: Path, prior: Path, *, needed: bool) -> Constants:
    """A combined folder has neither pipeline's constants: diffusers' defaults hold there too."""
    kinds, numbers = get_type_hints(Constants, include_extras=True), {}
    for folder, keys in (
        (prior, ("latent_mean", "latent_std", "resolution_multiple")),
        (decoder, ("latent_dim_scale",)),
    ):
        path = folder / "model_index.json"
        index = read_json(path) if needed or path.exists() else {}
        for key in index.keys() & set(keys):
            numbers[key] = checked(kinds[key], index[key], f"{path}: '{key}'")
    return Constants(**numbers)


def _default_size(prior: Path) -> tuple[int, int]:
    """The picture size a checkpoint was trained for: generation_config.json, else 1024 x 1024."""
    path = prior / "generation_config.json"
    value = read_json(path) if path.exists() else {}
    height, width = (
        checked(Side, value.get(key, 1024), f"{path}: '{key}', in pixels")
        for key in ("height", "width")
    )
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
