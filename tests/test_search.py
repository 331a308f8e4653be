"""Searches for a plan: what is predicted against what is measured, and which plans are picked."""

import dataclasses
import io
import itertools
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import spearmanr

from quantization.backends import BACKENDS
from quantization.calibrated import Calibrated
from quantization.calibration import (
    JUDGED,
    default_prompts,
    judging_options,
    judging_runs,
    record,
)
from quantization.cli import main
from quantization.local_noise import form_of, local_noise
from quantization.onnx_files import load
from quantization.onnx_int8 import quantize_int8
from quantization.picking import ladder, levelled, pick
from quantization.plan_file import RECIPES, read_plan
from quantization.powers import product_powers
from quantization.probe import Prediction, matrix, predict, probed, runs
from quantization.quantize import Request, quantize
from quantization.recipes import INT8_WEIGHTS, PRESETS, TARGETS, Int8, Int8Dynamic, in_steps
from quantization.roles import uses
from quantization.rounded_alone import RoundedAlone
from quantization.trial import Trial, evaluation_of, noise_at, open_run, sqnr_db
from runtimes.bundle.manifest import DENOISERS
from runtimes.errors import RunError
from runtimes.plan import Options
from runtimes.progress import Progress

# Of a mean square error over some hundred thousand numbers: what rounding's errors being white and
# uniform leaves open.
WHITE = 0.1
# Of the ranking by 5 runs of a weight in fp32 and the one by quantised graphs, on the demo.
RANK_CORRELATION = 0.9
WIDTH = 96
NO_NORMS = {"smoothing": 0.0, "norm_smoothing": 0.0}  # of a graph without any


@pytest.fixture
def products(tmp_path):
    """A graph of three products of one input, whose sum is epsilon; the last has little effect."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(WIDTH, 64)).astype(np.float32) for _ in range(3)]
    weights[2] *= np.float32(0.01)
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"], f"n{i}") for i in range(3)]
    nodes.append(helper.make_node("Sum", ["y0", "y1", "y2"], ["epsilon"], "sum"))
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("epsilon", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    channels = np.exp(rng.normal(size=WIDTH))
    feeds = [
        {"x": (size * rng.normal(0.5, 1, (2048, WIDTH)) * channels).astype(np.float32)}
        for size in (1, 2, 4)
    ]
    return tmp_path / "model.onnx", feeds


def trial_of(products, recipe):
    path, feeds = products
    return Trial(path, recipe, feeds, evaluation_of(path, feeds))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    "recipe",
    [
        INT8_WEIGHTS,
        in_steps(INT8_WEIGHTS),
        in_steps(RECIPES["int4-weights"]),
        Int8(**NO_NORMS),
        Int8Dynamic(),
    ],
    ids=lambda recipe: f"{recipe.name}-{getattr(recipe, 'activation_bits', 8)}",
)
def test_a_products_own_noise_is_what_onnx_runtime_makes_of_it(products, recipe, kept):
    trial = trial_of(products, recipe)
    model = load(trial.prepared)
    use = next(use for use in uses(model) if use.weight == "w0")
    form = form_of(recipe, use, WIDTH, kept=kept)
    powers = product_powers(trial.prepared, {"w0": {form.block} - {0}}, trial.evaluation.feeds)
    ends = [feed["x"] for feed in trial.evaluation.feeds]
    calibrated = (min(x.min() for x in ends), max(x.max() for x in ends))
    predicted = local_noise(matrix(model, use), form, powers["w0"], calibrated)
    with trial.quantised(skip=["w1", "w2"], keep=["w0"] if kept else []) as graph:
        measured = [
            np.square(graph.run(feed) - epsilon).mean()
            for feed, epsilon in zip(trial.evaluation.feeds, trial.evaluation.expected, strict=True)
        ]
    assert predicted == pytest.approx(measured, rel=WHITE)
    trial.close()


@pytest.mark.parametrize(
    "recipe", [in_steps(INT8_WEIGHTS), Int8Dynamic(), Int8()], ids=lambda recipe: recipe.name
)
def test_plans_after_others_are_written_as_from_the_source(products, tmp_path, recipe):
    """Integers are kept from plan to plan, and the graph is turned and smoothed but once."""
    recipe = dataclasses.replace(recipe, **NO_NORMS) if isinstance(recipe, Int8) else recipe
    trial = trial_of(products, recipe)
    for keep in ((), ("w0",), ("w0", "w1"), ("w1",)):
        with trial.quantised(keep=keep) as graph:
            after_others = [graph.run(feed) for feed in products[1]]
        path, once = (
            tmp_path / "once" / f"{len(keep)}{keep}.onnx",
            dataclasses.replace(recipe, keep=keep),
        )
        BACKENDS["onnx"].handlers[type(recipe)](products[0], path, once, products[1])
        run = open_run(path)
        for first, feed in zip(after_others, products[1], strict=True):
            assert np.array_equal(first, run(feed))
    trial.close()


def test_a_weight_is_rounded_for_the_runs_that_ask_for_it(products):
    trial = trial_of(products, INT8_WEIGHTS)
    feeds = trial.evaluation.feeds
    graph = RoundedAlone(trial.prepared, ["w0", "w1"], lambda name, values: np.rint(values))
    weights = {v.name: numpy_helper.to_array(v) for v in onnx.load(products[0]).graph.initializer}
    for names in (["w0"], ["w1"], ["w0", "w1"], []):
        whole = sum(np.rint(w) if name in names else w for name, w in weights.items())
        for epsilon, feed in zip(graph.run(names, feeds), feeds, strict=True):
            difference = np.abs(epsilon - feed["x"] @ whole).max()
            assert difference < 1e-5 * np.abs(epsilon).max()
    trial.close()


def test_a_prediction_is_the_noise_of_each_weight_and_of_each_exception(products):
    trial = trial_of(products, in_steps(RECIPES["int4-weights"]))
    ran = []
    predicted = predict(trial, lambda: ran.append(1))
    assert len(ran) == runs(trial) == len(probed(trial)) * 5
    for name in trial.values:
        others = [other for other in trial.values if other != name]
        assert predicted.noise[name] == pytest.approx(trial.noise(skip=others), rel=WHITE)
        kept = trial.noise(keep=[name], skip=others)
        assert predicted.kept[name] == pytest.approx(kept, rel=WHITE)
    trial.close()


def test_the_ladder_keeps_no_more_than_it_has_to():
    """Against all subsets, for groups of one size and noise that is alike at all steps."""
    rng = np.random.default_rng(3)
    noise = {str(group): np.full(2, number) for group, number in enumerate(rng.random(7))}
    kept = {group: values / 100 for group, values in noise.items()}
    sizes = dict.fromkeys(noise, 10)
    for budget in (0.05, 0.3, 1.0, 2.5, 9.0):
        keep, skip = ladder(Prediction(noise, kept), np.full(2, budget), sizes)
        fewest = next(
            count
            for count in range(8)
            for chosen in itertools.combinations(noise, count)
            if sum((kept if g in chosen else noise)[g][0] for g in noise) <= budget
        )
        assert (len(keep), skip) == (fewest, ())


def test_the_ladder_goes_to_fp32_where_keeping_everything_is_not_enough():
    noise = {
        group: np.array([level, level]) for group, level in (("a", 9.0), ("b", 8.0), ("c", 7.0))
    }
    kept = {group: values / 10 for group, values in noise.items()}
    keep, skip = ladder(Prediction(noise, kept), np.array([1.6, 1.6]), dict.fromkeys(noise, 1))
    assert skip == ("a",) and set(keep) == {"b", "c"}
    assert ladder(Prediction(noise, kept), np.zeros(2), dict.fromkeys(noise, 1))[1] == tuple("abc")


def picked(products, recipe, target_db):
    trial = trial_of(products, recipe)
    try:
        measured = trial.noise()
        predicted = levelled(trial, predict(trial), measured, trial.evaluation.all)
        plan = pick(trial, predicted, target_db)
        assert plan.noise.tolist() == trial.noise(keep=plan.keep, skip=plan.skip).tolist()
        assert plan.noise.max() <= noise_at(target_db)
        return plan
    finally:
        trial.close()


def test_a_target_takes_better_forms_then_fp32_and_then_is_an_error(products):
    """Four bits are 17 dB, eight about 40 with rounded activations: 43 needs one in fp32."""
    recipe = in_steps(RECIPES["int4-weights"])
    assert picked(products, recipe, 15).keep == ()
    plan = picked(products, recipe, 30)
    assert set(plan.keep) == {"w0", "w1"} and plan.skip == ()
    plan = picked(products, recipe, 43)
    assert plan.skip and "w2" not in plan.skip
    with pytest.raises(RunError, match="every weight as an exception reaches"):
        picked(products, recipe, 120)


def test_a_large_bundle_is_judged_by_a_short_run_with_the_ends_of_a_full_one(bundles, monkeypatch):
    bundle = bundles("demo")
    assert judging_options(bundle) == Options() and judging_runs(bundle) == 3
    monkeypatch.setattr("quantization.calibration.LARGE", 0)
    assert judging_options(bundle, full=True) == Options()
    assert (judging_runs(bundle), judging_runs(bundle, full=True)) == (1, 3)
    options, sampling = judging_options(bundle), bundle.manifest.sampling
    for name, short in (("stage_c", options.timesteps), ("stage_b", options.decoder_timesteps)):
        whole = getattr(sampling, name).timesteps
        assert len(short) == JUDGED[name] + 1 < len(whole)
        assert short[0] == whole[0] and short[-2:] == whole[-2:] and set(short) <= set(whole)


def test_ranges_are_measured_once_for_all_plans_of_a_graph(products, tmp_path):
    """At the public size that takes minutes."""
    path, feeds = products
    told = []
    calibrated = Calibrated(feeds, lambda done, total: told.append((done, total)))
    trial = Trial(path, Int8(**NO_NORMS), calibrated, evaluation_of(path, feeds))
    for keep in ([], ["w0"]):
        with trial.quantised(keep=keep):
            pass
    trial.close()
    quantize_int8(path, tmp_path / "int8.onnx", Int8(**NO_NORMS), calibrated)
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("name", DENOISERS)
def test_weights_are_ranked_as_quantised_graphs_rank_them(bundles, name):
    bundle = bundles("demo")
    judged = record(bundle, default_prompts(bundle.manifest.model)[:1], 29, 77)
    graph = bundle.path(bundle.graph(name).file)
    evaluation = evaluation_of(graph, judged.feeds[name])
    trial = Trial(graph, PRESETS["int4-weights"][name], [], evaluation)
    predicted = predict(trial)
    some = list(trial.groups)[::4]
    measured = []
    for group in some:
        with trial.alone(group) as quantised:
            measured.append(quantised.noise(probed(trial)).max())
    ranks = [predicted.noise[group][probed(trial)].max() for group in some]
    assert spearmanr(ranks, measured).statistic > RANK_CORRELATION
    trial.close()


@pytest.mark.slow
def test_a_large_bundle_is_searched_by_few_runs_and_says_how_long_it_takes(
    bundles, tmp_path, monkeypatch
):
    monkeypatch.setattr("quantization.calibration.LARGE", 0)
    bundle, stream = bundles("demo"), io.StringIO()
    prompts, target = default_prompts(bundle.manifest.model), TARGETS["int4-weights"]
    request = Request("int4-weights", PRESETS["int4-weights"], prompts, 40, 0, target)
    clock = itertools.count(0, 7)
    progress = Progress(stream=stream, clock=lambda: float(next(clock)))
    manifest = quantize(bundle, tmp_path / "b", request, progress)
    assert all(manifest.quantization[name].worst_db >= target for name in DENOISERS)
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("searching")]
    assert any(line.endswith("left") for line in lines)
    assert lines[-1] == "searching, %: 100 of 100"


@pytest.mark.slow
def test_sensitivity_shows_size_speed_and_worst_step_of_plans(bundles, tmp_path, capsys):
    words = ["sensitivity", str(bundles("demo").folder), "-o", str(tmp_path / "found")]
    options = ["--precision", "int4-weights", "--target-db", "22", "--group", "block"]
    assert main([*words, *options, "--runs", "1"]) == 0
    graphs = json.loads((tmp_path / "found" / "sensitivity.json").read_text())["graphs"]
    _, plan = read_plan(tmp_path / "found" / "plan.toml")
    for name in DENOISERS:
        points = graphs[name]["plane"]
        assert points[0]["label"] == "uniform" and points[0]["bytes"] < points[-1]["bytes"]
        assert all(point["speed"] > 0 for point in points)
        kept = len(plan[name].keep)
        assert points[-1]["label"] == f"picked, {kept} kept, 0 in fp32" and kept
        assert points[-1]["worst_db"] == graphs[name]["worst_db"] >= 22
        assert points[-1]["kept"] > 0 == points[-1]["skipped"]
        assert sqnr_db(max(graphs[name]["damages"][0]["noise"])) == pytest.approx(
            graphs[name]["damages"][0]["worst_db"]
        )
    assert "x fp32's speed" in capsys.readouterr().out
    assert (tmp_path / "found" / "sensitivity.png").stat().st_size > 0
