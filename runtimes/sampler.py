"""The denoising loop: one function over an injected denoiser and an injected noise source."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import RunError
from runtimes.noise import NoiseSource
from runtimes.plan import Stage
from runtimes.schedule import timestep_embedding
from runtimes.start import AfterStep

Array = NDArray[np.float32]
# What to do about a bundle that computes what it should not.
CHECK_BUNDLE = (
    "check the bundle with --verify, then against its checkpoint with 'python -m validation'"
)
# Pictures are made with scales up to 20 or so; fp32's latents overflow from some 1e18 on, fp16's
# graphs much earlier.
EXTREME_GUIDANCE = 100.0
# latents (B,C,H,W), timestep_embedding (B,c_r) -> epsilon (B,C,H,W); B doubled under guidance
Denoise = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Step:
    """One finished step: the graph's own output (doubled under guidance), noise, new latents."""

    index: int
    epsilon: Array
    noise: Array
    latents: Array


def sample(
    denoise: Denoise,
    stage: Stage,
    latents: Array,
    noise: NoiseSource,
    advice: str = "",
    after_step: AfterStep | None = None,
) -> Iterator[Step]:
    """Denoise `latents` (B,C,H,W) along the stage's schedule, one Step at a time.

    Guidance above 1 runs the conditional half, then the unconditional half, in one batch and
    extrapolates, as diffusers does. Noise is drawn at every step, the last one included, where
    it is multiplied by 0: the next stage goes on drawing from the same source. Raises NotFinite
    naming stage and step when epsilon or the new latents are not finite; `advice` says what to do
    about it. `after_step` changes the latents that a step ends with, as a mask does.
    """
    for index, row in enumerate(stage.rows):
        batch = np.concatenate([latents, latents]) if stage.guided else latents
        embedding = np.repeat(timestep_embedding(row.t, stage.denoiser), len(batch), axis=0)
        epsilon = denoise(batch, embedding)
        where = place_of(stage, index)
        check_finite(epsilon, where, advice)
        drawn = noise.draw(latents.shape)  # also in the last step: see above
        # In fp32 throughout: NumPy does not let Python floats widen an array.
        with np.errstate(over="ignore", invalid="ignore"):  # said in words below
            latents = row.a * latents + row.b * _guided(epsilon, stage) + row.c * drawn
        check_finite(latents, where, advice)
        if after_step is not None:
            latents = after_step(index, latents)
        yield Step(index, epsilon, drawn, latents)


def place_of(stage: Stage, index: int) -> str:
    """A step in words, for messages; steps count from 1 there."""
    return f"{stage.name}, step {index + 1} of {len(stage.rows)} (t = {stage.rows[index].t:.4f})"


def _guided(epsilon: Array, stage: Stage) -> Array:
    """Classifier-free guidance: (2B,...) conditional then unconditional to (B,...)."""
    if not stage.guided:
        return epsilon
    conditional, unconditional = np.split(epsilon, 2)
    return unconditional + stage.guidance * (conditional - unconditional)


class NotFinite(RunError):
    """A graph gave NaN or Inf."""


def check_finite(values: Array, where: str, advice: str = "") -> None:
    """NotFinite when a graph gave NaN or Inf, with what to do about it."""
    if not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise NotFinite(
            f"{where} gave {bad} of {values.size} values that are NaN or infinite"
            + (f"; {advice}" if advice else "")
        )


def advice_for(stored: str, computed: str, guidance: Mapping[str, float]) -> str:
    """What to do about values that are not finite.

    `stored` is the graph's precision in the bundle, `computed` the engine's; `guidance` has the
    scales that had a part in it, by the option that sets them.
    """
    for option, scale in guidance.items():
        if scale > EXTREME_GUIDANCE:
            return f"lower {option}, which is {scale:g}"
    if stored != "fp32":
        return "run a bundle of higher precision, and check this one with 'python -m validation'"
    if computed != "f32":
        return "compute with --execution-precision f32"
    return f"the weights themselves hold such values, or a file is damaged: {CHECK_BUNDLE}"
