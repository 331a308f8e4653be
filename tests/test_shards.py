"""Parts of a run in processes that know nothing of each other: together they are the whole run."""

import argparse
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier

import manifests
import numpy as np
import pytest
from PIL import Image

from runtimes.bundle.locks import locked_file
from runtimes.cli import main as runtimes_main
from runtimes.command_line import parser
from runtimes.errors import RunError, UsageError
from runtimes.images import read_parameters
from runtimes.shards import Shard, shard
from runtimes.spread import settle_threads
from validation.cli import main
from validation.quality.folder import claimed
from validation.quality.parts import Part

SHORT = ["--steps", "2", "--decoder-steps", "2"]
PROMPTS = ["a red circle", "a blue star", "a green ring", "a red ring", "a blue circle"]


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def contents(folder: Path) -> dict[str, object]:
    """What the pictures of a folder show, the latents beside them, and what the PNGs say."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*.png")):
        about = read_parameters(path)
        about.pop("seconds", None)
        with np.load(path.with_suffix(".npz")) as latents:
            arrays = {name: latents[name].tobytes() for name in latents.files}
        with Image.open(path) as image:
            found[path.relative_to(folder).as_posix()] = (about, arrays, image.tobytes())
    return found


def without_times(path: Path) -> dict:
    value = json.loads(path.read_text())
    for picture in value.get("pictures", []):
        del picture["seconds"]
    for cell in value.get("cells", []):
        for variant in cell["variants"]:
            del variant["seconds"], variant["best"]
    return value


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_are_all_of_it_once(count):
    items = list(range(11))
    parts = [Shard(index, count).part_of(items) for index in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["5/4", "0/2", "1/0", "x", "1/", "/2", "-1/2", "1/2/3", "1.0/2"])
def test_shards_that_are_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match="give I/N, part I of N such as 1/4"):
        shard(text)
    assert str(shard("3/4")) == "3/4"


def test_a_shard_that_is_none_is_one_line(capsys, tmp_path):
    for words in (["quality", "b", "-o", "o"], ["sweep", "b", "-o", "o", "--steps", "2"]):
        code, out, err = run(capsys, *words, "--shard", "5/4")
        assert (code, out, err.count("\n")) == (2, "", 1) and "there is no shard 5/4" in err
    assert runtimes_main(["b", "a ring", "--shard", "0/2"]) == 2
    assert "there is no shard 0/2" in capsys.readouterr().err


def test_the_shards_of_quality_are_the_whole_run(capsys, bundles, tmp_path, prompts):
    words = ["quality", bundles("one_level").folder, "--prompts", prompts, "--seed", "3", "-o"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(capsys, *words, whole)[0] == 0
    code, text, _ = run(capsys, *words, out, "--shard", "1/2")
    assert code == 0 and text == (
        f"shard 1/2: made 3, 3 of 5 pictures are in {out}; when all shards have ended, run the "
        "same without --shard to measure them\n"
    )
    assert sorted(path.stem for path in out.glob("pictures/*.png")) == ["00000", "00002", "00004"]
    assert not (out / "quality.json").exists()
    times = {path: path.stat().st_mtime_ns for path in out.glob("pictures/*")}
    code, text, _ = run(capsys, *words, out, "--shard", "1/2", "--json")
    assert code == 0
    assert json.loads(text) == {"shard": "1/2", "made": 0, "there": 3, "pictures": 5}
    assert run(capsys, *words, out, "--shard", "2/2", "--quiet") == (0, "", "")
    made = {path: path.stat().st_mtime_ns for path in out.glob("pictures/*")}
    assert len(made) == 10 and made.items() >= times.items()
    assert run(capsys, *words, out)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("pictures/*")} == made
    assert contents(out) == contents(whole)
    assert without_times(out / "quality.json") == without_times(whole / "quality.json")
    assert sorted(path.name for path in out.iterdir()) == ["pictures", "quality.json", "run.json"]


def test_the_run_without_a_shard_makes_what_a_shard_left(capsys, bundles, tmp_path, prompts):
    words = ["quality", bundles("one_level").folder, "--prompts", prompts, "-o"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(capsys, *words, whole)[0] == 0
    assert run(capsys, *words, out, "--shard", "3/3")[0] == 0
    np.savez(out / "pictures/00002.npz", stage_c=np.zeros(1, np.float32))  # not whole
    assert run(capsys, *words, out)[0] == 0
    assert contents(out) == contents(whole)


def test_the_number_of_threads_is_part_of_what_a_run_is(capsys, bundles, tmp_path, prompts):
    """Other numbers round otherwise: what two made is no one run."""
    words = ["quality", bundles("one_level").folder, "--prompts", prompts, "-o", tmp_path / "out"]
    assert run(capsys, *words, "--shard", "5/5", "--threads", "1")[0] == 0
    assert read_parameters(tmp_path / "out/pictures/00004.png")["execution"][3:] == [1]
    for more in ([], ["--threads", "2"], ["--shard", "4/5"]):
        code, _, err = run(capsys, *words, *more)
        assert code == 2 and "holds another run (execution" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "backend", "threads"),
    [
        (["--ray"], "onnx", 1),
        (["--ray", "--threads", "2"], "openvino", 2),
        (["--ray", "--device", "cuda"], "onnx", None),  # which has none of its own
        (["--ray"], "coreml", None),
        ([], "onnx", None),
    ],
)
def test_a_run_on_ray_has_one_thread_unless_told(more, backend, threads):
    args = parser().parse_args(["bundle", "a ring", *more])
    settle_threads(args, backend)
    assert args.threads == threads


def test_a_sweep_is_split_by_prompt_and_cell(capsys, bundles, tmp_path, prompts):
    other = tmp_path / "other"
    bundle = bundles("one_level").folder
    shutil.copytree(bundle, other)
    manifest = manifests.read(other)
    manifest["sampling"]["latent_mean"] *= 1.01
    manifests.write(other, manifest)
    words = ["sweep", bundle, "--guidance", "1,4", *SHORT, "--against", other]
    words += ["--prompts", prompts, "--count", "3", "-o"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(capsys, *words, whole)[0] == 0
    for index in range(1, 6):
        assert run(capsys, *words, out, "--shard", f"{index}/5")[0] == 0
        # Of 2 cells, 2 bundles and 3 prompts, number 0, 5 and 10 are the first shard's.
        assert len(list(out.rglob("*.png"))) == [3, 6, 8, 10, 12][index - 1]
    assert not list(out.rglob("cell.json")) and not (out / "sweep.json").exists()
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert run(capsys, *words, out)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == made
    assert contents(out) == contents(whole)
    assert without_times(out / "sweep.json") == without_times(whole / "sweep.json")
    code, text, _ = run(capsys, *words, out, "--shard", "1/5")
    assert code == 0 and text == f"shard 1/5: made 0, all of {out} is measured already\n"


def test_a_preset_is_no_shards(capsys, bundles, tmp_path):
    words = ["sweep", bundles("demo").folder, "--preset", "text-free", "-o", tmp_path / "out"]
    code, _, err = run(capsys, *words, "--shard", "1/2")
    assert code == 2 and "which no shard does: export it first" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# One folder


IDENTITY = {"command": "quality"}


def part(text: str, digest: str = "a") -> Part:
    return Part(shard(text), digest)


def test_shards_share_a_folder_with_each_other_and_nobody_else(tmp_path):
    out = tmp_path / "out"
    with claimed(out, IDENTITY, part("1/2")), claimed(out, IDENTITY, part("2/2")):
        with (
            pytest.raises(RunError, match=f"another process makes shard 1/2 of {out}; wait"),
            claimed(out, IDENTITY, part("1/2")),
        ):
            pass
        with (
            pytest.raises(RunError, match=f"another process is writing {out}; wait for it"),
            claimed(out, IDENTITY),
        ):
            pass
    with claimed(out, IDENTITY):
        assert [path.name for path in out.iterdir()] == ["run.json"]
        with (
            pytest.raises(RunError, match="another process is writing"),
            claimed(out, IDENTITY, part("1/2")),
        ):
            pass


def test_a_shard_is_seen_where_folders_have_no_locks(tmp_path, monkeypatch):
    """As on some network file systems: the shards' own lock files tell."""
    out = tmp_path / "out"
    with claimed(out, IDENTITY, part("1/2")), monkeypatch.context() as patched:
        patched.setattr("validation.quality.folder.locked", lambda *a, **k: nullcontext(False))
        with pytest.raises(RunError, match="another process is writing"), claimed(out, IDENTITY):
            pass


def test_shards_that_do_not_add_up(tmp_path):
    out = tmp_path / "out"
    with claimed(out, IDENTITY, part("1/2")):
        pass
    with (
        pytest.raises(UsageError, match=r"--shard 2/3 does not add up with .*, which are 2; go"),
        claimed(out, IDENTITY, part("2/3")),
    ):
        pass
    with (
        pytest.raises(UsageError, match="make other pictures"),
        claimed(out, IDENTITY, part("2/2", "b")),
    ):
        pass
    with (
        pytest.raises(UsageError, match="holds another run"),
        claimed(out, {"command": "sweep"}, part("2/2")),
    ):
        pass
    with claimed(out, IDENTITY):  # a whole run: what comes after it may be split anew
        pass
    with claimed(out, IDENTITY, part("2/3")):
        pass


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match="holds something else"),
        claimed(tmp_path, IDENTITY, part("1/2")),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_shard_left_is_no_other_run(tmp_path):
    out = tmp_path / "out"
    (out / ".shards").mkdir(parents=True)
    (out / ".run.json.0123abcd.tmp").write_text("of a process that was killed here")
    with claimed(out, IDENTITY, part("1/2")):
        assert sorted(path.name for path in out.iterdir()) == [".shards", "run.json"]


def test_many_claim_a_new_folder_at_once_and_one_has_each_part(tmp_path):
    """As shards do that are started together: what one makes is no stranger's to another."""
    together = Barrier(8)

    def claim(out: Path, number: int) -> bool:
        together.wait()
        with claimed(out, IDENTITY, part(f"{number + 1}/8")):
            return True

    with ThreadPoolExecutor(8) as threads:
        for attempt in range(20):
            assert all(threads.map(claim, [tmp_path / f"{attempt}"] * 8, range(8)))
    with locked_file(tmp_path / "0/.shards/2-of-8.lock") as alone:
        assert alone


# Processes


@pytest.mark.slow
def test_two_shards_at_once(capsys, bundles, tmp_path, prompts):
    words = ["quality", bundles("one_level").folder, "--prompts", prompts, "-o"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    command = [sys.executable, "-m", "validation", *map(str, [*words, out]), "--quiet", "--shard"]
    both = [subprocess.Popen([*command, f"{index}/2"]) for index in (1, 2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list(out.glob("pictures/*"))) == 2 * len(PROMPTS)
    for target in (whole, out):
        assert run(capsys, *words, target)[0] == 0
    assert contents(out) == contents(whole)
    assert without_times(out / "quality.json") == without_times(whole / "quality.json")


# python -m runtimes


def test_the_shards_of_the_runtimes(capsys, bundles, tmp_path, prompts):
    words = [str(bundles("one_level").folder), "--prompts-file", str(prompts), *SHORT, "-o"]
    for name in ("whole", "out"):
        (tmp_path / name).mkdir()
    whole, out = (str(tmp_path / name / "p.png") for name in ("whole", "out"))
    assert runtimes_main([*words, whole, "--batch-size", "1"]) == 0
    capsys.readouterr()
    assert runtimes_main([*words, out, "--shard", "2/2"]) == 0
    assert "shard 2/2: 2 of the run's 5 pictures are there" in capsys.readouterr().out
    assert runtimes_main([*words, out, "--shard", "1/2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shard"] == "1/2" and found["seeds"] == [0, 2, 4]
    pictures = [sorted((tmp_path / name).iterdir()) for name in ("whole", "out")]
    assert [path.name for path in pictures[0]] == [path.name for path in pictures[1]]
    assert [path.read_bytes() for path in pictures[0]] == [p.read_bytes() for p in pictures[1]]


def test_a_drawn_seed_is_no_shards(capsys, bundles, tmp_path):
    words = [str(bundles("one_level").folder), "a ring", "-o", str(tmp_path / "p.png")]
    assert runtimes_main([*words, "--seed", "random", "--shard", "1/2"]) == 2
    assert "each shard would draw its own" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
