"""Previews: what Stage C has made of a picture so far, as small pictures, while it runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.host import PICTURE
from runtimes.bundle.manifest import Denoiser, Manifest, PictureSide
from runtimes.engines.base import Placement
from runtimes.engines.table import Sessions
from runtimes.errors import UsageError
from runtimes.images import to_uint8
from runtimes.memory import Usage, peak_bytes
from runtimes.plan import Stage
from runtimes.sampler import Step, advice_for, check_finite
from runtimes.schedule import alpha_cumprod

Array = NDArray[np.float32]
GRAPH = "preview"
# Step, from 1, steps in all, and pictures (B,h',w',3) of 8 bits.
OnPreview = Callable[[int, int, NDArray[np.uint8]], None]


@dataclass(frozen=True)
class Previews:
    """Who is shown previews: `show` is, of every `every`-th step of Stage C and of the last."""

    show: OnPreview
    every: int = 1

    def wanted(self, step: int, total: int) -> bool:
        """Whether step number `step`, from 1, is shown."""
        return step % self.every == 0 or step == total


def preview_kind(manifest: Manifest, bundle: str = "BUNDLE") -> str:
    """What makes the previews of a bundle, called so: 'graph', else 'linear'.

    UsageError where nothing can.
    """
    if GRAPH in manifest.graphs:
        return "graph"
    if manifest.picture_side is not None and manifest.picture_side.linear_preview:
        return "linear"
    raise UsageError(
        f"this bundle has no graph '{GRAPH}' and no linear map for previews; add one: python -m "
        f"exporter {bundle} --resume --modules {GRAPH}"
    )


class Previewer:
    """Makes and shows the previews of one run; `usage` and `placement` as of the graphs' own."""

    def __init__(self, manifest: Manifest, sessions: Sessions, previews: Previews) -> None:
        self._sessions, self._previews = sessions, previews
        self._precision = manifest.graphs[GRAPH].precision if GRAPH in manifest.graphs else None
        self._weights = (manifest.picture_side or PictureSide()).linear_preview
        self.usage = Usage()
        self.placement = Placement("NumPy", "cpu", "f32", ("linear map",))

    def __call__(self, stage: Stage, step: Step, before: Array) -> None:
        """Show what the latents `before` a step are expected to become, where that is due."""
        number, total = step.index + 1, len(stage.rows)
        if not self._previews.wanted(number, total):
            return
        start = time.perf_counter()
        latents = denoised(before, step.epsilon, stage.rows[step.index].t, stage.denoiser)
        if self._precision is None:
            pictures = linear_pictures(latents, self._weights)
        else:
            where = f"{GRAPH} after step {number} of {total}"
            pictures = self._decoded(latents, self._precision, where)
        self._previews.show(number, total, to_uint8(pictures))
        self.usage.seconds += time.perf_counter() - start
        self.usage.peak_bytes = peak_bytes()  # since Stage C began

    def _decoded(self, latents: Array, stored: str, where: str) -> Array:
        with self._sessions.using(GRAPH) as engine:
            image = engine.run({"latents": latents})["image"].astype(np.float32, copy=False)
            self.placement = engine.placement
            self.usage.load_seconds += engine.load_seconds
            engine.load_seconds = 0.0
        check_finite(image, where, advice_for(stored, self.placement.precision, {}))
        return np.clip(image, *PICTURE.clamp)


def denoised(latents: Array, epsilon: Array, t: float, denoiser: Denoiser) -> Array:
    """What the latents (B,C,h,w) at timestep t are expected to become: x0 of `epsilon`'s noise.

    The latents themselves are noise until the last steps, and so would be their previews. Of guided
    steps, `epsilon` is the conditional half (the first B rows): what it makes of them is the mean
    of what may come. Guidance moves it far beyond that while t is large (docs/hosting.md has the
    figures).
    """
    share = alpha_cumprod(np.array([t], np.float32), denoiser.s, denoiser.scaler)[0]
    noise = np.sqrt(np.float32(1) - share) * epsilon[: len(latents)]
    return (latents - noise) / np.sqrt(share)


def linear_pictures(latents: Array, weights: tuple[tuple[float, ...], ...]) -> Array:
    """A pixel of each cell, (B,3,h,w) in 0..1; `weights` as in the manifest's PictureSide."""
    rows = np.array(weights, np.float32)
    mixed = np.einsum("kc,bchw->bkhw", rows[:, :-1], latents) + rows[:, -1][:, None, None]
    return np.clip(mixed, 0, 1)
