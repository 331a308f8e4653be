"""Timesteps, sampling steps and timestep embeddings equal diffusers'."""

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDPMWuerstchenScheduler
from diffusers.pipelines.deprecated.wuerstchen import pipeline_wuerstchen_prior

from exporter.sampling import sampling, stage_c_timesteps
from runtimes.errors import UsageError
from runtimes.schedule import check_timesteps, even_timesteps, schedule, timestep_embedding
from runtimes.tolerances import EMBEDDING, STEP


@pytest.mark.parametrize("steps", [*range(1, 70), 100, 250, 999])
def test_even_timesteps_are_torch_linspace(steps):
    expected = torch.linspace(1.0, 0.0, steps + 1).tolist()
    assert even_timesteps(steps) == expected


def test_default_stage_c_schedule_is_diffusers():
    expected = torch.Tensor(pipeline_wuerstchen_prior.DEFAULT_STAGE_C_TIMESTEPS).tolist()
    assert stage_c_timesteps() == expected
    assert len(expected) == 30  # and the loop stops before the last: 29 evaluations


@pytest.mark.parametrize("scaler", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("s", [0.008, 0.02])
@pytest.mark.parametrize(
    "timesteps", [stage_c_timesteps(), even_timesteps(12), even_timesteps(60), [1.0, 0.5, 0.3]]
)
def test_every_step_equals_the_scheduler(timesteps, s, scaler):
    scheduler = DDPMWuerstchenScheduler(scaler=scaler, s=s)
    scheduler.set_timesteps(timesteps=timesteps)
    rows = schedule(timesteps, s, scaler)
    assert len(rows) == len(timesteps) - 1
    generator = torch.Generator().manual_seed(0)
    for row, t in zip(rows, scheduler.timesteps, strict=False):
        x, epsilon = torch.randn(2, 1, 4, 8, 8, generator=generator)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
        replay = torch.Generator().manual_seed(7)
        expected = scheduler.step(epsilon, t.expand(1), x, generator=replay).prev_sample
        found = row.a * x + row.b * epsilon + row.c * noise
        assert ((found - expected).norm() / expected.norm()).item() < STEP[scaler]


def test_the_last_step_to_zero_adds_no_noise():
    assert schedule(even_timesteps(4), 0.008, 1.0)[-1].c == 0
    assert schedule([1.0, 0.5, 0.1], 0.008, 1.0)[-1].c > 0


@pytest.mark.parametrize("name", list(tiny.TINY))
def test_timestep_embedding_equals_the_reference(checkpoint, name):
    """c_r odd among them; the manifest's table holds the same values."""
    constants = sampling(checkpoint(name), 128, 128)
    for denoiser, module in (
        (constants.stage_c, tiny.reference(name).stage_c),
        (constants.stage_b, tiny.reference(name).stage_b),
    ):
        t = torch.tensor(denoiser.timesteps[:-1])
        expected = module.gen_r_embedding(t).numpy()
        found = np.concatenate([timestep_embedding(row.t, denoiser) for row in denoiser.schedule])
        assert np.abs(found - expected).max() < EMBEDDING
        assert np.array_equal(np.array(denoiser.embeddings, np.float32), found)


def test_tables_are_the_default_schedules(checkpoint):
    constants = sampling(checkpoint("public"), 128, 128)
    assert len(constants.stage_c.schedule) == 29
    assert len(constants.stage_b.schedule) == 12
    again = schedule(constants.stage_b.timesteps, 0.008, 1.0)
    assert again == constants.stage_b.schedule


@pytest.mark.parametrize("bad", [[1.0], [0.5, 0.5], [0.2, 0.8], [1.5, 0.0], [1.0, -0.1]])
def test_custom_timesteps_must_descend(bad):
    with pytest.raises(UsageError, match="--timesteps needs"):
        check_timesteps(bad, "--timesteps")
