"""Runs that start from a picture, against diffusers' scheduler and modules on the same noise."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import picture_runs
import pytest
import torch
from diffusers import DDPMWuerstchenScheduler
from PIL import Image

from runtimes import Options, Start, UsageError
from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.cli import main
from runtimes.decibels import decibels
from runtimes.engines.base import Footprint
from runtimes.errors import RunError
from runtimes.estimate import Need
from runtimes.images import read_parameters
from runtimes.noise import TorchNoise
from runtimes.plan import make_plan
from runtimes.schedule import even_timesteps
from runtimes.start import last_timesteps, noised
from runtimes.tolerances import LIMITS, STEP

OPTIONS = Options(steps=5, decoder_steps=3)


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    return picture_runs.make(
        checkpoint(picture_runs.CONFIGURATION), tmp_path_factory.mktemp("made")
    )


@pytest.fixture(scope="module")
def picture():
    """(1,3,128,128), smooth and not symmetric."""
    y, x = np.mgrid[0:128, 0:128] / np.float32(127)
    return np.stack([x, y, x * y])[None].astype(np.float32)


def psnr(one, other) -> float:
    return decibels(float(np.sqrt(((one - other) ** 2).mean())))


# The arithmetic


@pytest.mark.parametrize("scaler", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("t", [1.0, 0.9824561, 0.5, 0.0666667, 0.0])
def test_noise_is_added_as_the_scheduler_does(made, scaler, t):
    clean, noise = (
        torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(i)) for i in (0, 1)
    )
    scheduler = DDPMWuerstchenScheduler(scaler=scaler)
    expected = scheduler.add_noise(clean, noise, torch.tensor([t, t])).numpy()
    denoiser = replace(made.manifest.sampling.stage_c, s=0.008, scaler=scaler)
    found = noised(clean.numpy(), noise.numpy(), t, denoiser)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < STEP[scaler] * np.abs(expected).max()


@pytest.mark.parametrize("steps", [1, 2, 10, 29, 100])
@pytest.mark.parametrize("strength", [0.0, 0.01, 0.29, 0.3, 0.6, 0.7, 0.99, 1.0])
def test_steps_are_counted_as_diffusers_counts_them(steps, strength):
    """StableDiffusionImg2ImgPipeline.get_timesteps, for a scheduler of order 1."""
    from diffusers import StableDiffusionImg2ImgPipeline

    timesteps = even_timesteps(steps)
    scheduler = SimpleNamespace(timesteps=torch.tensor(timesteps[:-1]), order=1)
    of_diffusers = StableDiffusionImg2ImgPipeline.get_timesteps
    expected, _ = of_diffusers(SimpleNamespace(scheduler=scheduler), steps, strength, "cpu")
    found = last_timesteps(timesteps, strength)
    assert found[:-1] == pytest.approx(expected.tolist(), abs=0) and found[-1] == 0


@pytest.mark.parametrize(("strength", "guidance"), [(0.0, 4.0), (0.4, 4.0), (0.8, 1.0), (1.0, 2.0)])
def test_a_picture_is_the_one_diffusers_would_make(made, picture, strength, guidance):
    options, start = replace(OPTIONS, seed=11, guidance=guidance), Start(picture, strength)
    plan = make_plan(made.manifest.sampling, options, 1, None, start)
    assert len(plan.stage_c.rows) == int(5 * strength)
    with made.pipeline() as pipeline:
        found = pipeline("a red ring", options=options, start=start)
    expected = picture_runs.ByDiffusers(made, plan, start, 11, {})("a red ring", even_timesteps(5))
    assert psnr(found.image, expected) > LIMITS["fp32"].picture_db
    assert found.image.std() > 0.01


# The run


def test_a_run_without_a_picture_is_as_before(made):
    """The same graphs in the same order; the first latents are the seed's own noise."""
    seen = {}
    with made.pipeline() as pipeline:
        pipeline(
            "a ring", options=OPTIONS, on_tensors=lambda name, found: seen.update({name: found})
        )
    assert not {"compressor", "stage_a_encoder"} & {*seen, *made.opened}
    first = seen["stage_c/start"]["latents"]
    assert np.array_equal(first, TorchNoise(0).draw(first.shape))


def test_strength_0_runs_no_step_of_stage_c_and_needs_none_of_its_graphs(made, picture):
    results = []
    for seed in (1, 2):
        with made.pipeline() as pipeline:
            options = replace(OPTIONS, seed=seed)
            results.append(pipeline("a ring", options=options, start=Start(picture, 0)))
    expected = ["compressor", "decoder_text_encoder", "stage_b_condition", "stage_b", "stage_a"]
    assert made.opened == expected
    assert np.array_equal(results[0].latents, results[1].latents)  # the picture's own
    assert list(results[0].usage) == list(results[0].placements) == expected


def test_all_prompts_start_from_one_picture_which_is_read_once(made, picture):
    rows = []
    with made.pipeline() as pipeline:
        found = pipeline(
            ["a ring", "a star"],
            options=replace(OPTIONS, seed=[3, 4]),
            start=Start(picture, 0.4),
            on_tensors=lambda name, t: rows.append(len(t["image"])) if name == "compressor" else 0,
        )
        alone = pipeline("a star", options=replace(OPTIONS, seed=[4]), start=Start(picture, 0.4))
    assert rows == [1]
    assert psnr(found.image[1:], alone.image) > LIMITS["fp32"].picture_db
    with made.pipeline(low_memory=True) as pipeline:  # and each prompt from its own
        own = Start(np.concatenate([1 - picture, picture]), 0.4)
        each = pipeline(["a ring", "a star"], options=replace(OPTIONS, seed=[3, 4]), start=own)
    assert psnr(each.image[1:], alone.image) > LIMITS["fp32"].picture_db
    assert psnr(each.image[0], found.image[0]) < LIMITS["fp32"].picture_db


def test_graphs_of_fixed_shape_read_the_picture_once_for_each_prompt(made, picture):
    graph = made.manifest.graphs["compressor"]
    image = replace(graph.inputs[0], shape=(2, 3, 24, 24))
    graphs = made.manifest.graphs | {"compressor": replace(graph, inputs=(image,))}
    fixed, rows = replace(made, manifest=replace(made.manifest, graphs=graphs)), []
    with fixed.pipeline() as pipeline:
        pipeline(
            ["a ring", "a star"],
            options=OPTIONS,
            start=Start(picture, 0.2),
            on_tensors=lambda name, t: rows.append(len(t["image"])) if name == "compressor" else 0,
        )
        assert rows == [2]
        with pytest.raises(UsageError, match="compressor was exported for a batch of 2"):
            pipeline("a ring", options=OPTIONS, start=Start(picture, 0.2))


def test_a_compressor_that_gives_no_numbers_is_named(made, picture):
    _, *names = made.pictures["compressor"]
    spoilt = {"compressor": (lambda x: torch.full((1, 16, 3, 3), torch.nan), *names)}
    pipeline = replace(made, pictures=made.pictures | spoilt).pipeline()
    with pipeline, pytest.raises(RunError, match=r"compressor \(image_embedding\) gave 144 of 144"):
        pipeline("a ring", options=OPTIONS, start=Start(picture))


def test_memory_is_asked_for_the_graphs_that_run(made, picture):
    def graphs(start):
        plan = make_plan(made.manifest.sampling, OPTIONS, 1, None, start)
        return set(Need(made.manifest, Footprint(), plan, 1).graphs)

    without = graphs(None)
    assert without == {*made.manifest.graphs} - {"compressor", "stage_a_encoder"}
    assert graphs(Start(picture)) == without | {"compressor"}
    mask = np.ones((128, 128), bool)
    assert graphs(Start(picture, mask=mask)) == {*made.manifest.graphs}


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (lambda p: Start(p, 1.01), r"--strength is 1.01; it is from 0 .* to 1"),
        (lambda p: Start(p, float("nan")), r"--strength is nan"),
        (
            lambda p: Start(p[..., :64]),
            r"\(1, 3, 128, 64\); this run takes float32 \(B, 3, 128, 128",
        ),
        (lambda p: Start(p[0]), r"takes float32 \(B, 3, 128, 128\)"),
        (lambda p: Start(p.astype(np.float64)), "is float64"),
        (lambda p: Start(p.repeat(3, 0)), r"\(3, 3, 128, 128\); this run takes"),
        (lambda p: Start(2 * p), "values that are not within 0..1"),
        (lambda p: Start(p * np.float32("nan")), "values that are not within 0..1"),
        (lambda p: Start(p, mask=np.ones((64, 64), bool)), r"takes bool \(128, 128\)"),
        (lambda p: Start(p, mask=np.ones((128, 128), np.uint8)), "the mask is uint8"),
    ],
)
def test_what_no_run_can_start_from(made, picture, start, message):
    with made.pipeline() as pipeline, pytest.raises(UsageError, match=message):
        pipeline("a ring", options=OPTIONS, start=start(picture))
    assert made.opened == []


# The command line


OF_A_SHARD = ["--image", "out-001.png", "-o", "out.png", "--shard", "1/2"]


@pytest.fixture
def command(made, tmp_path, monkeypatch, capsys):
    """`python -m runtimes` on what was made, in a folder of its own, with files in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text("{}")
    ramp = np.linspace(0, 255, 120 * 200 * 3).reshape(120, 200, 3).astype(np.uint8)
    for name in ("in.png", "out-001.png"):
        Image.fromarray(ramp).save(name)
    mask = Image.fromarray(np.repeat([[0, 255]], 120, 0).repeat(100, 1).astype(np.uint8))
    mask.save("mask.png")
    bundle = SimpleNamespace(folder=tmp_path, manifest=made.manifest)
    monkeypatch.setattr("runtimes.cli._open_bundle", lambda args: bundle)
    monkeypatch.setattr("runtimes.cli.open_pipeline", lambda bundle, args: made.pipeline())

    def run(*words, manifest=None):
        bundle.manifest = manifest or made.manifest
        code = main(["bundle", *map(str, words), "--steps", "5", "--decoder-steps", "2"])
        return code, *capsys.readouterr()

    return run


def test_the_command_says_what_it_did(command, made):
    code, out, _ = command("a ring", "--image", "in.png", "--fit", "pad", "-o", "a.png")
    assert code == 0
    line = "from in.png (120 x 200, padded to 128 x 128), strength 0.6: 3 of 5 Stage C steps\n"
    assert line in out and "compressor" in out
    about = read_parameters("a.png")
    assert len(about["image"]) == 64 and about["strength"] == 0.6
    assert about["fit"] == "pad" and about["mask"] is None and len(about["timesteps"]) == 4
    words = ["--image", "in.png", "--mask", "mask.png", "-o", "b.png", "--json"]
    code, out, _ = command("a ring", *words)
    found = json.loads(out)["start"]
    assert code == 0 and (found["strength"], found["fit"], found["stage_c_steps"]) == (1, "crop", 5)
    assert found["image"] == {
        "path": "in.png",
        "sha256": about["image"],
        "height": 120,
        "width": 200,
    }
    assert found["mask"]["path"] == "mask.png"
    assert read_parameters("b.png")["mask"] == found["mask"]["sha256"]


def test_variations_take_no_prompt_and_no_guidance(command):
    code, _, _ = command("--image", "in.png", "--variations", "2", "-o", "v.png", "--seed", "5")
    about = [read_parameters(f"v-00{i}.png") for i in range(2)]
    assert code == 0 and [a["seed"] for a in about] == [[5], [6]]
    assert {(a["prompt"], a["guidance"]) for a in about} == {("", 1.0)}
    words = ["--image", "in.png", "--variations", "1", "-o", "g.png", "--guidance", "3"]
    assert command(*words)[0] == 0 and read_parameters("g.png")["guidance"] == 3.0


def test_strength_0_needs_no_prompt(command, made):
    code, out, _ = command("--image", "in.png", "--strength", "0", "-o", "r.png")
    assert code == 0 and "strength 0: 0 of 5 Stage C steps" in out
    assert "stage_c" not in made.opened


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (["--strength", "0.4"], "strength"),
        (["--fit", "stretch"], "fit"),
        (["--mask", "mask.png", "--strength", "0.6"], "mask"),
        (["--image", "mask.png"], "image"),
        (None, "image"),
    ],
)
def test_a_picture_from_another_picture_is_not_taken_for_it(command, change, key):
    words = ["a ring", "-o", "p.png", "--skip-existing"]
    assert command(*words, "--image", "in.png")[0] == 0
    assert "skipped 1 of 1" in command(*words, "--image", "in.png")[1]
    if change is None:
        code, _, err = command(*words)
    else:
        code, _, err = command(*words, "--image", "in.png", *change)
    assert code == 2 and "was made with another " in err and err.count("\n") == 1
    assert key in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["a", "--strength", "0.5"],
            "--strength is of a picture to start from: give it as --image",
        ),
        (["a", "--mask", "mask.png"], "--mask is of a picture to start from"),
        (["a", "--fit", "pad"], "--fit is of a picture to start from"),
        (["--variations", "2"], "--variations is of a picture to start from"),
        (["a", "--image", "in.png", "--strength", "1.5"], "--strength is 1.5; it is from 0"),
        (["a", "--image", "in.png", "--strength", "-1"], "--strength is -1; it is from 0"),
        (["a", "--image", "in.png", "--strength", "much"], "--strength: 'much' is no number"),
        (["a", "--image", "in.png", "--fit", "zoom"], "--fit: invalid choice: 'zoom'"),
        (["a", "--image", "in.png", "--variations", "2"], "leave the prompt out, or --variations"),
        (["--image", "in.png", "--variations", "2", "--num-images", "3"], "leave --num-images out"),
        (["--image", "in.png"], "there is no prompt"),
        (["--image", "in.png", "--verify"], "there is no prompt"),
        (["a", "--image", "none.png"], "--image none.png cannot be read: No such file"),
        (["a", "--image", "bundle.json"], "--image bundle.json is no picture"),
        (["a", "--image", "in.png", "--mask", "bundle.json"], "--mask bundle.json is no picture"),
        (["a", "--image", "in.png", "-o", "in.png"], "in.png is a picture that is read; give anot"),
        (["a", "--image", "in.png", "--mask", "mask.png", "-o", "mask.png"], "mask.png is a pict"),
        # Shard 2 would write over it.
        (["a", "--num-images", "2", *OF_A_SHARD], "out-001.png is a picture that is read"),
        (["--image", "in.png", "--replay"], "--replay makes no picture"),
    ],
)
def test_what_the_command_refuses(command, made, words, message):
    made.opened.clear()
    code, out, err = command(*words)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert made.opened == []


def test_a_bundle_without_the_graphs_names_them_and_the_command_that_adds_them(command, made):
    graphs = dict(made.manifest.graphs)
    del graphs["stage_a_encoder"]
    less = replace(made.manifest, graphs=graphs)
    words = ["a", "--image", "in.png", "-o", "o.png"]
    assert command(*words, manifest=less)[0] == 0
    code, _, err = command(*words, "--mask", "mask.png", manifest=less)
    assert code == 2 and "this bundle has no stage_a_encoder" in err
    del graphs["compressor"]
    none = replace(less, graphs=graphs)
    code, _, err = command(*words, "--mask", "mask.png", manifest=none)
    assert code == 2 and "this bundle has no compressor and no stage_a_encoder" in err
    assert "python -m exporter bundle --resume --modules compressor stage_a_encoder" in err
    silent = replace(made.manifest, picture_side=None)
    code, _, err = command(*words, manifest=silent)
    assert code == 2 and "picture_side.compressor_stride" in err
