"""validation sweep: every cell measured once, kept, and drawn."""

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import manifests
import pytest

from runtimes.errors import UsageError
from runtimes.pipeline import Pipeline
from validation.cli import main
from validation.plots.svg import round_logarithmic, round_values
from validation.plots.trade_off import Names, Point, frontier, svg
from validation.quality.metric import Metric
from validation.sweep.cells import Finished, Variant
from validation.sweep.grid import Cell, evaluations, grid
from validation.sweep.report import as_json, as_svg, rows_of

SVG = "{http://www.w3.org/2000/svg}"


def run(capsys, *words) -> tuple[int, str, str]:
    code = main(["sweep", *(str(word) for word in words)])
    out = capsys.readouterr()
    return code, out.out, out.err


def figures(folder: Path):
    """sweep.json but for times, and for what is best in time."""
    value = json.loads((folder / "sweep.json").read_text())
    for cell in value["cells"]:
        for variant in cell["variants"]:
            del variant["seconds"], variant["best"]
    return value


class Interrupting:
    """Counts the pictures made, and stops the run at one of them."""

    def __init__(self, monkeypatch, after: int | None = None) -> None:
        self.made, self.after = 0, after
        original = Pipeline.__call__

        def call(pipeline, *args, **kwargs):
            if self.made == self.after:
                raise KeyboardInterrupt
            self.made += 1
            return original(pipeline, *args, **kwargs)

        monkeypatch.setattr(Pipeline, "__call__", call)


def test_the_grid_is_every_combination(bundles):
    sampling = bundles("demo").manifest.sampling
    cells = grid("1,4", "8,default", None, sampling)
    assert cells == [Cell(g, c, None) for g in (1.0, 4.0) for c in (8, None)]
    assert [evaluations(cell, sampling) for cell in cells[:2]] == [(8, 12), (29, 12)]
    assert grid("default,4", None, None, sampling) == [Cell(4.0, None, None)]
    assert len({cell.name for cell in cells}) == 4
    for text, message in (("1,x", "'x' is not a number"), ("4,4.0", "4.0 is there twice")):
        with pytest.raises(UsageError, match=message):
            grid(text, None, None, sampling)
    with pytest.raises(UsageError, match=r"'8\.5' is not a whole number"):
        grid(None, "8.5", None, sampling)


def point(x: float, y: float, second: bool = False, steps: int = 8) -> Point:
    return Point(x, y, y - 1, y + 1, 4.0, steps, 12, second, f"{x}, {y} <&>")


def test_the_frontier_is_what_no_other_beats():
    points = [point(1, 50), point(2, 90), point(2, 80), point(3, 70), point(4, 95), point(9, 95)]
    assert [(p.x, p.y) for p in frontier(points)] == [(1, 50), (2, 90), (4, 95)]


@pytest.mark.parametrize(("low", "high"), [(0.21, 0.29), (3, 700), (98.9, 100.4), (0, 1e-3)])
def test_axes_have_round_values(low, high):
    found = round_values(low, high, most=10)
    assert 4 <= len(found) <= 11
    assert low <= min(found) + 1e-12 and max(found) - 1e-12 <= high
    assert all(float(f"{value:g}") == pytest.approx(value) for value in found)
    assert len(round_logarithmic(max(low, 1e-4), high)) > 2


def test_the_plot_has_a_mark_per_cell_and_is_whole_by_itself():
    points = [point(1, 50), point(2, 90, second=True), point(30, 99.5, steps=29)]
    text = svg(points, Names("a & b", "seconds", "judge: pair, %", ["a", "b"], most=100))
    tree = ET.fromstring(text)
    titles = [group.find(f"{SVG}title").text for group in tree.iter(f"{SVG}g")]
    assert titles == [p.label for p in points]
    fills = [group.find(f"{SVG}path").get("fill") for group in tree.iter(f"{SVG}g")]
    assert [fill == "none" for fill in fills] == [False, True, False]
    shown = [element.text for element in tree.iter(f"{SVG}text")]
    assert {"a & b", "100", "29 Stage C steps", "a", "b"} <= set(shown)
    assert not any(text.replace(".", "").isdigit() and float(text) > 100 for text in shown)
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for element in tree.iter():
        for key in ("x", "x1", "x2"):
            assert 0 <= float(element.get(key, 0)) <= 860
        for key in ("y", "y1", "y2"):
            assert 0 <= float(element.get(key, 0)) <= 460


def test_the_best_are_marked_and_a_cell_without_quality_is_left_out_of_the_plot():
    def cell(guidance: float, seconds: float, quality: float | None) -> Finished:
        metric = Metric("judge: pair", quality, quality, quality, "%")
        variant = Variant("a", Metric("time per picture", seconds, unit="s"), (metric,))
        return Finished(f"{guidance}", guidance, 8, 4, "", (variant,), ())

    cells = [cell(1, 1.0, 70), cell(2, 2.0, 60), cell(4, 3.0, 90), cell(8, 0.1, None)]
    found = as_json(rows_of(cells), {})["cells"]
    assert [c["variants"][0]["best"] for c in found] == [True, False, True, False]
    assert as_svg(rows_of(cells), "").count("<g>") == 3


@pytest.mark.slow
def test_a_sweep_is_kept_cell_by_cell(capsys, bundles, tmp_path, monkeypatch):
    folder, out, whole = bundles("demo").folder, tmp_path / "out", tmp_path / "whole"
    words = [folder, "--guidance", "1,4", "--steps", "3", "--decoder-steps", "2", "--count", "3"]
    with monkeypatch.context() as patched:
        Interrupting(patched, after=4)  # in the middle of the second cell
        code, _, err = run(capsys, *words, "-o", out)
        assert code == 130 and "run it again" in err
    assert len(list(out.glob("cells/*/cell.json"))) == 1 and not (out / "sweep.json").exists()
    with monkeypatch.context() as patched:
        made = Interrupting(patched)
        code, text, err = run(capsys, *words, "-o", out)
        assert code == 0 and made.made == 2 and err.count("there already") == 1
    assert text.count("judge: pair") == 1 and " cores" in text.splitlines()[0]
    assert run(capsys, *words, "-o", whole)[0] == 0
    assert figures(out) == figures(whole)

    value = json.loads((out / "sweep.json").read_text())
    assert [(c["guidance"], c["steps"], c["decoder_steps"]) for c in value["cells"]] == [
        (1.0, 3, 2),
        (4.0, 3, 2),
    ]
    for cell in value["cells"]:
        (own,) = cell["variants"]
        assert 0 < own["seconds"]["low"] <= own["seconds"]["value"] <= own["seconds"]["high"]
        assert {"judge: pair", "Frechet distance, judge"} <= {m["name"] for m in own["metrics"]}
    assert ET.parse(out / "sweep.svg").getroot().tag == f"{SVG}svg"

    with monkeypatch.context() as patched:
        made = Interrupting(patched)
        before = (out / "sweep.json").read_bytes()
        assert run(capsys, *words, "-o", out)[0] == 0
        assert made.made == 0 and (out / "sweep.json").read_bytes() == before
        words[words.index("1,4")] = "1,4,8"
        assert run(capsys, *words, "-o", out)[0] == 0
        assert made.made == 3


def test_a_sweep_of_another_bundle_or_seed_is_refused(capsys, bundles, tmp_path):
    folder, out = bundles("one_level").folder, tmp_path / "out"
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    manifest = manifests.read(other)
    manifest["sampling"]["latent_mean"] *= 1.01
    manifests.write(other, manifest)
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\na blue star\n")
    words = ["--steps", "2", "--decoder-steps", "2", "--prompts", path, "-o", out]
    code, text, _ = run(capsys, folder, *words, "--against", other)
    assert code == 0 and "other against" in text and "PSNR" in text
    value = json.loads((out / "sweep.json").read_text())
    assert len(value["cells"][0]["variants"]) == 2
    for bundle, more, message in (
        (other, ["--against", folder], "holds another run (bundle"),
        (folder, ["--against", other, "--seed", "5"], "holds another run (options"),
    ):
        code, _, err = run(capsys, bundle, *words, *more)
        assert code == 2 and message in err


def test_bad_use(capsys, bundles, tmp_path):
    demo, tiny = bundles("demo").folder, bundles("one_level").folder
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\na blue star\n")
    out = ["-o", tmp_path / "out"]
    for words, message in (
        ([demo], "give --guidance, --steps"),
        ([demo, "--guidance", "-1"], "--guidance is -1"),
        ([demo, "--steps", "0"], "--steps is 0"),
        ([demo, "--steps", "3", "--count", "0"], "--count is 0"),
        ([demo, "--preset", "text-free", "--against", tiny], "leave out --against"),
        ([demo, "--steps", "3", "--reference", demo], "--reference and --prior are for --preset"),
        ([tiny, "--steps", "3"], "give --prompts FILE"),
        ([tiny, "--steps", "3", "--prompts", path], "as --clip-model, or a second bundle"),
        ([demo, "--steps", "3", "--prompts", path], "no quality to measure"),
    ):
        code, _, err = run(capsys, *words, *out)
        assert (code, message in err) == (2, True), err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_text_free_preset_exports_and_compares(capsys, bundles, folders, tmp_path):
    """Stage C does not know of it; Stage B's latents differ."""
    bundle, (decoder, prior) = bundles("one_level"), folders("one_level")
    path, out = tmp_path / "prompts.txt", tmp_path / "out"
    path.write_text("a red circle\na blue star\n")
    words = [bundle.folder, "--preset", "text-free", "--steps", "2", "--decoder-steps", "2"]
    words += ["--prompts", path, "-o", out]
    code, _, err = run(capsys, *words)
    assert code == 2 and "give it as --reference" in err and not out.exists()
    words += ["--reference", decoder, "--prior", prior]
    code, text, err = run(capsys, *words)
    assert code == 0 and "exporting the text-free bundle" in err
    assert f"text-free against {bundle.folder.name}" in text and "PSNR" in text
    manifest = manifests.read(out / "text-free")
    assert manifest["text_graphs"]["stage_b"] is None
    (cell,) = json.loads((out / "sweep.json").read_text())["cells"]
    change = {metric["name"]: metric["value"] for metric in cell["change"]}
    assert change["latent SQNR, Stage C"] == 200
    assert 0 < change["latent SQNR, Stage B"] < 200 and 0 < change["SSIM"] < 1
    code, _, err = run(capsys, *words)
    assert code == 0 and "exporting" not in err and "there already" in err
    code, _, err = run(capsys, out / "text-free", *words[1:-6], "-o", tmp_path / "again")
    assert code == 2 and "is text-free already" in err
