"""An export that did not end goes on: what is kept, what is made again, what is refused.

A stand-in writes the graphs here, quickly: what is in them is not what these tests are about.
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import manifests
import pytest
from stub_graphs import SUFFIXES, stub_graph

from exporter import export as export_module
from exporter.cli import main
from exporter.formats.table import BACKENDS
from runtimes.bundle.locks import locked
from runtimes.bundle.manifest import Graph
from runtimes.bundle.read import open_bundle

NAME = "one_level"
GRAPHS = ("text_encoder", "stage_b_condition", "stage_a")


@pytest.fixture
def words(folders, tmp_path):
    decoder, prior = folders(NAME)
    return [tmp_path / "out", "-m", decoder, "--prior", prior, "--no-golden"]


class Made(list):
    """The graphs that were written, in order; `errors` stop some."""

    errors: dict[str, BaseException]

    def start(self, **errors: BaseException) -> None:
        self.clear()
        self.errors = errors

    def write(self, plan, job, manifest, folder, on_bytes) -> Graph:
        if plan.name in self.errors:
            raise self.errors[plan.name]
        self.append(plan.name)
        file = f"{plan.name}/model{SUFFIXES[job.backend]}"
        (folder / plan.name).mkdir()
        made_of = f"{plan.name} {job.backend} {job.precision_of(plan)}"
        (folder / file).write_bytes(stub_graph(made_of, job.backend))
        return Graph(file, job.precision_of(plan), plan.inputs, plan.outputs)


@pytest.fixture(autouse=True)
def made(monkeypatch):
    found = Made()
    found.start()
    monkeypatch.setattr(export_module, "_write_graph", found.write)
    return found


def run(capsys, words, *more, modules=GRAPHS) -> tuple[int, str]:
    code = main([str(word) for word in (*words, *more, "--modules", *modules)])
    out = capsys.readouterr()
    return code, out.out + out.err


def partial(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_an_interrupted_export_goes_on(capsys, words, made, tmp_path):
    """Only the graphs that were not finished are written; the bundle is the one of a single run."""
    made.start(stage_a=KeyboardInterrupt())
    code, text = run(capsys, words)
    assert code == 130 and "--resume goes on" in text
    assert not words[0].exists() and partial(words[0]).is_dir()
    made.start()
    code, text = run(capsys, words, "--resume")
    assert code == 0 and made == ["stage_a"]
    assert "[1/3] text_encoder: kept" in text and "[3/3] stage_a: " in text
    assert hidden(tmp_path) == []
    whole = [tmp_path / "whole", *words[1:]]
    assert run(capsys, whole)[0] == 0
    bundles = [open_bundle(out, hashes="fresh") for out in (words[0], whole[0])]
    assert bundles[0].manifest == bundles[1].manifest
    assert words[0].stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_nothing_unless_it_may_be_resumed(capsys, words, made, tmp_path):
    made.start(stage_a=OSError(28, "No space left on device"))
    assert run(capsys, words)[0] == 1
    assert hidden(tmp_path) == []
    code, text = run(capsys, words, "--resume")
    assert code == 1 and "the disk is full" in text
    assert hidden(tmp_path) == [".out.partial"]
    made.start()
    assert run(capsys, words, "--resume")[0] == 0
    assert made == ["stage_a"]


def test_a_failure_of_the_first_graph_leaves_nothing(capsys, words, made, tmp_path):
    made.start(text_encoder=OSError(28, "No space left on device"))
    assert run(capsys, words, "--resume")[0] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["changed", "shorter", "missing", "record"])
def test_a_damaged_graph_is_made_again(capsys, words, made, how):
    made.start(stage_a=KeyboardInterrupt())
    run(capsys, words)
    graph = partial(words[0]) / "text_encoder/model.onnx"
    if how == "changed":
        content = bytearray(graph.read_bytes())
        content[-1] ^= 0xFF
        graph.write_bytes(content)
    elif how == "shorter":
        graph.write_bytes(graph.read_bytes()[:-1])
    elif how == "missing":
        graph.unlink()
    else:
        (partial(words[0]) / "text_encoder.json").write_text("{")
    made.start()
    code, text = run(capsys, words, "--resume")
    assert code == 0 and made == ["text_encoder", "stage_a"]
    assert how == "record" or "text_encoder: its files have changed since" in text
    open_bundle(words[0], hashes="fresh")


@pytest.mark.parametrize(
    ("other", "again"),
    [
        (["--precision", "fp16"], ["text_encoder", "stage_a"]),  # conditions are fp32 in both
        (["--static"], ["text_encoder", "stage_b_condition", "stage_a"]),
        (["--stage-b-text", "drop"], ["stage_b_condition", "stage_a"]),
        (["--backend", "openvino"], ["text_encoder", "stage_b_condition", "stage_a"]),
        (["--height", "144"], ["stage_a"]),  # a default of the manifest, in no graph
    ],
)
def test_graphs_of_other_options_are_not_kept(capsys, words, made, other, again):
    made.start(stage_a=KeyboardInterrupt())
    run(capsys, words)
    made.start()
    assert run(capsys, words, "--resume", *other)[0] == 0
    assert made == again
    open_bundle(words[0], hashes="fresh")


def test_graphs_of_another_layout_are_not_kept(capsys, words, made, monkeypatch):
    """It is a constant of the code, which a later version may choose otherwise."""
    made.start(stage_a=KeyboardInterrupt())
    run(capsys, words)
    made.start()
    monkeypatch.setitem(BACKENDS, "onnx", replace(BACKENDS["onnx"], layout="nhwc"))
    assert run(capsys, words, "--resume")[0] == 0
    assert made == list(GRAPHS)


def test_graphs_of_other_weights_are_not_kept(capsys, folders, tmp_path, made):
    """The same folder, one weight changed in place: sizes and names say nothing."""
    decoder, prior = (shutil.copytree(f, tmp_path / f.name) for f in folders(NAME))
    words = [tmp_path / "out", "-m", decoder, "--prior", prior, "--no-golden"]
    made.start(stage_a=KeyboardInterrupt())
    run(capsys, words)
    file = prior / "text_encoder/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 0x01
    file.write_bytes(content)
    made.start()
    assert run(capsys, words, "--resume")[0] == 0
    assert made == ["text_encoder", "stage_a"]


def test_modules_are_added_to_a_bundle(capsys, words, made, tmp_path):
    assert run(capsys, words, modules=["stage_a"])[0] == 0
    inode = (words[0] / "stage_a/model.onnx").stat().st_ino
    made.start()
    assert run(capsys, words, "--resume", modules=["text_encoder"])[0] == 0
    assert made == ["text_encoder"]
    bundle = open_bundle(words[0], hashes="fresh")
    assert list(bundle.manifest.graphs) == ["text_encoder", "stage_a"]
    assert bundle.path("stage_a/model.onnx").stat().st_ino == inode  # linked, not copied
    assert hidden(tmp_path) == []


def test_a_damaged_graph_of_a_bundle_is_made_again(capsys, words, made):
    """Also when it was not asked for: the bundle would lose it."""
    run(capsys, words, modules=["stage_a"])
    data = words[0] / "stage_a/model.onnx"
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    made.start()
    code, text = run(capsys, words, "--resume", modules=["text_encoder"])
    assert code == 0 and made == ["text_encoder", "stage_a"]
    assert "stage_a: its files have changed since; it is exported again" in text
    open_bundle(words[0], hashes="fresh")


def test_a_bundle_of_other_options_is_not_lost(capsys, words, made):
    run(capsys, words, modules=["stage_a"])
    before = {p: p.read_bytes() for p in words[0].rglob("*") if p.is_file()}
    more = ["--resume", "--precision", "fp16"]
    code, text = run(capsys, words, *more, modules=["text_encoder"])
    assert code == 2 and text.count("\n") == 1
    assert "holds stage_a of another checkpoint, with other options" in text
    assert before == {p: p.read_bytes() for p in words[0].rglob("*") if p.is_file()}
    made.start()
    assert run(capsys, words, *more, "--overwrite", modules=["stage_a"])[0] == 0
    assert made == ["stage_a"]


def test_a_quantised_graph_is_not_kept(capsys, words, made):
    """Its origin is that of the graph it was made from, and it is another graph."""
    run(capsys, words, modules=["stage_a"])
    done = {"recipe": "int8", "weights": [], "bytes_before": 2, "bytes_after": 1}
    manifests.edit(words[0], lambda m: m.update(quantization={"stage_a": done}))
    assert run(capsys, words, "--resume", modules=["text_encoder"])[0] == 2


def test_an_unfinished_export_is_not_thrown_away(capsys, words, made, tmp_path):
    made.start(stage_a=KeyboardInterrupt())
    run(capsys, words)
    code, text = run(capsys, words)
    assert code == 2 and "give --resume to go on from them, or --overwrite to start" in text
    made.start()
    assert run(capsys, words, "--overwrite")[0] == 0
    assert made == list(GRAPHS)
    assert hidden(tmp_path) == []


def test_an_old_bundle_stays_until_the_new_one_is_whole(capsys, words, made):
    run(capsys, words, modules=["stage_a"])
    before = (words[0] / "bundle.json").read_bytes()
    made.start(stage_b_condition=KeyboardInterrupt())
    assert run(capsys, words, "--resume")[0] == 130
    assert (words[0] / "bundle.json").read_bytes() == before
    open_bundle(words[0], hashes="fresh")
    made.start()
    assert run(capsys, words, "--resume")[0] == 0
    assert made == ["stage_b_condition"]


SLOW = """
import sys, time
import test_resume
from exporter import cli, export
made = test_resume.Made()
made.start()
def write(plan, *rest):
    time.sleep(60 if plan.name == "stage_b_condition" else 0)
    return made.write(plan, *rest)
export._write_graph = write
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_export_goes_on(capsys, words, made):
    """SIGKILL in the second graph: no handler runs, the finished one is there all the same."""
    given = [str(word) for word in (*words, "--modules", *GRAPHS)]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *given], cwd=Path(__file__).parent)
    record, deadline = partial(words[0]) / "text_encoder.json", time.monotonic() + 60
    while not record.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not words[0].exists() and record.exists()
    assert run(capsys, words, "--resume")[0] == 0
    assert made == ["stage_b_condition", "stage_a"]
    open_bundle(words[0], hashes="fresh")
    assert not partial(words[0]).exists()


def test_two_exports_to_one_place(capsys, words, tmp_path):
    folder = partial(words[0])
    folder.mkdir()
    with locked(folder):
        code, text = run(capsys, words)
    assert code == 1 and f"another export to {words[0]} is running" in text
    assert not words[0].exists()


def test_the_second_export_waits_for_the_first_ones_records(capsys, words, made):
    """Whatever it would read of a running export may be gone a moment later."""
    made.start(stage_a=KeyboardInterrupt())
    run(capsys, words)
    with locked(partial(words[0])):
        for more in (["--resume"], ["--overwrite"], []):
            code, text = run(capsys, words, *more)
            assert code == 1 and "is running; wait for it" in text
    assert (partial(words[0]) / "text_encoder.json").exists()


def test_a_finished_graph_is_not_left_out_unasked(capsys, words, made):
    made.start(stage_a=KeyboardInterrupt())
    run(capsys, words)
    more = ["--resume", "--precision", "fp16"]
    code, text = run(capsys, words, *more, modules=["stage_a"])
    assert code == 2 and "holds text_encoder, made from other weights or options" in text
    assert (partial(words[0]) / "text_encoder.json").exists()
    made.start()
    code, text = run(capsys, words, *more, "--overwrite", modules=["stage_a"])
    assert (
        code == 0 and "text_encoder: it was made from other weights or options; it is left" in text
    )
    assert list(open_bundle(words[0]).manifest.graphs) == ["stage_b_condition", "stage_a"]


def test_disk_that_will_be_given_up_counts_as_free(capsys, words, made, monkeypatch):
    made.start(stage_a=KeyboardInterrupt())
    run(capsys, words)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    for more in ("--resume", "--overwrite"):
        assert run(capsys, words, more)[0] == 2
    unfinished = partial(words[0]) / "stage_a/model.onnx"
    unfinished.parent.mkdir(exist_ok=True)
    unfinished.write_bytes(bytes(100_000_000))
    made.start()
    assert run(capsys, words, "--overwrite")[0] == 0


def test_a_refused_export_makes_no_folders(capsys, words, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    code, text = run(capsys, [tmp_path / "new/er/out", *words[1:]])
    assert code == 2 and "1000" not in text and "of disk and" in text
    assert list(tmp_path.iterdir()) == []


def test_without_links_files_are_copied(capsys, words, made, monkeypatch):
    def no_links(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    run(capsys, words, modules=["stage_a"])
    made.start()
    assert run(capsys, words, "--resume", modules=["text_encoder"])[0] == 0
    assert made == ["text_encoder"]
    open_bundle(words[0], hashes="fresh")
