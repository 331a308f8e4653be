"""A recorded run: every graph's tensors by name, from a bundle's golden file or the reference.

Names are '<graph>.<tensor>', '<denoiser>/start.latents' and, per step, '<denoiser>/<step>.epsilon'
(the graph's own output), '.noise' and '.latents' (after the step).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.manifest import DENOISERS, GOLDEN_FILE
from runtimes.bundle.read import Bundle
from runtimes.errors import RunError
from runtimes.plan import Options

_DTYPES = {"F32": np.float32, "I64": np.int64}


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


def read_golden(bundle: Bundle) -> Recording:
    """A bundle's golden run, verified. NumPy alone reads it, so that any host with Python can."""
    if GOLDEN_FILE not in bundle.manifest.files:
        folder = bundle.folder
        raise RunError(f"{folder} has no golden run ({GOLDEN_FILE}): export without --no-golden")
    path = bundle.verified(GOLDEN_FILE)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        body = file.read()
    meta = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        dtype = _DTYPES[entry["dtype"]]
        tensors[name] = np.frombuffer(body[start:end], dtype).reshape(entry["shape"])
    options = Options(
        seed=int(meta["seed"]),
        steps=_count(meta["steps"]),
        decoder_steps=_count(meta["decoder_steps"]),
        height=int(meta["height"]),
        width=int(meta["width"]),
        guidance=_scale(meta, "guidance"),
        decoder_guidance=_scale(meta, "decoder_guidance"),
    )
    return Recording("golden run", tensors, meta["prompt"], meta["negative_prompt"], options)


def _scale(meta: Mapping[str, str], key: str) -> float | None:
    """A guidance scale; None, the manifest's, in runs recorded before they said it."""
    return float(meta[key]) if key in meta else None


def _count(text: str) -> int | None:
    return None if text == "default" else int(text)
