"""A recorded run: every graph's tensors by name, from a bundle's golden file or the reference.

Names are '<graph>.<tensor>', '<denoiser>/start.latents' and, per step, '<denoiser>/<step>.epsilon'
(the graph's own output), '.noise' and '.latents' (after the step).
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.manifest import DENOISERS, GOLDEN_FILE
from runtimes.bundle.read import Bundle
from runtimes.bundle.safetensors_header import read_header
from runtimes.bundle.typed_json import decode
from runtimes.bundle.values import Guidance, Seed, Side, Steps
from runtimes.errors import RunError
from runtimes.plan import Options

_DTYPES = {"F32": np.float32, "I64": np.int64}
# Of a run against diffusers: the run's picture, compressed and decoded again.
RECONSTRUCTION = "reconstruction"
# The options that a recording says, each with its range.
_OPTIONS: dict[str, Any] = {
    "seed": Seed,
    "steps": Steps | None,
    "decoder_steps": Steps | None,
    "height": Side,
    "width": Side,
    "guidance": Guidance | None,
    "decoder_guidance": Guidance | None,
}
# None, the manifest's, in runs recorded before they said it.
_ADDED = ("guidance", "decoder_guidance")


@dataclass(frozen=True)
class Recording:
    """Tensors of one run, the prompt and options that made it, and where it comes from."""

    source: str
    tensors: Mapping[str, NDArray[np.generic]]
    prompt: str
    negative_prompt: str
    options: Options

    def steps(self, denoiser: str) -> int:
        """How many steps of a denoiser were recorded."""
        return sum(
            key.startswith(f"{denoiser}/") and key.endswith(".epsilon") for key in self.tensors
        )

    def noise(self) -> list[NDArray[np.float32]]:
        """Every draw, in order."""
        draws = []
        for denoiser in DENOISERS:
            names = [f"{i}.noise" for i in range(self.steps(denoiser))]
            draws += [self.tensors[f"{denoiser}/{name}"] for name in ("start.latents", *names)]
        return [values.astype(np.float32, copy=False) for values in draws]


class _Tensors(dict[str, NDArray[np.generic]]):
    """Tensors by name; RunError for one that was not recorded."""

    def __missing__(self, name: str) -> NDArray[np.generic]:
        raise RunError(f"the golden run has no '{name}'; export the bundle again")


def read_golden(bundle: Bundle) -> Recording:
    """A bundle's golden run, verified. NumPy alone reads it, so that any host with Python can.

    Raises RunError where there is none, or it is damaged.
    """
    if GOLDEN_FILE not in bundle.manifest.files:
        folder = bundle.folder
        raise RunError(f"{folder} has no golden run ({GOLDEN_FILE}): export without --no-golden")
    return read_recording(bundle.verified(GOLDEN_FILE))


def read_recording(path: Path) -> Recording:
    """The run in a safetensors file; RunError where it is none, with the file's name."""
    try:
        header = read_header(path)
        with path.open("rb") as file:
            file.seek(header.start)
            body = file.read()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RunError(f"{path} is no golden run ({error}); export the bundle again") from None
    tensors = _Tensors()
    for name, stored in header.tensors.items():
        if stored.dtype not in _DTYPES:
            raise RunError(f"{path}: '{name}' is {stored.dtype}, expected {' or '.join(_DTYPES)}")
        if not stored.shape:
            raise RunError(f"{path}: '{name}' has no batch axis; export the bundle again")
        start, end = stored.data_offsets
        values = np.frombuffer(body[start:end], _DTYPES[stored.dtype])
        tensors[name] = values.reshape(stored.shape)
    meta = header.metadata
    prompt, negative = (_entry(meta, key, path) for key in ("prompt", "negative_prompt"))
    options = Options(**{key: _option(meta, key, path) for key in _OPTIONS})
    return Recording("golden run", tensors, prompt, negative, options)


def _entry(meta: Mapping[str, str], key: str, path: Path) -> str:
    if key not in meta:
        raise RunError(f"{path} does not say its '{key}'; export the bundle again")
    return meta[key]


def _option(meta: Mapping[str, str], key: str, path: Path) -> Any:
    """An option that the run was made with, from its text; RunError out of its range."""
    if key in _ADDED and key not in meta:
        return None
    value: Any = _entry(meta, key, path)
    with suppress(ValueError):  # its range shows it as it is
        value = float(value) if key in _ADDED else None if value == "default" else int(value)
    return decode(_OPTIONS[key], value, f"{path}: '{key}'")
