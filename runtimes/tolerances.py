"""The one table of limits, with the reason for each number."""

from collections.abc import Iterable
from dataclasses import dataclass

from runtimes.decibels import decibels
from runtimes.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """What a bundle of one precision must reach against the fp32 reference.

    `graph_error`: relative error (L2) of each graph's outputs on the reference's own inputs, the
    worst over all steps. `latent_db`: SQNR of the latents after each step of a free-running
    trajectory on the same noise, the worst step. `picture_db`: PSNR of the picture.
    """

    graph_error: float
    latent_db: float
    picture_db: float

    @property
    def graph_db(self) -> float:
        """`graph_error` as SQNR, for what is told in decibels."""
        return decibels(self.graph_error)


LIMITS = {
    # fp32 rounding accumulates to 1e-7..3e-6 over the deepest graph; ten times that is a fault.
    # A trajectory amplifies its graphs' errors by guidance and 41 steps: 80 dB is 1e-4 relative.
    # 60 dB is an RMS error of a quarter of one of 255 levels.
    "fp32": Limits(graph_error=1e-5, latent_db=80.0, picture_db=60.0),
    # fp16 keeps 11 bits (66 dB); with fp32 reductions a step stays above 50 dB, and what 41 steps
    # make of that stays above 40 dB, where a picture's differences are below one level.
    "fp16": Limits(graph_error=10 ** (-50 / 20), latent_db=40.0, picture_db=40.0),
    # Rounding the weights alone is half of that error's power.
    "fp16-weights": Limits(graph_error=10 ** (-50 / 20), latent_db=40.0, picture_db=40.0),
    # bf16 keeps 8 bits (48 dB); the last steps magnify rounding, and 35 dB is what the design asks
    # of the worst. Steps with more noise are better than that, so that a trajectory is held to
    # 30 dB: an error of 3 %, of no more than a few of 255 levels.
    "bf16": Limits(graph_error=10 ** (-35 / 20), latent_db=30.0, picture_db=30.0),
    # Against the checkpoint itself: 8-bit weights keep 35 dB in the worst step, 8-bit activations
    # too 30 dB, 4-bit weights 20 dB; trajectories and pictures are held to 10 dB less. These alone
    # do not tell a wrong picture: 9 % of the pairs of pictures of *different* demo prompts are
    # within 20 dB of each other, 38 % within 10 dB. The steps' limits do, and the judge.
    "int8-weights": Limits(graph_error=10 ** (-35 / 20), latent_db=25.0, picture_db=25.0),
    "int8": Limits(graph_error=10 ** (-30 / 20), latent_db=20.0, picture_db=20.0),
    "int8-dynamic": Limits(graph_error=10 ** (-30 / 20), latent_db=20.0, picture_db=20.0),
    "int4-weights": Limits(graph_error=10 ** (-20 / 20), latent_db=10.0, picture_db=10.0),
    # Tables by k-means. 256 and 16 values are as exact as 8-bit and 4-bit integers with a scale per
    # channel or group, and held to the same: 43 and 20 dB for normally distributed weights. 64
    # values are 32 dB off those, 10 to 11 dB less than 256, and so is what they are held to.
    "palette8": Limits(graph_error=10 ** (-35 / 20), latent_db=25.0, picture_db=25.0),
    "palette6": Limits(graph_error=10 ** (-25 / 20), latent_db=15.0, picture_db=15.0),
    "palette4": Limits(graph_error=10 ** (-20 / 20), latent_db=10.0, picture_db=10.0),
    # Whatever average was asked for: what the smallest uniform presets are held to is the least
    # that makes the same pictures. Averages that miss it are too small for the model.
    "mixed-bits": Limits(graph_error=10 ** (-20 / 20), latent_db=10.0, picture_db=10.0),
}

# The same seed through diffusers' pipeline and ours: rounding to 255 levels may differ by one.
SAME_SEED_LEVELS = 1
# Noise against torch.randn, absolute: torch computes Box-Muller in single precision, a few units in
# the last place of values up to 5.
NOISE = 2e-6
# A sampling step against the scheduler's, relative, by the schedule's scaler. It is a few fp32
# operations; near t = 0 the difference 1 - alpha loses digits. With a scaler, torch's pow is off by
# one unit in the last place, which near t = 1, where the cosine is 0.01, moves a step by 1.6e-5.
# All public checkpoints have scaler 1.
STEP = {1.0: 5e-6, 2.0: 3e-5, 0.5: 3e-5}
# Timestep embeddings, absolute: sin and cos of equal fp32 angles, whose last bit may differ.
EMBEDDING = 1e-6
# A manifest's tabulated steps against its own constants, absolute: values up to 100, whose last
# bits are another machine's cosine.
SCHEDULE = 1e-4
# Latents of a replayed run, absolute: the first step magnifies noise, and so its last bits, up to
# 100 times. The machine that recorded the run gets 0, a wrong seed more than 100.
REPLAYED_LATENTS = 1e-3

# A picture's pixels, 0..1, resized by Pillow against PyTorch in fp64, absolute: Pillow keeps the
# edges of what is cut out in fp32, some 1e-5 of a pixel. PyTorch's own fp32 is off by 5e-6.
RESIZE = 2e-6
# SSIM against scikit-image's, absolute: sums of 121 products of up to 255^2 in fp64, in another
# order, and a difference of two of them.
SSIM = 1e-9


def limits_for(precision: str) -> Limits:
    """The limits of a precision; UsageError when the table has none."""
    if precision not in LIMITS:
        raise UsageError(f"no limits are set for precision '{precision}' ({', '.join(LIMITS)} are)")
    return LIMITS[precision]


def loosest(precisions: Iterable[str]) -> Limits:
    """Of each limit the loosest among the precisions that went into a result.

    Limit by limit, for two precisions may be alike in one of them: bf16 and int8-weights are.
    """
    limits = [limits_for(name) for name in precisions]
    return Limits(
        graph_error=max(limit.graph_error for limit in limits),
        latent_db=min(limit.latent_db for limit in limits),
        picture_db=min(limit.picture_db for limit in limits),
    )
