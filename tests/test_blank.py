"""Graphs that give NaN or Inf stop a run, by name; blank outputs are warned of, by name."""

import json

import numpy as np
import pytest
from broken import giving, with_weight

from runtimes.blank import blank_output, blank_pictures, blank_step
from runtimes.bundle.manifest import GRAPHS
from runtimes.cli import main
from runtimes.errors import RunError
from runtimes.pipeline import Pipeline
from runtimes.plan import Options
from runtimes.sampler import NotFinite

SHORT = Options(steps=3, decoder_steps=2)
STEPS = {"stage_c": "step 1 of 3", "stage_b": "step 1 of 2"}
ENGINES = ("onnxruntime", pytest.param("openvino", marks=pytest.mark.slow))


def made(folder, engine="onnxruntime", options=SHORT, prompts=("a", "b")):
    with Pipeline.open(folder, engine=engine) as pipeline:
        return pipeline(list(prompts), "", options)


@pytest.mark.parametrize(
    ("value", "engine"),
    [
        (np.nan, "onnxruntime"),
        pytest.param(np.inf, "onnxruntime", marks=pytest.mark.slow),
        pytest.param(np.nan, "openvino", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("graph", GRAPHS)
def test_what_is_not_finite_stops_the_run_and_names_graph_and_step(
    bundles, tmp_path, value, engine, graph
):
    folder = giving(bundles("one_level"), graph, value, tmp_path / "bundle")
    with pytest.raises(NotFinite) as error:
        made(folder, engine)
    text = str(error.value)
    assert text.startswith(graph) and STEPS.get(graph, "") in text and "NaN" in text


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_one_value_everywhere_is_warned_of_by_name(bundles, tmp_path, graph, engine):
    folder = giving(bundles("one_level"), graph, 0.25, tmp_path / "bundle")
    result = made(folder, engine)
    assert [blank.graph for blank in result.blanks] == [graph]
    assert result.blanks[0].where.startswith(graph)
    assert STEPS.get(graph, "") in result.blanks[0].where


def test_a_black_picture_is_warned_of(bundles, tmp_path):
    result = made(giving(bundles("one_level"), "stage_a", 0, tmp_path / "bundle"))
    assert not result.pictures.any()
    (blank,) = result.blanks
    assert (blank.graph, blank.pictures) == ("stage_a", (0, 1)) and "black" in blank.what


@pytest.mark.parametrize("engine", ENGINES)
def test_a_clamp_does_not_hide_a_spoilt_weight(bundles, tmp_path, engine):
    """Stage A clamps: an engine may make numbers of NaN there, and they are blank then."""
    folder = with_weight(bundles("one_level"), "stage_a", np.nan, tmp_path / "bundle")
    try:
        blanks = made(folder, engine).blanks
    except RunError as error:
        assert "stage_a" in str(error) and "NaN" in str(error)
    else:
        assert [blank.graph for blank in blanks] == ["stage_a"]


def test_streams_summary_and_json_say_which_picture(capsys, bundles, tmp_path):
    folder = giving(bundles("one_level"), "stage_c", 0.5, tmp_path / "bundle")
    words = [str(folder), "a", "-o", str(tmp_path / "p.png"), "--steps", "3", "--decoder-steps=2"]
    line = f"warning: {tmp_path}/p.png: stage_c, step 1 of 3 (t = 1.0000) gave one value all over"
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert line in out and line in err and "--verify" in err
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    (blank,) = json.loads(out)["blank"]
    assert blank["graph"] == "stage_c" and blank["pictures"] == [str(tmp_path / "p.png")]
    assert line in err


def test_sound_runs_are_not_warned_of(bundles):
    guided = Options(steps=3, decoder_steps=2, guidance=4.0, decoder_guidance=2.0)
    for options in (SHORT, guided):
        assert made(bundles("one_level").folder, options=options, prompts=["", "a"]).blanks == ()


def test_only_what_is_the_same_everywhere_is_blank():
    rng = np.random.default_rng(0)
    epsilon = rng.normal(size=(4, 2, 3, 3)).astype(np.float32)
    assert blank_step("stage_b", "here", epsilon, 2) is None
    epsilon[3] = epsilon[3, :, :1, :1]
    assert blank_step("stage_b", "here", epsilon, 2).pictures == (1,)
    epsilon[3, 1, 1, 1] += 1  # the corners are still alike
    assert blank_step("stage_b", "here", epsilon, 2) is None
    assert blank_step("stage_b", "here", epsilon[:, :, :1, :1], 2) is None  # one position
    hidden = np.zeros((2, 7, 4), np.float32)
    assert blank_output("text_encoder", {"hidden": hidden}).graph == "text_encoder"
    hidden[1, 3, 2] = 1
    assert blank_output("text_encoder", {"hidden": hidden}) is None
    pictures = np.zeros((3, 4, 5, 3), np.uint8)
    pictures[1] = 255, 0, 0
    pictures[2, 2, 2, 1] = 1
    assert blank_pictures(pictures).pictures == (0, 1)
    assert "black" in blank_pictures(pictures[:1]).what
    assert "one colour" in blank_pictures(pictures[1:]).what
