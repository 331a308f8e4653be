"""The comparison report: right figures, the first fault named, one page that needs nothing else."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import manifests
import numpy as np
import onnx
import pytest
from PIL import Image

from runtimes.bundle.manifest import GOLDEN_FILE
from runtimes.bundle.read import Bundle, open_bundle, sha256
from runtimes.bundle.typed_json import decode
from runtimes.recording import read_golden
from validation.cli import main
from validation.quality.metric import Metric
from validation.report.collect import Comparison
from validation.report.data import STAGES, Report, to_json
from validation.report.page import page

VOID = {"meta", "img", "path", "line", "polyline", "br"}


class Tree(HTMLParser):
    """Every element with its attributes, and the text outside the style sheet."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        # Lines between elements are the template's, not the page's.
        if "style" not in self.open and data.strip():
            self.text += data.replace("\N{NO-BREAK SPACE}", " ")

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def spoil(bundle: Bundle, output: Path, graph: str = "stage_c") -> Path:
    """A copy in which all matrices of one graph are 1 % too large; its manifest vouches for it."""
    folder = Path(shutil.copytree(bundle.folder, output))
    path = folder / graph / "model.onnx"
    model = onnx.load(path)
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.ndim == 2:
            weight.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.01), weight.name))
    onnx.save(model, path)
    manifest = manifests.read(folder)
    name = f"{graph}/model.onnx"
    manifest["files"][name] = {"size": path.stat().st_size, "sha256": sha256(path)}
    manifests.write(folder, manifest)
    return folder


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


@dataclasses.dataclass
class Written:
    code: int
    out: str
    err: str
    html: str
    report: Report
    names: list[str]
    folders: list[Path]


@pytest.fixture(scope="module")
def written(bundles, tmp_path_factory) -> Written:
    """A good bundle and a spoilt one, compared by the command line in a process of its own."""
    root = tmp_path_factory.mktemp("report")
    good = Path(shutil.copytree(bundles("one_level").folder, root / "good"))
    folders = [good, spoil(bundles("one_level"), root / "spoilt")]
    words = [*map(str, folders), "--golden", "--repeats", "2", "--report", str(root / "a/report")]
    done = subprocess.run(
        [sys.executable, "-m", "validation", *words], capture_output=True, text=True, check=False
    )
    value = json.loads((root / "a/report/report.json").read_text(encoding="utf-8"))
    report = decode(Report, value, "report.json")
    html = (root / "a/report/report.html").read_text(encoding="utf-8")
    names = sorted(path.name for path in (root / "a").rglob("*"))
    return Written(done.returncode, done.stdout, done.stderr, html, report, names, folders)


@pytest.fixture
def comparison(written) -> Comparison:
    """The same figures with pictures of noise."""
    reference, *others = np.random.default_rng(0).random((3, 3, 24, 24), dtype=np.float32)
    return Comparison(written.report, reference, tuple(others))


def test_the_first_failing_graph_and_step_are_named(written):
    good, spoilt = written.report.variants
    assert written.code == 1
    assert good.passed and good.failure is None
    failing = [check for check in spoilt.steps if not check.passed]
    assert not spoilt.passed and spoilt.failure is not None
    assert (spoilt.failure.graph, spoilt.failure.step) == ("stage_c", failing[0].step)
    line = written.err.splitlines()[-1]
    assert line.startswith(f"error: spoilt: first fails at stage_c, step {failing[0].step} ")
    assert "text_encoder, stage_c_condition before it hold" in line
    assert spoilt.failure.text in Tree(written.html).text


def test_the_terminal_table_has_a_line_per_variant_and_the_verdict(written):
    lines = {line.split()[0]: line for line in written.out.splitlines() if line}
    assert "hold" in lines["good"] and "FAILED" in lines["spoilt"]
    assert written.report.verdict.text in written.out
    verdict = written.report.verdict.text
    assert "(CPU) ship good: it passes every limit (" in verdict
    assert verdict.endswith("1 of 2 variants passes every limit.")


def test_the_folder_holds_both_files_and_nothing_else(written):
    assert written.names == ["report", "report.html", "report.json"]


def test_figures_are_those_of_the_single_bundle_command(written, capsys):
    for folder, variant in zip(written.folders, written.report.variants, strict=True):
        gate = json.loads(run(capsys, folder, "--golden", "--json")[1])
        assert variant.picture_db == pytest.approx(gate["picture_db"], abs=0.5)
        for mine, theirs in zip(variant.graphs, gate["graphs"], strict=True):
            assert (mine.what, mine.passed) == (theirs["what"], theirs["passed"])
            assert mine.relative == pytest.approx(theirs["relative"], rel=0.2, abs=1e-7)
        golden = read_golden(open_bundle(folder))
        steps = golden.steps("stage_c"), golden.steps("stage_b")
        assert len(variant.steps) == len(variant.trajectory) == sum(steps)


def test_sizes_add_up_to_the_files_on_disk(written):
    for folder, variant in zip(written.folders, written.report.variants, strict=True):
        files = [p for p in folder.rglob("*") if p.is_file() and p.name != "bundle.json"]
        golden = (folder / GOLDEN_FILE).stat().st_size
        assert variant.size == sum(path.stat().st_size for path in files) - golden
        stage_c = folder / "stage_c", folder / "stage_c_condition"
        sizes = [p.stat().st_size for f in stage_c for p in f.rglob("*") if p.is_file()]
        assert variant.bytes["Stage C"] == sum(sizes)


def test_time_and_memory_are_split_by_stage(written):
    for variant in written.report.variants:
        cost = variant.cost
        assert cost is not None
        assert [stage.stage for stage in cost.stages] == list(STAGES)
        for spread in (cost.seconds, cost.load_seconds, *[s.seconds for s in cost.stages]):
            assert 0 < spread.low <= spread.median <= spread.high
        # Of two rounds the median is the mean, so that the stages' add up to the whole's.
        together = sum(stage.seconds.median for stage in cost.stages)
        assert together == pytest.approx(cost.seconds.median)
        assert all(2e7 < stage.peak_bytes <= 1.2 * cost.peak_bytes for stage in cost.stages)


def test_the_environment_says_what_ran_where(written):
    import onnxruntime

    report = written.report
    assert "cores" in report.environment.machine
    assert report.environment.packages["onnxruntime"] == onnxruntime.__version__
    for variant in report.variants:
        assert {p.engine for p in variant.placements.values()} == {
            f"ONNX Runtime {onnxruntime.__version__}"
        }
        assert variant.placements.keys() == variant.stored.keys()
    assert report.environment.machine in Tree(written.html).text


def test_the_page_needs_nothing_else(written):
    tree = Tree(written.html)
    assert not {"script", "link", "iframe", "base", "object"} & {name for name, _ in tree.elements}
    for name, attributes in tree.elements:
        assert not any(key.startswith("on") or key == "href" for key in attributes), name
    assert all(image["src"].startswith("data:image/png;base64,") for image in tree.named("img"))
    assert re.search(r"https?:|url\(|@import", written.html) is None
    policy = [m["content"] for m in tree.named("meta") if "http-equiv" in m]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_the_page_can_be_read_without_seeing_it(written):
    tree = Tree(written.html)
    assert all("alt" in image for image in tree.named("img"))
    described = [image["alt"] for image in tree.named("img") if image["alt"]]
    assert any("Differences of spoilt's picture" in text for text in described)
    assert all(head["scope"] in ("row", "col", "colgroup") for head in tree.named("th"))
    assert len(tree.named("caption")) == len(tree.named("table"))
    charts = [svg for svg in tree.named("svg") if svg.get("role") == "img"]
    assert len(charts) == 6  # two plots, four curves


def test_pictures_are_inside_with_the_differences_of_these_pixels(comparison):
    images = [decoded(image["src"]) for image in Tree(page(comparison)).named("img")]
    reference, scale, *pairs = images
    assert np.abs(reference / 255 - comparison.reference.transpose(1, 2, 0)).max() < 0.51 / 255
    brightest = scale[0].sum(axis=-1)
    assert (np.diff(brightest.astype(int)) > 0).all()
    for picture, drawn, found in zip(pairs[::2], pairs[1::2], comparison.pictures, strict=True):
        assert np.abs(picture / 255 - found.transpose(1, 2, 0)).max() < 0.51 / 255
        off = np.abs(found - comparison.reference).max(axis=0)
        lightness = drawn.sum(axis=-1)
        assert (lightness[off >= 1 / 16] == brightest[-1]).all()
        assert (lightness[off < 1 / 32] < brightest[-1]).all()


def test_an_equal_picture_has_a_black_map(comparison):
    same = dataclasses.replace(comparison, pictures=(comparison.reference,) * 2)
    images = [decoded(image["src"]) for image in Tree(page(same)).named("img")]
    assert (images[3] == images[1][0, 0]).all()


def decoded(uri: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_what_users_wrote_is_text_and_never_markup(comparison):
    evil = "<script>alert(1)</script> & \"quotes' <b onload=x>"
    first, second = comparison.report.variants
    report = dataclasses.replace(
        comparison.report,
        reference=dataclasses.replace(comparison.report.reference, prompt=evil, source=evil),
        model=dataclasses.replace(comparison.report.model, id=evil, prior_id=evil),
        variants=(
            dataclasses.replace(first, name=evil, folder=evil, cost_note=evil, precision=evil),
            second,
        ),
    )
    clean = Tree(page(comparison))
    tree = Tree(page(dataclasses.replace(comparison, report=report)))
    assert tree.text.count(evil) > 10
    names = [name for name, _ in tree.elements]
    extra = ["p"]  # the note on what was not timed
    assert sorted(names) == sorted([name for name, _ in clean.elements] + extra)
    assert any(image["alt"] == f"{evil}'s picture" for image in tree.named("img"))


def test_quality_figures_are_shown_where_there_are_any(comparison):
    assert "Shapes found" not in page(comparison)
    metrics = (
        Metric("Shapes found", 97.5, 95.25, 98.75, "%"),
        Metric("CLIP score", None, note="needs the file x.safetensors"),
    )
    first, second = comparison.report.variants
    variants = (dataclasses.replace(first, quality=metrics), second)
    report = dataclasses.replace(comparison.report, variants=variants)
    text = Tree(page(dataclasses.replace(comparison, report=report))).text
    assert "Shapes found, %97.5 95.25 to 98.75not measured" in text
    assert "CLIP scoreneeds the file x.safetensors" in text
    again = decode(Report, json.loads(to_json(report)), "report.json")
    assert again.variants[0].quality == metrics


def test_the_json_is_strict_where_a_figure_is_not_finite(comparison):
    first, second = comparison.report.variants
    lost = dataclasses.replace(first.graphs[0], relative=np.inf, sqnr_db=-np.inf)
    variants = (dataclasses.replace(first, graphs=(lost, *first.graphs[1:])), second)
    report = dataclasses.replace(comparison.report, variants=variants)
    value = json.loads(to_json(report), parse_constant=pytest.fail)
    assert value["variants"][0]["graphs"][0]["relative"] is None
    assert "not finite" in Tree(page(dataclasses.replace(comparison, report=report))).text
