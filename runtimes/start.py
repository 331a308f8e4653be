"""Runs that start from a picture: its noised latents, and the parts of it that are kept.

Picture to picture skips the first steps of Stage C and starts from what the picture's latents would
look like there (diffusers' `add_noise` and its count of steps). A mask puts the picture's own
latents back after every step of both stages, at the noise level just reached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.host import Sizes
from runtimes.bundle.manifest import Denoiser, Manifest
from runtimes.errors import UsageError
from runtimes.schedule import alpha_cumprod

Array = NDArray[np.float32]
STRENGTH = 0.6  # of a picture as a whole
MASKED_STRENGTH = 1.0  # of what a mask gives to be made anew
# The step's index and its latents (B,C,H,W) -> the latents to go on with.
AfterStep = Callable[[int, Array], Array]


@dataclass(frozen=True)
class Start:
    """The picture that a run starts from.

    `picture`: fp32 (1,3,H,W), or one a prompt, in 0..1, at the size that the run makes
    (runtimes.pictures.fit). `strength`, 0..1: the share of Stage C's steps that run; 0 runs none,
    which reconstructs the picture. `mask`: (H,W), True where it is made anew; None: everywhere.
    """

    picture: Array
    strength: float = STRENGTH
    mask: NDArray[np.bool_] | None = None

    @property
    def graphs(self) -> tuple[str, ...]:
        """What such a run takes of a bundle beside the graphs of every run."""
        return graphs_of_start(masked=self.mask is not None)


def graphs_of_start(*, masked: bool) -> tuple[str, ...]:
    """The optional graphs that a run from a picture takes: what is kept is Stage B's, too."""
    return ("compressor", "stage_a_encoder") if masked else ("compressor",)


def check_start(start: Start, sizes: Sizes, count: int) -> None:
    """UsageError where a run of `count` prompts, of these sizes, cannot start so."""
    check_strength(start.strength)
    height, width = sizes.picture
    rows, *shape = start.picture.shape or (0,)
    if start.picture.dtype != np.float32 or shape != [3, height, width] or rows not in (1, count):
        raise UsageError(
            f"the picture to start from is {start.picture.dtype} {start.picture.shape}; this run "
            f"takes float32 (B, 3, {height}, {width}), B = 1 or a picture for each of the "
            f"{count} prompts: runtimes.pictures.fit gives it without B"
        )
    if not (start.picture.min() >= 0 and start.picture.max() <= 1):  # NaN, too
        raise UsageError("the picture to start from has values that are not within 0..1")
    if start.mask is None:
        return
    if start.mask.dtype != np.bool_ or start.mask.shape != (height, width):
        raise UsageError(
            f"the mask is {start.mask.dtype} {start.mask.shape}; this run takes bool "
            f"({height}, {width}), as runtimes.pictures.fit_mask gives it"
        )


def check_strength(strength: float) -> None:
    """UsageError for a strength that is not within 0..1."""
    if not 0 <= strength <= 1:
        raise UsageError(
            f"--strength is {strength:g}; it is from 0 (the picture again) to 1 (noise alone)"
        )


def check_picture_graphs(manifest: Manifest, graphs: Sequence[str], bundle: str = "BUNDLE") -> None:
    """UsageError for a bundle, called so, that lacks an optional graph that a run needs."""
    missing = [name for name in graphs if name not in manifest.graphs]
    if missing:
        raise UsageError(
            f"this bundle has no {' and no '.join(missing)}, which a run from a picture takes; add "
            f"what is missing: python -m exporter {bundle} --resume --modules {' '.join(missing)}"
        )
    if "compressor" in graphs:
        compressor_stride(manifest)


def compressor_stride(manifest: Manifest) -> int:
    """Pixels of the compressor's picture per cell of Stage C; UsageError where nobody says."""
    side = manifest.picture_side
    if side is None or side.compressor_stride is None:
        raise UsageError(
            "this bundle does not say how large a picture its compressor reads "
            "(picture_side.compressor_stride); export it again"
        )
    return side.compressor_stride


def last_timesteps(timesteps: Sequence[float], strength: float) -> list[float]:
    """Of n steps the last int(n * strength), as in diffusers: their start, and where each ends."""
    steps = len(timesteps) - 1
    taken = min(int(steps * strength), steps)
    return list(timesteps[steps - taken :])


def noised(clean: Array, noise: Array, t: float, denoiser: Denoiser) -> Array:
    """Latents (B or 1,C,H,W) as they are at timestep t, where the noise is (B,C,H,W).

    sqrt(abar) * clean + sqrt(1 - abar) * noise (DDPMWuerstchenScheduler.add_noise), in fp32.
    """
    share = alpha_cumprod(np.array([t], np.float32), denoiser.s, denoiser.scaler)
    return np.sqrt(share) * clean + np.sqrt(np.float32(1) - share) * noise


def cells(mask: NDArray[np.bool_], size: Sequence[int]) -> NDArray[np.bool_]:
    """A mask (H,W) in cells of the latents: True where any pixel that touches the cell is.

    Stage C's cells are no whole number of pixels: a pixel on an edge touches both.
    """
    for axis, count in enumerate(size):
        pixels = mask.shape[axis]
        parts = [
            mask.take(range(i * pixels // count, -(-(i + 1) * pixels // count)), axis).any(axis)
            for i in range(count)
        ]
        mask = np.stack(parts, axis)
    return mask


def keeping(
    start: Start | None,
    clean: Array | None,
    noise: Array,
    timesteps: Sequence[float],
    denoiser: Denoiser,
) -> AfterStep | None:
    """What puts a stage's `clean` latents (1 or B,C,h,w) back where a start's mask keeps them.

    With the noise (B,C,h,w) that the stage starts from, at the level of the timestep that a step
    ends at; after the last step without any. None where there is nothing to keep.
    """
    if start is None or start.mask is None or clean is None:
        return None
    again = cells(start.mask, noise.shape[-2:])

    def after_step(index: int, latents: Array) -> Array:
        last = index == len(timesteps) - 2
        kept = clean if last else noised(clean, noise, timesteps[index + 1], denoiser)
        return np.where(again, latents, kept)

    return after_step
