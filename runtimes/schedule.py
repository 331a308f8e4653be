"""Timesteps, the linear sampling steps between them, and the timestep embedding.

The arithmetic follows diffusers' DDPMWuerstchenScheduler in fp32, operation by operation: a
timestep that differs in its last bit moves the embedding's angles, up to 10000, by 6e-4.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.host import SCHEDULE
from runtimes.bundle.manifest import Denoiser, Row
from runtimes.errors import UsageError

Array = NDArray[np.float32]
MOST_STEPS = 10_000  # as in manifests (runtimes.bundle.values): hours of computing
MAX_POSITIONS = SCHEDULE.timestep_scale


def even_timesteps(steps: int) -> list[float]:
    """`steps` even steps from 1 to 0: steps + 1 values, bit-equal to torch.linspace(1, 0)."""
    if steps < 1:
        raise UsageError(f"the number of steps is {steps}; it must be at least 1")
    count = steps + 1
    index = np.arange(count)
    # torch computes the first half from the start and the second from the end, with one rounding.
    step = np.float64(np.float32(-1) / np.float32(steps))
    rising = (1 + step * index).astype(np.float32)
    falling = (0 - step * (steps - index)).astype(np.float32)
    return [float(t) for t in np.where(index < count // 2, rising, falling)]


def check_timesteps(timesteps: Sequence[float], flag: str) -> list[float]:
    """Custom timesteps as fp32 values, or UsageError when they do not descend within 1..0."""
    values = [float(np.float32(t)) for t in timesteps]
    descending = all(first > second for first, second in pairwise(values))
    if len(values) < 2 or not descending or values[0] > 1 or values[-1] < 0:
        raise UsageError(f"{flag} needs two or more values, strictly descending, from 1 to 0")
    return values


def alpha_cumprod(t: Array, s: float, scaler: float) -> Array:
    """The cosine schedule's signal share, clamped to 1e-4..0.9999; t in 0..1."""
    one, half_pi, offset = np.float32(1), np.float32(np.pi) * np.float32(0.5), np.float32(s)
    if scaler > 1:
        t = one - (one - t) ** np.float32(scaler)
    elif scaler < 1:
        t = t ** np.float32(scaler)
    start = _cos(offset / (one + offset) * half_pi) ** 2
    share: Array = _cos((t + offset) / (one + offset) * half_pi) ** 2 / start
    return np.clip(share, *SCHEDULE.alpha_clamp)


def _cos(angle: Array | np.float32) -> Array:
    # Through fp64, so that the result is the correctly rounded one on every machine.
    return np.cos(np.asarray(angle, dtype=np.float64)).astype(np.float32)


def schedule(timesteps: Sequence[float], s: float, scaler: float) -> tuple[Row, ...]:
    """The steps between consecutive timesteps: x' = a*x + b*epsilon + c*noise, c = 0 at t' = 0."""
    t = np.array(timesteps, dtype=np.float32)
    share = alpha_cumprod(t, s, scaler)
    # a, b and c as in the manifest's Row; fp32 at every operation, which decides the last bit.
    now, then, one = share[:-1], share[1:], np.float32(1)
    alpha = now / then
    a = np.sqrt(one / alpha)
    b = -a * (one - alpha) / np.sqrt(one - now)
    c = np.sqrt((one - alpha) * (one - then) / (one - now)) * (t[1:] != 0)
    columns = zip(t[:-1], a, b, c, strict=True)
    return tuple(Row(*(float(value) for value in row)) for row in columns)


def timestep_embedding(t: float, denoiser: Denoiser) -> Array:
    """The embedding (1, c_r) of one timestep, fp32 (gen_r_embedding in diffusers)."""
    frequencies = np.array(denoiser.timestep_frequencies, dtype=np.float32)
    angle = (np.float32(t) * np.float32(MAX_POSITIONS) * frequencies).astype(np.float64)
    padding = np.zeros(denoiser.timestep_padding)
    return np.concatenate([np.sin(angle), np.cos(angle), padding])[None].astype(np.float32)
