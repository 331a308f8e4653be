"""validation quality: figures with intervals, pictures that are kept, nothing faked."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import manifests
import numpy as np
import pytest
import torch
from PIL import Image

from runtimes import Options
from runtimes.bundle.read import Bundle
from runtimes.decibels import EXACT_DB
from runtimes.errors import RunError, UsageError
from runtimes.images import read_parameters
from runtimes.pipeline import Pipeline
from runtimes.tolerances import LIMITS
from validation.cli import main
from validation.demo.scenes import caption, held_out_scenes
from validation.quality import published
from validation.quality.filling import pictures_of
from validation.quality.folder import claimed
from validation.quality.measure import Request
from validation.quality.prompts import prompts_for
from validation.quality.series import Album


def run(capsys, *words) -> tuple[int, str, str]:
    code = main(["quality", *(str(word) for word in words)])
    out = capsys.readouterr()
    return code, out.out, out.err


def metrics(value) -> dict[str, dict]:
    return {metric["name"]: metric for metric in value["metrics"]}


def without_times(value):
    """quality.json but for seconds."""
    return {
        **value,
        "pictures": [{k: v for k, v in p.items() if k != "seconds"} for p in value["pictures"]],
    }


def variant(bundle: Bundle, folder: Path, edit: Callable[[dict], None]) -> Path:
    """A copy of a bundle with another manifest."""
    shutil.copytree(bundle.folder, folder)
    manifest = manifests.read(folder)
    edit(manifest)
    manifests.write(folder, manifest)
    return folder


@pytest.fixture
def calls(monkeypatch):
    """The prompts of every run of a pipeline from now on."""
    found = []
    original = Pipeline.__call__

    def call(self, prompts, *args, **kwargs):
        found.append(prompts)
        return original(self, prompts, *args, **kwargs)

    monkeypatch.setattr(Pipeline, "__call__", call)
    return found


# Prompts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompts"),
        ("# nothing yet\n\n", "holds no prompts"),
        ("a red circle\na blue star\na red circle \n", "line 3 is the same as line 1"),
    ],
)
def test_prompts_files_that_are_refused(tmp_path, capsys, bundles, text, message):
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    bundle = bundles("one_level").folder
    code, _, err = run(capsys, bundle, "--prompts", path, "-o", tmp_path / "out")
    assert code == 2 and message in err and not (tmp_path / "out").exists()


def test_prompts(tmp_path, bundles):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n\na blue star\n")
    assert prompts_for(bundles("one_level").manifest.model, path, None).texts == (
        "a red circle",
        "a blue star",
    )
    demo, other = (bundles(name).manifest.model for name in ("demo", "one_level"))
    assert prompts_for(demo, path, None).scenes is None
    assert prompts_for(demo, None, 5).texts == tuple(map(caption, held_out_scenes(5)))
    assert prompts_for(demo, None, 9).texts[:5] == prompts_for(demo, None, 5).texts
    with pytest.raises(UsageError, match="has 2 prompts"):
        prompts_for(demo, path, 3)
    with pytest.raises(UsageError, match="give --prompts FILE"):
        prompts_for(other, None, None)


# The command


@pytest.mark.slow
def test_the_demo_is_scored_by_the_judge_and_kept(capsys, bundles, tmp_path, calls):
    folder, out = bundles("demo").folder, tmp_path / "out"
    calls.clear()  # an export makes its golden run
    code, text, _ = run(capsys, folder, "-o", out, "--count", "3", "--seed", "4")
    assert code == 0 and "judge: pair" in text and "Frechet distance, judge" in text
    value = json.loads((out / "quality.json").read_text())
    found = metrics(value)
    assert [picture["seed"] for picture in value["pictures"]] == [4, 5, 6]
    assert found["judge: pair"]["value"] >= 80
    assert found["PSNR"]["value"] > LIMITS["fp32"].picture_db
    assert found["SSIM"]["value"] == pytest.approx(1, abs=1e-6)
    latent_db = min(found[f"latent SQNR, Stage {s}"]["value"] for s in "CB")
    assert latent_db > LIMITS["fp32"].latent_db
    assert not {"CLIP score", "FID"} & found.keys()
    assert len(calls) == 4  # three prompts and the golden run

    before = {path: path.stat().st_mtime_ns for path in (out / "pictures").iterdir()}
    calls.clear()
    assert run(capsys, folder, "-o", out, "--count", "3", "--seed", "4")[0] == 0
    assert len(calls) == 1  # the golden run
    assert {path: path.stat().st_mtime_ns for path in (out / "pictures").iterdir()} == before
    assert json.loads((out / "quality.json").read_text()) == value

    picture = out / "pictures/00001.png"
    picture.write_bytes(picture.read_bytes()[:900])  # cut off
    (out / "pictures/00002.npz").unlink()
    calls.clear()
    assert run(capsys, folder, "-o", out, "--count", "3", "--seed", "4")[0] == 0
    assert len(calls) == 3
    assert without_times(json.loads((out / "quality.json").read_text())) == without_times(value)


def test_a_picture_is_that_of_its_seed(bundles, tmp_path):
    bundle = bundles("demo")
    prompts = prompts_for(bundle.manifest.model, None, 2)
    kept = pictures_of(Album(Request(tmp_path, prompts, seed=8).series(bundle), tmp_path))[1]
    with Pipeline.open(bundle) as pipeline:
        expected = pipeline(prompts.texts[1], options=Options(seed=9))
    assert (kept.path, kept.prompt, kept.seed) == (tmp_path / "00001.png", prompts.texts[1], 9)
    assert np.array_equal(kept.pixels(), expected.pictures[0])
    assert np.array_equal(kept.latents()["stage_c"], expected.latents[0])
    assert read_parameters(kept.path)["seed"] == 9


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(capsys, bundles, tmp_path):
    folder, out, whole = bundles("demo").folder, tmp_path / "out", tmp_path / "whole"
    words = [str(folder), "--count", "5"]
    command = [sys.executable, "-m", "validation", "quality", *words, "-o", str(out), "--quiet"]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out / "pictures/00001.png").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = {p: p.stat().st_mtime_ns for p in (out / "pictures").glob("[0-9]*.png")}
    assert len(there) >= 2 and not (out / "quality.json").exists()
    assert run(capsys, *words, "-o", out)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in there} == there
    assert run(capsys, *words, "-o", whole)[0] == 0
    found, expected = (json.loads((f / "quality.json").read_text()) for f in (out, whole))
    assert without_times(found) == without_times(expected)


def test_folders_of_another_run_are_refused(capsys, bundles, tmp_path):
    bundle, out = bundles("one_level").folder, tmp_path / "out"
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n")
    words = [bundle, "--prompts", path, "-o", out]
    assert run(capsys, *words)[0] == 0
    there = (out / "quality.json").read_bytes()
    code, _, err = run(capsys, *words, "--seed", "1")
    assert code == 2 and "holds another run (options" in err
    other = variant(bundles("one_level"), tmp_path / "other", lambda m: m["tools"].clear())
    code, _, err = run(capsys, other, *words[1:])
    assert code == 2 and "holds another run (bundle" in err
    path.write_text("a blue star\n")
    code, _, err = run(capsys, *words)
    assert code == 2 and "00000.png was made with another prompt" in err
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/file").write_text("")
    code, _, err = run(capsys, *words[:-1], tmp_path / "strange")
    assert code == 2 and "holds something else" in err
    assert (out / "quality.json").read_bytes() == there


def test_what_a_real_checkpoint_lacks_is_named_and_the_rest_stands(capsys, bundles, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\na blue star\n")
    words = [bundles("one_level").folder, "--prompts", path, "-o", tmp_path / "out", "--json"]
    code, out, _ = run(capsys, *words)
    found = metrics(json.loads(out))
    assert code == 0 and found["PSNR"]["value"] > LIMITS["fp32"].picture_db
    assert found["CLIP score"]["value"] is None
    assert "give a folder as --clip-model" in found["CLIP score"]["note"]
    for name in ("FID", "Inception score"):
        assert found[name]["value"] is None and published.INCEPTION_FILE in found[name]["note"]
    weights = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(2)}, weights)
    code, _, err = run(capsys, *words, "--inception-weights", weights)
    assert code == 2 and "its SHA-256 starts with" in err


def test_against_another_bundle(capsys, bundles, tmp_path):
    """One whose Stage B sees an embedding that is 1 % off: Stage C is the same."""
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\na blue star\na green ring\n")
    bundle = bundles("one_level")
    mean = bundle.manifest.sampling.latent_mean
    off = variant(bundle, tmp_path / "off", lambda m: m["sampling"].update(latent_mean=1.01 * mean))
    words = ["--prompts", path, "-o", tmp_path / "out", "--json"]
    code, out, _ = run(capsys, off, *words, "--against", bundle.folder)
    found = metrics(json.loads(out))
    assert code == 0 and "3 pictures" in found["PSNR"]["note"]
    assert found["latent SQNR, Stage C"]["value"] == EXACT_DB
    for name in ("PSNR", "SSIM", "latent SQNR, Stage B"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
        assert 0 < found[name]["value"] < EXACT_DB
    stranger = variant(bundle, tmp_path / "stranger", lambda m: m["model"].update(id="other"))
    for other, message in ((off, "is the same bundle"), (stranger, "of one model")):
        code, _, err = run(capsys, off, *words, "--against", other)
        assert code == 2 and message in err


def test_a_bundle_that_is_not_whole_is_refused(capsys, bundles, tmp_path):
    def edit(manifest):
        del manifest["graphs"]["stage_a"]
        runs = manifest["host"]["run"]
        runs[:] = [run for run in runs if run["graph"] != "stage_a"]

    part = variant(bundles("demo"), tmp_path / "part", edit)
    code, _, err = run(capsys, part, "-o", tmp_path / "out", "--count", "2")
    assert code == 1 and "holds no graph 'stage_a'" in err and not (tmp_path / "out").exists()


def test_reference_images_that_are_refused(capsys, bundles, tmp_path):
    images = tmp_path / "images"
    words = [bundles("demo").folder, "-o", tmp_path / "out", "--images", images]
    assert "is no folder" in run(capsys, *words)[2]
    images.mkdir()
    assert "holds 0 images" in run(capsys, *words)[2]
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64)).save(images / name)
    assert (
        "is 64 x 64 pixels (height x width), the pictures are 128 x 128" in run(capsys, *words)[2]
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_is_one_runs_and_one_processs(tmp_path):
    first, second, identity = tmp_path / "first", tmp_path / "second", {"command": "quality"}
    busy = pytest.raises(RunError, match=f"another process is writing {first}; wait for it")
    with claimed(first, identity), busy, claimed(first, identity):
        pass
    with pytest.raises(UsageError, match="holds another run"), claimed(first, {"command": "sweep"}):
        pass
    second.mkdir()
    (second / ".run.json.0123abcd.tmp").write_text("of a process that was killed here")
    with claimed(second, identity):
        assert [path.name for path in second.iterdir()] == ["run.json"]
