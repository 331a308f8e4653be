"""Many pictures of a command line: seeds, names, batches, going on after a stop."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import runtimes.estimate
from exporter.options import ExportOptions
from runtimes.batches import MOST, UNKNOWN, batch_size, jobs_for, seeds_for
from runtimes.cli import main
from runtimes.engines.base import Footprint
from runtimes.errors import UsageError
from runtimes.images import picture_paths, read_parameters
from runtimes.pipeline import Pipeline
from runtimes.plan import Options
from runtimes.progress import Progress

SHORT = ["--steps", "2", "--decoder-steps", "2"]
OPTIONS = Options(steps=2, decoder_steps=2)
PROMPTS = ["a red ring", "a blue star", "a red ring"]  # one twice


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles("one_level")


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.fixture
def calls(monkeypatch):
    """How many prompts each call of a pipeline had."""
    found = []
    original = Pipeline.__call__

    def call(self, prompts, *args, **kwargs):
        found.append(len(prompts))
        return original(self, prompts, *args, **kwargs)

    monkeypatch.setattr(Pipeline, "__call__", call)
    return found


@pytest.mark.parametrize(
    ("seeds", "prompts", "images", "expected"),
    [
        ((5,), 1, 1, [5]),
        ((5,), 3, 1, [5, 6, 7]),
        ((5,), 2, 2, [5, 6, 7, 8]),
        ((1, 9), 2, 1, [1, 9]),
        ((1, 9), 2, 2, [1, 2, 9, 10]),
        ((4, 4, 4, 4), 2, 2, [4, 4, 4, 4]),
        ((3, 1), 1, 2, [3, 1]),
        ((1, 2), 3, 1, "2 seeds for 3 prompts; give one, or one per prompt"),
        (
            (1, 2, 3),
            2,
            2,
            "3 seeds for 2 prompts of 2 images each; give one, or one per prompt, or",
        ),
    ],
)
def test_every_picture_has_a_seed(seeds, prompts, images, expected):
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            seeds_for(seeds, prompts, images)
    else:
        assert seeds_for(seeds, prompts, images) == expected


def test_negative_prompts_are_one_for_all_or_one_each(tmp_path):
    paths = picture_paths(tmp_path / "p.png", 4)

    def negatives(*given):
        return [job.negative for job in jobs_for(["a", "b"], given, (0,), 2, paths)]

    assert negatives() == [""] * 4 and negatives("x") == ["x"] * 4
    assert negatives("x", "y") == ["x", "x", "y", "y"]
    with pytest.raises(UsageError, match="3 negative prompts for 2 prompts"):
        negatives("x", "y", "z")


def test_names_sort_as_the_pictures_do(tmp_path):
    assert picture_paths(tmp_path / "p.png", 1) == [tmp_path / "p.png"]
    for count, last in ((2, "p-001.png"), (1000, "p-999.png"), (1001, "p-1000.png")):
        paths = picture_paths(tmp_path / "p.png", count)
        assert paths == sorted(paths) and paths[-1].name == last and len(set(paths)) == count
    (tmp_path / "p-001.png").mkdir()
    with pytest.raises(UsageError, match=r"p-001.png is a folder"):
        picture_paths(tmp_path / "p.png", 2)


def test_a_picture_does_not_depend_on_its_batch(capsys, bundle, tmp_path, calls):
    """Nor on the others: it is the one that its seed makes alone, which is diffusers' picture."""
    for size in (1, 2, 3):
        words = [*PROMPTS, "--seed", "7", "--batch-size", size, "-o", tmp_path / f"{size}.png"]
        assert run(capsys, bundle.folder, *words, *SHORT)[0] == 0
    assert calls == [1, 1, 1, 2, 1, 3]
    with Pipeline.open(bundle) as pipeline:
        for index, prompt in enumerate(PROMPTS):
            options = Options(steps=2, decoder_steps=2, seed=7 + index)
            alone = pipeline(prompt, options=options).pictures[0].astype(int)
            for size in (1, 2, 3):
                found = tmp_path / f"{size}-00{index}.png"
                assert np.abs(pixels(found) - alone).max() <= 1  # products round by their shape
                about = read_parameters(found)
                assert (about["prompt"], about["seed"]) == (prompt, [7 + index])


def test_several_pictures_of_each_prompt(capsys, bundle, tmp_path):
    words = ["a ring", "a star", "--num-images", "2", "--seed", "3", "-o", tmp_path / "p.png"]
    negative = ["--negative-prompt", "x", "--negative-prompt", "y"]
    code, out, err = run(capsys, bundle.folder, *words, *negative, *SHORT, "--json")
    assert (code, err) == (0, "") and json.loads(out)["seeds"] == [3, 4, 5, 6]
    about = [read_parameters(tmp_path / f"p-00{i}.png") for i in range(4)]
    assert [a["prompt"] for a in about] == ["a ring", "a ring", "a star", "a star"]
    assert [a["negative_prompt"] for a in about] == ["x", "x", "y", "y"]
    assert [a["seed"] for a in about] == [[3], [4], [5], [6]]


def test_a_run_goes_on_with_what_is_missing(capsys, bundle, tmp_path, calls):
    words = [bundle.folder, *PROMPTS, "-o", tmp_path / "p.png", "--batch-size", "2", *SHORT]
    assert run(capsys, *words, "--skip-existing")[0] == 0  # nothing there yet
    paths = [tmp_path / f"p-00{index}.png" for index in range(3)]
    before = [path.read_bytes() for path in paths]
    paths[0].write_bytes(before[0][: len(before[0]) // 2])  # cut off by a full disk
    paths[2].unlink()
    times = paths[1].stat().st_mtime_ns
    calls.clear()
    code, out, _ = run(capsys, *words, "--skip-existing")
    assert code == 0 and calls == [2] and paths[1].stat().st_mtime_ns == times
    assert "skipped 1 of 3 pictures, which are there already" in out
    assert [np.abs(pixels(p) - pixels(p)).max() for i, p in enumerate(paths)] == [0, 0, 0]
    code, out, _ = run(capsys, *words, "--skip-existing", "--json")
    found = json.loads(out)
    assert code == 0 and calls == [2] and found["pictures"] == []
    assert found["skipped"] == list(map(str, paths))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "8"], "was made with another seed ([0], now [8])"),
        (["--guidance", "2"], "was made with another guidance"),
        (["--negative-prompt", "blue"], "was made with another negative_prompt ('', now 'blue')"),
    ],
)
def test_another_picture_is_never_taken_for_it(capsys, bundle, tmp_path, calls, change, message):
    words = [bundle.folder, "a ring", "-o", tmp_path / "p.png", *SHORT, "--skip-existing"]
    assert run(capsys, *words)[0] == 0
    before = (tmp_path / "p.png").read_bytes()
    code, _, err = run(capsys, *words, *change)
    assert code == 2 and message in err and err.count("\n") == 1
    assert (tmp_path / "p.png").read_bytes() == before and calls == [1]


def test_somebody_elses_picture_is_kept(capsys, bundle, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    words = [bundle.folder, "a ring", "-o", tmp_path / "p.png", *SHORT, "--skip-existing"]
    code, _, err = run(capsys, *words)
    assert code == 2 and "carries no 'wuerstchen' parameters; choose another --output" in err


def test_a_stop_loses_the_running_batch_only(capsys, bundle, tmp_path, monkeypatch):
    original, made = Pipeline.__call__, []

    def call(self, *args, **kwargs):
        if made:
            raise KeyboardInterrupt
        made.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Pipeline, "__call__", call)
    words = [bundle.folder, *PROMPTS, "-o", tmp_path / "p.png", "--batch-size", "2", *SHORT]
    code, _, err = run(capsys, *words)
    assert code == 130 and "interrupted; pictures of finished batches are kept" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p-000.png", "p-001.png"]


@pytest.mark.slow
def test_graphs_of_fixed_shape_get_whole_batches(capsys, bundles, tmp_path, calls):
    static = bundles("one_level", ExportOptions(static=True, batch_size=2, golden=False))
    words = [static.folder, *PROMPTS, "-o", tmp_path / "p.png", *SHORT]
    assert run(capsys, *words)[0] == 0
    assert calls == [2, 2]
    assert len(list(tmp_path.iterdir())) == 3
    with Pipeline.open(bundles("one_level")) as pipeline:
        alone = pipeline(PROMPTS[2], options=Options(steps=2, decoder_steps=2, seed=2)).pictures[0]
    assert np.abs(pixels(tmp_path / "p-002.png") - alone.astype(int)).max() <= 1
    code, _, err = run(capsys, *words, "--batch-size", "3")
    assert code == 2 and "this bundle was exported for a batch of 2" in err


def test_the_default_batch_is_what_fits(bundle, monkeypatch):
    manifest = bundle.manifest
    with Pipeline(manifest, None, {}, footprint=Footprint({"fp32": 1.0})) as pipeline:
        sizes = []
        for free in (10**12, 0, None):
            monkeypatch.setattr(runtimes.estimate, "available_memory", lambda free=free: free)
            sizes.append(batch_size(pipeline, OPTIONS, None))
        assert sizes == [MOST, 1, UNKNOWN]
        monkeypatch.setattr(runtimes.estimate, "available_memory", lambda: 10**12)
        assert batch_size(pipeline, OPTIONS, 3) == 3 and batch_size(pipeline, OPTIONS, 99) == 99
    with Pipeline(manifest, None, {}) as elsewhere:  # as on a GPU
        assert batch_size(elsewhere, OPTIONS, None) == UNKNOWN


def test_progress_of_many_runs_says_what_is_left():
    page, now = io.StringIO(), [0.0]
    progress = Progress(stream=page, clock=lambda: now[0])
    for batch in range(5):
        step = progress.runs("pictures", 2 * batch, 10, 2)
        for stage in ("text_encoder", "stage_c", "stage_b", "stage_a"):
            for done in (1, 2):
                now[0] += 2.0 if stage in ("stage_c", "stage_b") else 0.0
                step(stage, done, 2)
    lines = page.getvalue().splitlines()
    assert lines[0] == "pictures: 2 of 10, 30 s left"  # after 10 s of 40
    assert lines[-1] == "pictures: 10 of 10" and len(lines) <= 5
