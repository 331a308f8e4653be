"""python -m validation public-checkpoint: the public architecture with random weights, on disk.

Laid out as warp-ai/wuerstchen and warp-ai/wuerstchen-prior are, shards, variants and hub cache
included, so that everything up to the real size can be tried where no hub is reachable.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from exporter.checkpoint.find import DEMO
from exporter.checkpoint.open import Checkpoint
from exporter.checkpoint.shapes import (
    Shapes,
    stage_a_decoder_shapes,
    stage_a_encoder_shapes,
    stage_b_shapes,
    stage_c_shapes,
    text_shapes,
)
from runtimes.bundle.read import sha256
from runtimes.bundle.write import atomic_folder, check_space
from runtimes.errors import UsageError
from runtimes.progress import SILENT, Progress
from validation.bench.public import STAGE_B, STAGE_C, RandomWeights, public_checkpoint

DECODER, PRIOR = "warp-ai/wuerstchen", "warp-ai/wuerstchen-prior"
_DTYPES = {"": torch.float32, "fp16": torch.float16}
_DENOISER_FILES, _TEXT_FILES = "diffusion_pytorch_model", "model"
_PIPELINES = {
    DECODER: {
        "_class_name": "WuerstchenDecoderPipeline",
        "decoder": ["wuerstchen", "WuerstchenDiffNeXt"],
        "latent_dim_scale": 10.67,
        "vqgan": ["wuerstchen", "PaellaVQModel"],
    },
    PRIOR: {
        "_class_name": "WuerstchenPriorPipeline",
        "latent_mean": 42.0,
        "latent_std": 1.0,
        "prior": ["wuerstchen", "WuerstchenPrior"],
        "resolution_multiple": 42.67,
    },
}
_SHARED = {
    "scheduler": ["diffusers", "DDPMWuerstchenScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}


@dataclass(frozen=True)
class Network:
    """One component's folder: its config.json, its weights' shapes and their files' stem."""

    repository: str
    folder: str
    config: dict[str, object]
    shapes: Shapes
    stem: str


def networks(checkpoint: Checkpoint) -> Iterator[Network]:
    """The components of a checkpoint, in the two repositories' layout."""
    c, b, a = checkpoint.stage_c.config, checkpoint.stage_b.config, checkpoint.stage_a.config
    for repository, part in (
        (PRIOR, checkpoint.text_encoder.config),
        (DECODER, checkpoint.decoder_text_encoder.config),
    ):
        config = dataclasses.asdict(part) | {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
        }
        yield Network(repository, "text_encoder", config, text_shapes(part), _TEXT_FILES)
    for repository, folder, cls, architecture, shapes in (
        (PRIOR, "prior", "WuerstchenPrior", c, stage_c_shapes(c)),
        (DECODER, "decoder", "WuerstchenDiffNeXt", b, stage_b_shapes(b)),
        (DECODER, "vqgan", "PaellaVQModel", a,
         stage_a_decoder_shapes(a) | stage_a_encoder_shapes(a)),
    ):  # fmt: skip
        config = {"_class_name": cls} | dataclasses.asdict(architecture)
        yield Network(repository, folder, config, shapes, _DENOISER_FILES)


def write_folders(
    root: Path,
    checkpoint: Checkpoint,
    *,
    variant: str = "",
    shard_bytes: int = 2 << 30,
    progress: Progress = SILENT,
) -> tuple[Path, Path]:
    """Write decoder and prior folders under `root`, each all or nothing; returns them.

    One shard is in memory at a time. `variant` "fp16" writes half-size files by that name. Raises
    UsageError for a used folder.
    """
    folders = {name: root / name.split("/")[1] for name in (DECODER, PRIOR)}
    for name, folder in folders.items():
        for taken in (folder, _cached(root, name)):
            if taken.exists():
                raise UsageError(f"{taken} exists; choose another folder")
    with ExitStack() as whole:
        parts = {
            name: whole.enter_context(atomic_folder(folder, overwrite=False))
            for name, folder in folders.items()
        }
        for name, part in parts.items():
            _write_pipeline(part, name)
        _write_networks(parts, checkpoint, variant, shard_bytes, progress)
    return folders[DECODER], folders[PRIOR]


def _write_networks(
    folders: Mapping[str, Path],
    checkpoint: Checkpoint,
    variant: str,
    shard_bytes: int,
    progress: Progress,
) -> None:
    parts = list(networks(checkpoint))
    values = sum(_size(shape) for network in parts for shape in network.shapes.values())
    on_bytes = progress.graph("weights", values * _DTYPES[variant].itemsize)
    for network in parts:
        folder = folders[network.repository] / network.folder
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "config.json", network.config)
        _write_weights(folder, network, variant, shard_bytes, on_bytes)


def _cached(cache: Path, repository: str) -> Path:
    return cache / f"models--{repository.replace('/', '--')}"


def to_hub_cache(folder: Path, repository: str, cache: Path) -> Path:
    """Move a folder into a hub cache: blobs by SHA-256, a snapshot of links to them, refs/main."""
    home = _cached(cache, repository)
    revision = hashlib.sha1(repository.encode()).hexdigest()
    with atomic_folder(home, overwrite=False) as part:
        (part / "blobs").mkdir()
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            blob = part / "blobs" / sha256(path)
            link = part / "snapshots" / revision / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not blob.exists():
                os.link(path, blob)  # until all is there the folder stays whole
            up = "../" * (len(path.relative_to(folder).parts) + 1)
            link.symlink_to(f"{up}blobs/{blob.name}")
        (part / "refs").mkdir()
        (part / "refs" / "main").write_text(revision)
    shutil.rmtree(folder)
    return home / "snapshots" / revision


def _write_pipeline(folder: Path, repository: str) -> None:
    """Everything but the networks; the tokenizer is the demo's, whose ids all vocabularies have."""
    _write_json(folder / "model_index.json", _PIPELINES[repository] | _SHARED)
    card = "---\nlicense: mit\n" + (f"prior:\n- {PRIOR}\n" if repository == DECODER else "")
    (folder / "README.md").write_text(f"{card}---\nRandom weights.\n", encoding="utf-8")
    demo = DEMO / repository.split("/")[1]
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(demo / part, folder / part)


def _write_weights(
    folder: Path,
    network: Network,
    variant: str,
    shard_bytes: int,
    on_bytes: Callable[[int], None],
) -> None:
    weights, dtype = RandomWeights(network.shapes), _DTYPES[variant]
    middle = f".{variant}" if variant else ""
    shards = list(_shards(network.shapes, dtype.itemsize, shard_bytes))
    where: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        count = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        file = f"{network.stem}{middle}{count}.safetensors"
        save_file({name: weights[name].to(dtype) for name in names}, folder / file)
        where |= dict.fromkeys(names, file)
        on_bytes(dtype.itemsize * sum(_size(network.shapes[name]) for name in names))
    if len(shards) > 1:
        total = dtype.itemsize * sum(map(_size, network.shapes.values()))
        index = {"metadata": {"total_size": total}, "weight_map": where}
        _write_json(folder / f"{network.stem}.safetensors.index{middle}.json", index)


def _shards(shapes: Shapes, itemsize: int, limit: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        if names and size + itemsize * _size(shape) > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += itemsize * _size(shape)
    yield names


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def run(args: argparse.Namespace) -> None:
    """Write what the command line asked for."""
    if args.shard_bytes < 1:
        raise UsageError(f"--shard-bytes is {args.shard_bytes}; it must be at least 1")
    checkpoint = public_checkpoint(STAGE_B, STAGE_C)
    values = sum(_size(s) for network in networks(checkpoint) for s in network.shapes.values())
    check_space(args.output / "wuerstchen", values * _DTYPES[args.variant].itemsize)
    folders: tuple[Path, ...] = write_folders(
        args.output,
        checkpoint,
        variant=args.variant,
        shard_bytes=args.shard_bytes,
        progress=Progress(quiet=args.quiet),
    )
    if args.hub_cache:
        pairs = zip(folders, (DECODER, PRIOR), strict=True)
        folders = tuple(to_hub_cache(*pair, args.output) for pair in pairs)
    if not args.quiet:
        print(
            f"wrote {values / 1e9:.2f} billion random values to {' and '.join(map(str, folders))}"
        )
