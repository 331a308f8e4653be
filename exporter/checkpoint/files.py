"""The files of a checkpoint: which of them are a component's weights.

Weights are plain or of a variant, whole or in shards. As in diffusers 0.39: a component without
files of the variant asked for has its plain ones taken. Beyond it: where no variant is asked for
and there are files of a single one alone, they are taken.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from exporter.checkpoint.reading import read_json, refuse_pointer
from runtimes.bundle.ranges import Entries
from runtimes.bundle.typed_json import decode
from runtimes.bundle.values import FileName
from runtimes.errors import RunError, UsageError

PICKLES = (".bin", ".ckpt", ".pt", ".pth")  # they run code when they are read
_SHARD = r"-\d{5}-of-\d{5}"
_WeightMap = Annotated[dict[str, FileName], Entries(1, 100_000)]


def cached_model(snapshot: Path) -> str | None:
    """The hub id of a snapshot in a hub cache, which its path names; None for another folder."""
    repository = snapshot.parent.parent.name
    if snapshot.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/")


@dataclass(frozen=True)
class Choice:
    """The file to open first, one with weights or an index of shards; '' is the plain variant."""

    name: str
    variant: str

    @property
    def is_index(self) -> bool:
        return self.name.endswith(".json")


def stem_of(component: str) -> str:
    """How the weight files of a component's folder begin: transformers' name or diffusers'."""
    return "model" if component.endswith("text_encoder") else "diffusion_pytorch_model"


def choose(names: Collection[str], stem: str, variant: str | None) -> Choice | None:
    """What to open of a component's file names; None where there is nothing, or no one choice."""
    others = variants(names, stem) - {"", variant}
    fallback = others if not variant and len(others) == 1 else set()
    for kind in dict.fromkeys([variant or "", "", *fallback]):
        for name in _names(stem, kind):
            if name in names:
                return Choice(name, kind)
    return None


def variants(names: Collection[str], stem: str) -> set[str]:
    """The variants that a component's file names are of; '' for the plain files."""
    patterns = [
        rf"{stem}(?:\.([\w-]+?))?(?:{_SHARD})?\.safetensors",
        rf"{stem}{_SHARD}\.([\w-]+)\.safetensors",  # as older versions of diffusers wrote them
    ]
    matches = (re.fullmatch(pattern, name) for name in names for pattern in patterns)
    return {match[1] or "" for match in matches if match}


def files_of(names: Collection[str], stem: str, variant: str | None) -> list[str]:
    """The names to fetch of a listed component: what is chosen, with all of an index's shards."""
    choice = choose(names, stem, variant)
    if choice is None or not choice.is_index:
        return [choice.name] if choice else []
    marked = re.escape(f".{choice.variant}") if choice.variant else ""
    shard = re.compile(rf"{stem}(?:{marked}{_SHARD}|{_SHARD}{marked})\.safetensors")
    return [choice.name, *(name for name in names if shard.fullmatch(name))]


def weight_files(folder: Path, variant: str | None) -> tuple[tuple[Path, ...], str]:
    """The safetensors files of a component's folder and their variant ('': plain).

    Raises UsageError naming what is missing, or that is there instead.
    """
    names = sorted(path.name for path in folder.iterdir())
    choice = choose(names, stem_of(folder.name), variant)
    if choice is None:
        raise UsageError(_why_none(folder, names, variant))
    path = folder / choice.name
    files = _shards(path) if choice.is_index else (path,)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        by = f", which {choice.name} names," if choice.is_index else ""
        raise UsageError(f"{folder / missing[0]}{by} is missing{_how_to_fetch(folder, missing)}")
    for file in files:
        refuse_pointer(file)
    return files, choice.variant


def _names(stem: str, variant: str) -> Iterator[str]:
    """The files to look for, in the order of transformers' and diffusers' loaders."""
    middle = f".{variant}" if variant else ""
    single = f"{stem}{middle}.safetensors"
    indexes = [f"{stem}.safetensors.index{middle}.json"]
    if variant:  # diffusers before 0.32, other tools
        indexes.append(f"{stem}.safetensors{middle}.index.json")
        indexes.append(f"{stem}{middle}.safetensors.index.json")
    yield from [single, *indexes] if stem == "model" else [*indexes, single]


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        weight_map = decode(_WeightMap, read_json(index).get("weight_map"), "'weight_map'")
    except RunError as error:
        raise UsageError(
            f"{index}: 'weight_map' does not name safetensors files beside it ({error})"
        ) from None
    return tuple(index.parent / name for name in sorted(set(weight_map.values())))


def _why_none(folder: Path, names: list[str], variant: str | None) -> str:
    """Why no weights could be chosen: the first reason that holds, from the nearest miss on."""
    stem = stem_of(folder.name)
    held = variants(names, stem)
    unindexed = held & {variant or "", ""}
    if unindexed:
        index = next(n for n in _names(stem, sorted(unindexed)[-1]) if n.endswith(".json"))
        fetch = _how_to_fetch(folder, [index])
        return f"{folder / index}, the index of its shards, is missing{fetch}"
    if held:
        kinds = ", ".join(sorted(held))
        return (
            f"{folder} holds weights of the variants {kinds} only: give --variant with one of them"
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return (
            f"{folder} holds its weights as {pickles[0]}, a pickle, which runs code when it is "
            "read; convert it with diffusers' save_pretrained(safe_serialization=True)"
        )
    expected = [f"{stem}.safetensors"] + ([f"{stem}.{variant}.safetensors"] if variant else [])
    others = [name for name in names if name.endswith(".safetensors")]
    instead = f"; {others[0]} there is no name that diffusers reads" if others else ""
    missing = " and ".join(reversed(expected))
    are = "are" if len(expected) > 1 else "is"
    fetch = _how_to_fetch(folder, expected[:1])
    return f"{folder} holds no weights: {missing} {are} missing{fetch}{instead}"


def _how_to_fetch(folder: Path, names: list[str]) -> str:
    """Where the folder is of a hub cache: that it is incomplete, and what completes it."""
    for snapshot in folder.parents:
        name = cached_model(snapshot)
        if name is not None:
            files = " ".join(str(folder.relative_to(snapshot) / file) for file in names)
            command = f"hf download {name} {files} --revision {snapshot.name}"
            return f" from the hub's cache, which is incomplete: '{command}' fetches it"
    return ""
