"""Shared fixtures: the tiny checkpoints on disk and their bundles, made once a session."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from exporter.components import Checkpoint, open_checkpoint
from exporter.export import export
from exporter.options import ExportOptions
from exporter.sources import find_pair
from runtimes.bundle import Bundle, open_bundle

# The hub is never asked: what is not in a local cache is an error at once.
os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_grad_enabled(False)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """The (decoder, prior) folders of a tiny configuration, written on first use."""
    root = tmp_path_factory.mktemp("checkpoints")

    def get(name: str) -> tuple[Path, Path]:
        folder = root / name
        if not folder.exists():
            return tiny.save(tiny.reference(name), folder)
        return folder / "wuerstchen", folder / "wuerstchen-prior"

    return get


@pytest.fixture(scope="session")
def checkpoint(folders: Callable[[str], tuple[Path, Path]]) -> Callable[[str], Checkpoint]:
    """A tiny configuration, opened by the exporter."""

    def get(name: str) -> Checkpoint:
        decoder, prior = folders(name)
        return open_checkpoint(*find_pair(str(decoder), str(prior)), None)

    return get


@pytest.fixture(scope="session")
def bundles(
    folders: Callable[[str], tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Bundle]:
    """The bundle of a tiny configuration ('demo': the demo checkpoint), exported on first use."""
    root = tmp_path_factory.mktemp("bundles")
    made: dict[tuple[str, ExportOptions], Bundle] = {}

    def get(name: str, options: ExportOptions | None = None) -> Bundle:
        options = options or ExportOptions()
        if (name, options) not in made:
            from exporter.sources import demo_pair

            pair = demo_pair() if name == "demo" else find_pair(*map(str, folders(name)))
            output = root / f"{name}-{len(made)}"
            export(*pair, output, options)
            made[name, options] = open_bundle(output, verify_hashes=True)
        return made[name, options]

    return get
