"""Previews: what they show, when, and that runs without them are as they were."""

import json
import os

import broken
import numpy as np
import one_operator
import pytest
import torch
from diffusers import DDPMWuerstchenScheduler
from PIL import Image

from exporter.options import ExportOptions
from runtimes.cli import main
from runtimes.errors import RunError, UsageError
from runtimes.images import read_parameters
from runtimes.pipeline import Pipeline
from runtimes.plan import Options
from runtimes.previews import denoised
from runtimes.tolerances import STEP

SHORT = ["--steps", "5", "--decoder-steps", "1"]
OPTIONS = Options(steps=5, decoder_steps=1, seed=3)


@pytest.fixture(scope="module")
def bundle(bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("previews") / "bundle"
    return one_operator.with_picture_graphs(bundles("one_level"), folder)


@pytest.fixture(scope="module")
def rough(bundles, tmp_path_factory):
    """The same without the graph, which leaves the linear map."""
    folder = tmp_path_factory.mktemp("previews") / "rough"
    return one_operator.with_picture_graphs(bundles("one_level"), folder, graphs=())


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def shown(bundle, options=OPTIONS, **more):
    """All previews of a run of two prompts, by step, and its tensors."""
    found, tensors = {}, {}
    with Pipeline.open(bundle, **more) as pipeline:
        result = pipeline(
            ["a ring", "a star"],
            options=options,
            on_tensors=lambda name, values: tensors.update({name: values}),
            on_preview=lambda step, total, pictures: found.update({(step, total): pictures}),
        )
    return found, tensors, result


def estimate(scheduler, tensors, step, t):
    """x0 by diffusers' own schedule, of the latents that a step began with."""
    before = "start" if step == 1 else str(step - 2)
    latents = torch.from_numpy(tensors[f"stage_c/{before}"]["latents"])
    epsilon = torch.from_numpy(tensors[f"stage_c/{step - 1}"]["epsilon"][: len(latents)])
    share = scheduler._alpha_cumprod(torch.tensor([t]), "cpu").reshape(1, 1, 1, 1)
    return ((latents - (1 - share).sqrt() * epsilon) / share.sqrt()).numpy()


def test_they_show_what_the_latents_are_expected_to_become(bundle):
    found, tensors, result = shown(bundle)
    assert list(found) == [(step, 5) for step in range(1, 6)]
    weights = one_operator.mixed(bundle.manifest.sampling.stage_c.channels)
    scheduler = DDPMWuerstchenScheduler()
    for step in range(1, 6):
        latents = estimate(scheduler, tensors, step, 1 - (step - 1) / 5)
        colours = np.einsum("kc,bchw->bhwk", weights, latents) + 0.5
        pixels = np.rint(np.clip(colours, 0, 1) * 255).repeat(8, axis=1).repeat(8, axis=2)
        pictures = found[step, 5]
        assert pictures.dtype == np.uint8 and pictures.shape == pixels.shape
        assert np.abs(pictures - pixels).max() <= 1  # a value half way between two levels
    assert result.placements["preview"].engine.startswith("ONNX Runtime")
    assert result.usage["preview"].seconds > 0


def test_the_last_estimate_is_what_stage_c_ends_with(bundle):
    """Without guidance, which the estimate leaves out."""
    _, tensors, result = shown(bundle, Options(steps=5, decoder_steps=1, seed=3, guidance=1.0))
    stage, epsilon = result.plan.stage_c, tensors["stage_c/4"]["epsilon"]
    last = denoised(tensors["stage_c/3"]["latents"], epsilon, stage.rows[4].t, stage.denoiser)
    now, end = (
        float(DDPMWuerstchenScheduler()._alpha_cumprod(torch.tensor([t]), "cpu")) for t in (0.2, 0)
    )
    # The mean of a DDPM step in terms of x0. At t = 0 the signal's share is clamped to 0.9999.
    rest = np.sqrt(now / end) * (1 - end) / np.sqrt(1 - now)
    ended = np.sqrt(end) * last + rest * epsilon
    assert np.linalg.norm(ended - result.latents) < STEP[1.0] * np.linalg.norm(result.latents)


def test_a_linear_map_gives_a_pixel_a_cell(bundle, rough):
    full, (small, _, result) = shown(bundle)[0], shown(rough)
    for key, pictures in small.items():
        assert np.abs(pictures.astype(int) - full[key][:, ::8, ::8]).max() <= 1
    assert "linear map" in str(result.placements["preview"])


def test_runs_without_previews_are_the_same_bit_by_bit(bundle):
    found, _, result = shown(bundle, low_memory=True)
    with Pipeline.open(bundle) as pipeline:
        other = pipeline(["a ring", "a star"], options=OPTIONS)
        assert "preview" not in pipeline._sessions._open and "preview" not in other.usage
    assert np.array_equal(other.image, result.image) and len(found) == 5


@pytest.mark.parametrize(("every", "steps"), [(2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_every_so_many_steps_and_the_last(bundle, every, steps):
    found = []
    with Pipeline.open(bundle) as pipeline:
        pipeline(
            "a ring",
            options=OPTIONS,
            on_preview=lambda step, total, pictures: found.append(step),
            preview_every=every,
        )
    assert found == steps


def test_files_of_previews(capsys, bundle, tmp_path):
    folder = tmp_path / "new" / "previews"
    words = ["a ring", "a star", "-o", tmp_path / "p.png", "--previews", folder]
    code, out, _ = run(capsys, bundle.folder, *words, "--preview-every", "3", *SHORT)
    assert code == 0 and f"previews of each 3 steps and the last are in {folder}\n" in out
    names = ["000-3.png", "000-5.png", "001-3.png", "001-5.png"]
    assert sorted(os.listdir(folder)) == names
    about = read_parameters(folder / "001-3.png")
    assert about == {"prompt": "a star", "seed": [1], "preview": "graph", "step": 3, "steps": 5}
    (tmp_path / "p-000.png").unlink()
    for name in names:
        (folder / name).unlink()
    code, out, _ = run(capsys, bundle.folder, *words, *SHORT, "--skip-existing", "--json")
    assert code == 0 and len(json.loads(out)["skipped"]) == 1
    assert sorted(os.listdir(folder)) == [f"000-{step}.png" for step in range(1, 6)]
    assert json.loads(out)["previews"] == {"folder": str(folder), "every": 1, "kind": "graph"}


def test_files_of_a_linear_map_are_as_large_as_a_graphs(capsys, bundle, rough, tmp_path):
    for each in (bundle, rough):
        words = ["a ring", "-o", tmp_path / "p.png", "--previews", tmp_path / each.folder.name]
        code, out, _ = run(capsys, each.folder, *words, *SHORT)
        assert code == 0 and ("linear map" in out) == (each is rough)
    sizes = {Image.open(tmp_path / name / "000-5.png").size for name in ("bundle", "rough")}
    assert len(sizes) == 1


def test_a_bundle_that_can_make_none(capsys, bundles, tmp_path):
    words = ["a ring", "-o", tmp_path / "p.png", "--previews", tmp_path / "previews"]
    made = bundles("one_level", ExportOptions(golden=False))  # which is what the map is fitted to
    code, _, err = run(capsys, made.folder, *words, *SHORT)
    assert code == 2 and err.count("\n") == 1
    assert "no graph 'preview' and no linear map" in err
    assert "--resume --modules preview" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preview-every", "2"], "--preview-every needs --previews DIR"),
        (["--previews", "d", "--preview-every", "0"], "0 is too small"),
        (["--previews", "file.txt"], "'file.txt' is no folder"),
        (["--previews", "file.txt/d"], "--previews file.txt/d"),
        (["--previews", ""], "'' is no folder"),
    ],
)
def test_bad_options(capsys, bundle, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    code, _, err = run(capsys, bundle.folder, "a ring", *words, *SHORT)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_bad_calls(bundle):
    with Pipeline.open(bundle) as pipeline, pytest.raises(UsageError, match="--preview-every is 0"):
        pipeline("a", on_preview=lambda *about: None, preview_every=0)


def test_values_that_are_not_finite_name_graph_and_step(bundle, tmp_path):
    with Pipeline.open(broken.giving(bundle, "preview", np.nan, tmp_path / "b")) as pipeline:
        with pytest.raises(RunError, match=r"preview after step 1 of 5 gave .* NaN"):
            pipeline("a ring", options=OPTIONS, on_preview=lambda *about: None)
        pipeline("a ring", options=OPTIONS)  # nobody asks it
