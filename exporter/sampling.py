"""The manifest's sampling constants, from the checkpoint's configs."""

import math

import numpy as np
import torch

from exporter.checkpoint.configs import SchedulerConfig
from exporter.checkpoint.open import Checkpoint
from runtimes.bundle.manifest import Denoiser, Sampling
from runtimes.schedule import MAX_POSITIONS, even_timesteps, schedule, timestep_embedding

# diffusers' defaults: WuerstchenCombinedPipeline's guidance, DEFAULT_STAGE_C_TIMESTEPS, 12 steps.
STAGE_C_GUIDANCE = 4.0
STAGE_B_GUIDANCE = 0.0
STAGE_B_STEPS = 12


def stage_c_timesteps() -> list[float]:
    """20 values from 1 to 2/3, then 10 more to 0."""
    coarse, fine = np.linspace(1, 2 / 3, 20), np.linspace(2 / 3, 0, 11)[1:]
    return [float(np.float32(t)) for t in (*coarse, *fine)]


def sampling(checkpoint: Checkpoint, height: int, width: int) -> Sampling:
    """Everything the host needs besides the graphs; `height` and `width` are the default size."""
    constants, stage_b = checkpoint.constants, checkpoint.stage_b.config
    return Sampling(
        resolution_multiple=constants.resolution_multiple,
        latent_dim_scale=constants.latent_dim_scale,
        latent_mean=constants.latent_mean,
        latent_std=constants.latent_std,
        stage_b_multiple=stage_b.multiple,
        stage_a_scale=checkpoint.stage_a.config.scale,
        height=height,
        width=width,
        stage_c=_denoiser(
            checkpoint.stage_c.config.c_in,
            checkpoint.stage_c.config.c_r,
            checkpoint.stage_c_scheduler,
            STAGE_C_GUIDANCE,
            stage_c_timesteps(),
        ),
        stage_b=_denoiser(
            stage_b.c_in,
            stage_b.c_r,
            checkpoint.stage_b_scheduler,
            STAGE_B_GUIDANCE,
            even_timesteps(STAGE_B_STEPS),
        ),
    )


def _denoiser(
    channels: int, c_r: int, scheduler: SchedulerConfig, guidance: float, timesteps: list[float]
) -> Denoiser:
    rows = schedule(timesteps, scheduler.s, scheduler.scaler)
    bare = Denoiser(
        channels=channels,
        s=scheduler.s,
        scaler=scheduler.scaler,
        guidance=guidance,
        timestep_frequencies=_frequencies(c_r),
        timestep_padding=c_r % 2,
        timesteps=tuple(timesteps),
        schedule=rows,
        embeddings=(),
    )
    table = tuple(tuple(timestep_embedding(row.t, bare)[0].tolist()) for row in rows)
    return Denoiser(**(vars(bare) | {"embeddings": table}))


def _frequencies(c_r: int) -> tuple[float, ...]:
    """gen_r_embedding's, by torch itself: NumPy's exp differs from torch's in the last bit."""
    half = c_r // 2
    decay = math.log(MAX_POSITIONS) / (half - 1)
    return tuple(torch.arange(half).float().mul(-decay).exp().tolist())
