"""Shared fixtures: the tiny checkpoints on disk and their bundles, made once a session."""

import gc
import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import validation.torchvision_first  # noqa: F401

# isort: split
import tiny
import torch
from filelock import FileLock
from huggingface_hub import constants

from exporter.checkpoint.find import find_pair
from exporter.checkpoint.open import Checkpoint, open_checkpoint
from exporter.export import export
from exporter.options import ExportOptions
from runtimes.bundle.read import Bundle, open_bundle

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker a core, and tensors that are too small to share: threads would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Each collection would walk over all that was imported, and tracing a graph makes many."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


# The files that first ask for the demo, the public layout and one level, which take a minute each
# to export: side by side, each worker at its own, instead of all at one and waiting.
FIRST = ("test_quantization.py", "test_exporter_cli.py", "test_graphs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of their names, but for `FIRST`."""

    def place(item: pytest.Item) -> int:
        return FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST)

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What was hashed before is remembered here, and not in the home of who runs the tests."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heard() -> None:
    """Where the tests run in the background, as a shell's `&`, no process of theirs hears any."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """The hub is never asked: what is not in a local cache is an error at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")  # for the processes that tests start
        # For this one: huggingface_hub reads the variable when it is imported, which is done.
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_gradients() -> Iterator[None]:
    """Nothing here trains; the reference's forward passes would keep every activation."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of one run of the tests (pytest-xdist) have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def folders(shared: Path) -> Callable[[str], tuple[Path, Path]]:
    """The (decoder, prior) folders of a tiny configuration, written on first use."""

    def get(name: str) -> tuple[Path, Path]:
        folder = shared / "checkpoints" / name
        with FileLock(shared / f"{name}.lock"):
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
def bundles(folders: Callable[[str], tuple[Path, Path]], shared: Path) -> Callable[..., Bundle]:
    """The bundle of a tiny configuration ('demo': the demo checkpoint), exported on first use."""
    made: dict[Path, Bundle] = {}

    def get(name: str, options: ExportOptions | None = None) -> Bundle:
        options = options or ExportOptions()
        digest = hashlib.sha256(repr(options).encode()).hexdigest()[:12]
        output = shared / "bundles" / f"{name}-{digest}"
        if output not in made:
            from exporter.checkpoint.find import demo_pair

            pair = demo_pair() if name == "demo" else find_pair(*map(str, folders(name)))
            with FileLock(shared / f"{output.name}.lock"):
                if not output.exists():
                    export(*pair, output, options)
            made[output] = open_bundle(output, hashes="fresh")
        return made[output]

    return get
