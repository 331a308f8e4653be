"""Parts of a picture made anew: what a mask keeps is the picture's own, at every step's level."""

from dataclasses import replace

import numpy as np
import picture_runs
import pytest
import torch
from torch.nn import functional

from runtimes import Options, Start
from runtimes.decibels import decibels
from runtimes.pipeline import Pipeline
from runtimes.plan import make_plan
from runtimes.schedule import even_timesteps
from runtimes.start import cells
from runtimes.tolerances import LIMITS
from validation.demo.drawing import draw
from validation.demo.judge import Judge, score
from validation.demo.scenes import Scene, Thing

OPTIONS = Options(steps=4, decoder_steps=3, seed=8)


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    return picture_runs.make(
        checkpoint(picture_runs.CONFIGURATION), tmp_path_factory.mktemp("made")
    )


@pytest.fixture(scope="module")
def start():
    """Noise of a picture, of which a part that fits no cell is made anew."""
    picture = np.random.default_rng(4).random((1, 3, 128, 128), np.float32)
    mask = np.zeros((128, 128), bool)
    mask[90:, 50:83] = True
    return Start(picture, 1.0, mask)


def pooled(mask, size) -> torch.Tensor:
    """PyTorch's own rule of which pixels a cell has."""
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    return functional.adaptive_max_pool2d(values, size)[0, 0]


def by_stage_a(made, picture: np.ndarray) -> np.ndarray:
    """A picture through the reference's autoencoder, without its vector quantiser."""
    vqgan = made.modules.stage_a
    latents = vqgan.encode(torch.from_numpy(picture), return_dict=False)[0]
    return vqgan.decode(latents).sample.clamp(0, 1).numpy()


@pytest.mark.parametrize("size", [(3, 3), (6, 6), (24, 20), (32, 32), (1, 128), (5, 7)])
def test_a_cell_is_made_anew_where_any_of_its_pixels_is(size):
    mask = np.random.default_rng(5).random((128, 128)) > 0.998
    assert np.array_equal(cells(mask, size), pooled(mask, size).numpy() > 0)


@pytest.mark.parametrize(("strength", "guidance"), [(1.0, 4.0), (0.5, 1.0), (0.0, 4.0)])
def test_a_masked_picture_is_the_one_diffusers_would_make(made, start, strength, guidance):
    options, start = replace(OPTIONS, guidance=guidance), replace(start, strength=strength)
    plan = make_plan(made.manifest.sampling, options, 1, None, start)
    again = {s.name: pooled(start.mask, s.size) for s in (plan.stage_c, plan.stage_b)}
    with made.pipeline() as pipeline:
        found = pipeline("a red ring", options=options, start=start).image
    expected = picture_runs.ByDiffusers(made, plan, start, 8, again)(
        "a red ring", even_timesteps(4)
    )
    error = decibels(float(np.sqrt(((found - expected) ** 2).mean())))
    assert error > LIMITS["fp32"].picture_db


def test_sides_are_not_mixed_up(made):
    """256 wide, 128 high, a mask that reaches over one cell of Stage C."""
    picture = np.random.default_rng(6).random((1, 3, 128, 256), np.float32)
    mask = np.zeros((128, 256), bool)
    mask[10:30, 130:168] = True
    options, start = replace(OPTIONS, height=128, width=256), Start(picture, 0.75, mask)
    plan = make_plan(made.manifest.sampling, options, 1, None, start)
    assert cells(mask, plan.stage_c.size).sum() == 1
    again = {s.name: pooled(mask, s.size) for s in (plan.stage_c, plan.stage_b)}
    with made.pipeline() as pipeline:
        found = pipeline("a red ring", options=options, start=start).image
    expected = picture_runs.ByDiffusers(made, plan, start, 8, again)(
        "a red ring", even_timesteps(4)
    )
    error = decibels(float(np.sqrt(((found - expected) ** 2).mean())))
    assert found.shape == picture.shape and error > LIMITS["fp32"].picture_db


def test_outside_the_mask_is_the_picture_by_stage_a_alone(made, start):
    seen = {}
    with made.pipeline() as pipeline:
        found = pipeline(
            "a red ring",
            options=OPTIONS,
            start=start,
            on_tensors=lambda name, tensors: seen.update({name: tensors}),
        )
    again = cells(start.mask, (32, 32))
    kept, last = seen["stage_a_encoder"]["latents"], seen["stage_b/2"]["latents"]
    assert np.array_equal(last[..., ~again], kept[..., ~again])
    assert (last[..., again] != kept[..., again]).mean() > 0.99
    alone = by_stage_a(made, start.picture)
    # Stage A is a chain of small convolutions: its pixels see a few cells around their own.
    far = ~(functional.max_pool2d(torch.from_numpy(again)[None].float(), 13, 1, 6)[0] > 0).numpy()
    far = far.repeat(4, 0).repeat(4, 1)
    assert far.mean() > 0.3
    error = np.abs(found.image - alone)[..., far].max()
    assert error < LIMITS["fp32"].graph_error


def test_what_is_kept_has_the_noise_of_the_step(made, start):
    """Of diffusers' scheduler, step by step: the first draw of each stage, at the next timestep."""
    seen = {}
    with made.pipeline() as pipeline:
        plan = pipeline(
            "a ring", options=OPTIONS, start=start,
            on_tensors=lambda name, tensors: seen.update({name: tensors}),
        ).plan  # fmt: skip
    from diffusers import DDPMWuerstchenScheduler

    clean = torch.from_numpy(seen["stage_a_encoder"]["latents"])
    noise = torch.from_numpy(seen["stage_b/start"]["latents"])
    again = cells(start.mask, (32, 32))
    for index, t in enumerate(plan.decoder_timesteps[1:-1]):
        expected = DDPMWuerstchenScheduler().add_noise(clean, noise, torch.tensor([t])).numpy()
        found = seen[f"stage_b/{index}"]["latents"]
        assert np.abs(found - expected)[..., ~again].max() < LIMITS["fp32"].graph_error


def test_a_mask_of_everything_and_one_of_nothing(made, start):
    whole = replace(start, mask=np.ones((128, 128), bool))
    none = replace(start, mask=np.zeros((128, 128), bool))
    with made.pipeline() as pipeline:
        free = pipeline("a ring", options=OPTIONS, start=replace(start, mask=None))
        assert np.array_equal(pipeline("a ring", options=OPTIONS, start=whole).image, free.image)
        assert "stage_a_encoder" in made.opened
        kept = pipeline("a ring", options=OPTIONS, start=none)
    alone = by_stage_a(made, start.picture)
    assert np.abs(kept.image - alone).max() < LIMITS["fp32"].graph_error


def test_the_demo_paints_beside_what_it_keeps(bundles):
    """On ONNX Runtime: a ring as Stage A gives it back, and the star asked for beside it."""
    things = {"ring": Thing(5, 0, 1, 5), "star": Thing(3, 4, 1, 3)}  # red on the right, blue left
    drawing = draw(Scene((things["ring"],), 0), np.random.default_rng(0))
    picture = (drawing.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
    mask = np.zeros((128, 128), bool)
    mask[:, :64] = True
    seen, options = {}, Options(seed=[0, 1, 2, 3])
    with Pipeline.open(bundles("demo")) as pipeline:
        found = pipeline(
            ["a large blue star on the left"] * 4,
            options=options,
            start=Start(picture, 1.0, mask),
            on_tensors=lambda name, tensors: seen.update({name: tensors}),
        )
        again = Start(picture, 0.0, np.zeros((128, 128), bool))
        alone = pipeline("", options=Options(decoder_steps=1), start=again)
    kept = seen["stage_a_encoder"]["latents"][..., 16:]  # of 4 pixels each
    assert (seen["stage_b/11"]["latents"][..., 16:] == kept).all()
    assert np.abs(found.image - alone.image)[..., 96:].max() < LIMITS["fp32"].graph_error
    scenes = [Scene(tuple(things.values()), 0)] * 4
    assert score(Judge()(found.pictures), scenes)["pair"] >= 0.75
