"""What a report concludes from its figures, and how it draws them."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

import validation.report
from runtimes.decibels import decibels
from runtimes.engines.base import Placement
from runtimes.tolerances import LIMITS
from validation.parity.gate import Check, Gate
from validation.plots.charts import HEIGHT, WIDTH, Point, Series, line_chart, scatter
from validation.report.data import Cost, Failure, Spread, Variant
from validation.report.verdict import first_failure, limits_of, recommend

CSS = Path(validation.report.__file__).with_name("page.css").read_text(encoding="utf-8")


def check(graph: str, step: int | None, relative: float, limit: float = 1e-2) -> Check:
    least, found = decibels(limit), decibels(relative)
    what = graph if step is None else f"{graph}, step {step}"
    return Check(what, graph, step, 0.0, relative, found, "", least, relative <= limit)


def gate(**errors: list[float]) -> Gate:
    """Errors of text_encoder, and by step of stage_c, stage_b and their latents."""
    steps = [
        check(graph, step, error)
        for graph in ("stage_c", "stage_b")
        for step, error in enumerate(errors.get(graph, [1e-3, 1e-3]), 1)
    ]
    worst = [
        dataclasses.replace(
            max((s for s in steps if s.graph == name), key=lambda s: s.relative), what=name
        )
        for name in ("stage_c", "stage_b")
    ]
    trajectory = [check("stage_c", i, e) for i, e in enumerate(errors.get("latents", [1e-3]), 1)]
    text = check("text_encoder", None, errors.get("text", [1e-3])[0])
    picture = errors.get("picture", [50.0])[0]
    graphs = (text, *worst)
    return Gate("here", {}, graphs, tuple(steps), tuple(trajectory), picture, 40.0)


@pytest.mark.parametrize(
    ("errors", "graph", "step", "said"),
    [
        # Stage B is far worse, but Stage C is wrong first; its worst step is not its first.
        ({"stage_c": [1e-3, 2e-2, 5e-2], "stage_b": [0.9]}, "stage_c", 2, "2 of its 3 steps fail"),
        ({"stage_b": [2e-2]}, "stage_b", 1, "text_encoder, stage_c before it hold"),
        ({"text": [0.5], "stage_c": [0.5]}, "text_encoder", None, "first fails at text_encoder"),
        ({"latents": [1e-3, 1e-3, 2e-2, 3e-2]}, "stage_c", 3, "the 2 steps before it hold"),
        ({"picture": [39.9]}, "stage_a", None, "PSNR of 39.9 dB, less than 40 dB"),
    ],
)
def test_the_first_fault_in_running_order_is_found(errors, graph, step, said):
    failure = first_failure(gate(**errors))
    assert failure is not None and (failure.graph, failure.step) == (graph, step)
    assert said in failure.text


def test_nothing_fails_when_every_limit_holds():
    assert first_failure(gate()) is None
    assert all(limit.passed for limit in limits_of(gate()))


def test_each_kind_of_limit_shows_the_value_nearest_to_it():
    graphs, latents, picture = limits_of(gate(stage_c=[1e-3, 9e-3], latents=[1e-3, 5e-2, 2e-2]))
    assert graphs.passed and graphs.worst == "stage_c, step 2"
    assert not latents.passed and latents.worst == "stage_c, step 2"
    assert latents.found_db == pytest.approx(-20 * math.log10(5e-2))
    assert (latents.least_db, picture.least_db) == (40, 40)


def test_a_limit_that_one_graph_fails_is_not_hidden_by_a_nearer_one():
    tight = check("text_encoder", None, 2e-5, limit=1e-5)
    loose = check("stage_a", None, 0.0999, limit=0.1)
    found = dataclasses.replace(gate(), graphs=(tight, loose))
    assert limits_of(found)[0].worst == "text_encoder"


ORT, OPENVINO = "ONNX Runtime 1", "OpenVINO 2"


def variant(
    name: str, size: float, seconds: tuple[float, float, float] | None, *, ok=True, engine=ORT
):
    """A variant of so many MB; seconds are least, median, greatest."""
    cost = None
    if seconds:
        spread = Spread(seconds[1], seconds[0], seconds[2])
        cost = Cost(spread, spread, 0, ())
    failure = None if ok else Failure("stage_c", 1, "it fails")
    place = {"stage_c": Placement(engine, "CPU", "f32")}
    return Variant(
        name, "", "", "", ok, failure, (), {"other": int(size * 1e6)}, {}, place, {}, (), (), (),
        50.0, 40.0, 0.0, cost, "", (),
    )  # fmt: skip


def test_a_smaller_variant_that_is_slower_on_its_engine_is_not_advised_for_speed():
    small, quick = variant("int8w", 10, (3.3, 3.41, 3.6)), variant("fp32", 40, (0.8, 0.85, 3.5))
    wrong = variant("wrong", 1, (0.1, 0.1, 0.1), ok=False)
    found = recommend([small, quick, wrong])
    assert found.text == (
        "On ONNX Runtime 1 (CPU) ship fp32, the fastest (40.0 MB, 0.85 s once loaded, picture PSNR "
        "50.0 dB), and int8w only where size counts: at 0.25 of the size it takes 4.01 times as "
        "long here (10.0 MB, 3.41 s once loaded, picture PSNR 50.0 dB). 2 of 3 variants pass every "
        "limit."
    )
    assert (found.smallest, found.fastest) == ("int8w", "fp32")


def test_each_engine_has_its_own_advice():
    slow = variant("int8w", 10, (3, 4, 5))
    quick = variant("fp32", 40, (1, 2, 2.5))
    ir = variant("ir", 30, (0.4, 0.5, 0.6), engine=OPENVINO)
    text = recommend([slow, quick, ir]).text
    assert "On ONNX Runtime 1 (CPU) ship fp32, the fastest" in text
    assert "On OpenVINO 2 (CPU) ship ir: it passes every limit (30.0 MB, 0.50 s once loaded" in text


def test_times_that_overlap_decide_nothing():
    small, quick = variant("small", 10, (1.9, 2.4, 5)), variant("quick", 20, (1, 2, 2.5))
    text = recommend([quick, small]).text
    assert "ship small, the smallest, and as fast as quick within this run's spread" in text
    # One slow round of the fastest is no reason to call twice its time the same.
    slower = variant("small", 10, (2.4, 4, 5))
    assert "it takes 2.00 times as long" in recommend([quick, slower]).text


def test_one_that_is_both():
    both = variant("both", 10, (1, 1, 1))
    found = recommend([variant("slow", 20, (2, 2, 2)), both])
    assert "ship both, the smallest and the fastest (10.0 MB" in found.text


def test_what_was_not_timed_is_not_called_slower():
    small, timed = variant("small", 10, None), variant("timed", 20, (1, 1, 1))
    text = recommend([small, timed]).text
    assert "ship timed, the fastest (20.0 MB, 1.00 s once loaded" in text
    assert "small only where size counts: at 0.50 of the size it was not timed here" in text


def test_without_times_size_decides():
    found = recommend([variant("a", 10, None), variant("b", 20, None)])
    assert "ship a, the smallest (10.0 MB, picture PSNR 50.0 dB); nothing was timed" in found.text
    assert found.fastest is None


def test_nothing_to_ship():
    wrong = [variant(name, 1, None, ok=False) for name in "ab"]
    assert recommend(wrong).text == "Ship none of these: all 2 variants fail a limit."
    assert recommend(wrong[:1]).text == "Do not ship a: it fails."
    assert recommend(wrong).smallest is None


def series(index: int, values: list[float], limit: float) -> Series:
    points = tuple(Point(x, y, "", y >= limit) for x, y in enumerate(values, 1))
    return Series(index, f"variant {index}", points, limit)


def drawn(svg: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline points="([^"]*)"', svg)
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]


def test_a_curve_has_a_point_per_step_and_higher_is_higher():
    svg = line_chart("t", "x", "y", [series(0, [60, 50, 55, 20], 30)])
    (line,) = drawn(svg)
    heights = [y for _, y in line]
    assert len(line) == 4 and heights[0] < heights[2] < heights[1] < heights[3]
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in line)
    assert svg.count("failed") == 1 and "limit 30" in svg


def test_an_exact_variant_beside_lossy_ones_is_named_instead_of_drawn():
    exact, lossy = series(0, [120, 118], 100), series(1, [40, 38], 30)
    svg = line_chart("t", "x", "y", [exact, lossy])
    assert len(drawn(svg)) == 1
    assert "variant 0 is above: 118.0 dB or more (limit 100)" in svg
    assert len(drawn(line_chart("t", "x", "y", [exact]))) == 1
    spoilt = series(2, [120, 35], 100)
    assert len(drawn(line_chart("t", "x", "y", [spoilt, lossy]))) == 2


@pytest.mark.parametrize("precision", list(LIMITS))
def test_only_fp32_is_drawn_as_exact(precision):
    limits = LIMITS[precision]
    least = (decibels(limits.graph_error), limits.latent_db, limits.picture_db)
    assert {series(0, [], limit).lossy for limit in least} == {precision != "fp32"}


def test_figures_that_are_not_finite_stay_inside_the_chart():
    svg = line_chart("t", "x", "y", [series(0, [-math.inf, 40], 30)])
    assert "inf" not in svg and "nan" not in svg
    assert max(y for _, y in drawn(svg)[0]) <= HEIGHT


def test_labels_of_neighbours_do_not_cover_each_other():
    close = [series(i, [50 + i / 10], 30) for i in range(6)]
    svg = scatter("t", "x", "y", close)
    labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"(?: class="end")?>variant', svg)
    heights = sorted((float(y) for _, y in labels))
    assert len(labels) == 6
    pairs = [(float(x) > WIDTH / 2, float(y)) for x, y in labels]
    assert len(set(pairs)) == 6 and heights[-1] - heights[0] >= 2 * 16


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_told_from_their_background(theme):
    block = CSS.split(":root {")[1 if theme == "light" else 2].split("}")[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    for text in ("ink", "soft"):
        assert contrast(colours[text], colours["card"]) >= 4.5
        assert contrast(colours[text], colours["page"]) >= 4.5
    for tone in ("ok", "no", "mixed"):
        assert contrast(colours[tone], colours[f"{tone}-back"]) >= 4.5
        assert contrast(colours[tone], colours["card"]) >= 4.5
    for number in range(1, 9):  # graphics: 3 is what WCAG asks of them
        assert contrast(colours[f"s{number}"], colours["card"]) >= 3
    assert contrast(colours["limit"], colours["card"]) >= 3
