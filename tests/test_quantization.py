"""Quantised bundles: what is stored, how exact it is, what is refused."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from filelock import FileLock

from exporter.options import ExportOptions
from quantization import calibration
from quantization.calibration import _spread, default_prompts, record
from quantization.channels_last import channels_last
from quantization.cli import main
from quantization.integers import quantized
from quantization.onnx_files import load, save
from quantization.onnx_int8 import _extremes, quantize_int8
from quantization.plan_file import read_plan, write_plan
from quantization.quantize import Request, quantize
from quantization.recipes import INT8_WEIGHTS, PRESETS, UNTOUCHED, Int8, Int8Dynamic
from quantization.roles import Use, uses
from quantization.smoothing import normed, norms, smooth
from quantization.trial import Evaluation, Trial
from runtimes import Options, Pipeline
from runtimes.bundle.manifest import DENOISERS, GRAPHS
from runtimes.bundle.read import open_bundle
from runtimes.engines.base import Execution
from runtimes.engines.table import BundleGraphs
from runtimes.errors import RunError
from runtimes.recording import read_golden
from runtimes.similarity import psnr_db
from runtimes.tolerances import LIMITS
from validation.parity.gate import run_gate

SAMPLES = 40
# Everything named: what can be read in two ways may come out as the other picture.
PROMPT = (
    "a large red circle on the left and a small blue star at the top right on a white background"
)


@pytest.fixture(scope="module")
def made(bundles, tmp_path_factory):
    """The demo bundle in a preset's precision."""
    root, found = tmp_path_factory.mktemp("quantized"), {}

    def get(precision):
        if precision not in found:
            bundle = bundles("demo")
            prompts = default_prompts(bundle.manifest.model)
            request = Request(precision, PRESETS[precision], prompts, SAMPLES, 0)
            quantize(bundle, root / precision, request)
            found[precision] = open_bundle(root / precision, hashes="fresh")
        return found[precision]

    return get


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_weights_keep_35_db_in_every_step_on_both_engines(bundles, shared, engine):
    """With fp32 activations, as the exceptions of the preset have them."""
    folder = shared / "int8-weights-fp32-activations"
    with FileLock(shared / f"{folder.name}.lock"):
        if not folder.exists():
            request = Request("int8-weights", dict.fromkeys(GRAPHS, INT8_WEIGHTS), [], SAMPLES, 0)
            quantize(bundles("demo"), folder, request)
    check_35_db(open_bundle(folder), engine)


@pytest.mark.slow
def test_int8_weights_keep_35_db_on_onnx_runtime_with_few_exceptions(bundles, tmp_path):
    """The preset as the command line makes it: most activations are rounded, too."""
    words = [str(bundles("demo").folder), str(tmp_path / "b"), "--precision", "int8-weights"]
    assert main([*words, "--quiet"]) == 0
    bundle = open_bundle(tmp_path / "b")
    check_35_db(bundle, "onnxruntime")
    for name in DENOISERS:
        stored = [w.stored for w in bundle.manifest.quantization[name].weights if not w.reason]
        rounded = [text for text in stored if text.startswith("int8 weights, activations too")]
        assert len(stored) / 2 < len(rounded) < len(stored)


def check_35_db(bundle, engine):
    execution = Execution(engine=engine, precision="f32" if engine == "openvino" else None)
    gate = run_gate(bundle, BundleGraphs(bundle, execution), read_golden(bundle))
    assert gate.failures == []
    least = LIMITS["int8-weights"].graph_db
    assert min(check.sqnr_db for check in (*gate.graphs, *gate.steps)) >= least


@pytest.mark.parametrize(
    "precision",
    ["int8", *(pytest.param(p, marks=pytest.mark.slow) for p in ("int8-dynamic", "int4-weights"))],
)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_uniform_plans_make_the_picture_on_both_engines(made, bundles, precision, engine):
    """What they lose is measured by the gate; here: the same picture, more or less."""
    options = Options(seed=1, steps=8, decoder_steps=4)
    pictures = []
    for bundle in (made(precision), bundles("demo")):
        with Pipeline.open(bundle, engine=engine) as pipeline:
            pictures.append(pipeline(PROMPT, options=options).image[0])
    assert psnr_db(*pictures, peak=1) > LIMITS["int8"].picture_db


@pytest.mark.slow
def test_every_weight_is_in_the_record_with_what_became_of_it(made):
    for precision in ("int8", "int8-dynamic", "int8-weights", "int4-weights"):
        bundle = made(precision)
        assert bundle.manifest.precision == precision
        held = bundle.manifest.graphs.keys() - UNTOUCHED.keys()
        assert bundle.manifest.quantization.keys() == held
        for name, record_ in bundle.manifest.quantization.items():
            graph = bundle.manifest.graphs[name]
            assert graph.precision == record_.recipe
            assert record_.bytes_after < record_.bytes_before
            assert all(bool(w.reason) == (w.stored == "float32") for w in record_.weights)
            stored = {w.name for w in record_.weights if not w.reason}
            model = onnx.load(bundle.path(graph.file))
            kept = {v.name for v in model.graph.initializer
                    if v.data_type == onnx.TensorProto.FLOAT and len(v.dims) > 1}  # fmt: skip
            assert stored and not stored & kept
            onnx.checker.check_model(str(bundle.path(graph.file)), full_check=True)


def test_denoisers_of_an_int8_bundle_compute_in_int8(made):
    """By ONNX Runtime's own optimised graph, which `kernels` reads."""
    record_ = made("int8").manifest.quantization["stage_b"]
    both = [w for w in record_.weights if w.stored == "int8 weights and activations"]
    assert {w.kernel for w in both} == {"MatMulIntegerToFloat"} and len(both) == 72
    calibration = made("int8").manifest.calibration
    assert (calibration.samples, calibration.seed, len(calibration.sha256)) == (SAMPLES, 0, 64)


@pytest.mark.slow
def test_two_runs_make_the_same_bytes(made, bundles, tmp_path):
    bundle = bundles("demo")
    prompts = default_prompts(bundle.manifest.model)
    request = Request("int8", PRESETS["int8"], prompts, SAMPLES, 0)
    quantize(bundle, tmp_path / "again", request)
    assert open_bundle(tmp_path / "again").manifest.files == made("int8").manifest.files


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (8, 32), (4, 16)])
def test_integers_times_scale_are_within_half_a_step(bits, group):
    weight = np.random.default_rng(0).normal(size=(24, 64, 1, 1)).astype(np.float32)
    integers, scale = quantized(weight, Use("w", "n", "Conv", 0, 1, ""), bits, group)
    assert np.abs(integers).max() == 2 ** (bits - 1) - 1
    wide = np.repeat(scale, group, axis=1) if group else scale.reshape(-1, 1, 1, 1)
    assert (np.abs(integers * wide - weight) <= wide / 2 * 1.0001).all()


def test_smoothing_changes_ranges_and_nothing_else(bundles, tmp_path):
    """Exact up to rounding, and it fires once for every norm in front of products."""
    bundle = bundles("demo")
    path = bundle.path(bundle.graph("stage_c").file)
    samples = record(bundle, default_prompts(bundle.manifest.model)[:2], 29, 0)
    feeds = samples.feeds["stage_c"][:4]
    model = load(path)
    extremes = _extremes(model, path, feeds)
    channels_last(model)
    norms_there = list(normed(model))
    assert len(norms_there) == norms(model) == 21
    before = {v.name: v.const_value.numpy() for v in model.graph.initializers.values()}
    moved = smooth(model, extremes, 0.5, 0.7)
    after = {v.name: v.const_value.numpy() for v in model.graph.initializers.values()}
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    # All but attention's output, which is behind no norm.
    assert sorted(changed) == sorted(moved) and len(changed) == 7 * 5
    for name in changed:
        spread, earlier = (np.abs(ends[name]).max(axis=0) for ends in (moved, extremes))
        assert spread.max() / np.median(spread) < earlier.max() / np.median(earlier)
    save(model, tmp_path / "graph" / "model.onnx")
    for sample in feeds:
        first, second = (
            onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, sample)[0]
            for m in (path, tmp_path / "graph" / "model.onnx")
        )
        assert np.linalg.norm(first - second) <= 1e-5 * np.linalg.norm(first)


def test_samples_are_spread_over_all_steps_and_prompts():
    for samples, steps, prompts in ((29, 29, 16), (64, 29, 16), (64, 12, 16), (40, 12, 3)):
        chosen = _spread(samples, steps, prompts)
        counts = np.bincount([s for own in chosen.values() for s in own], minlength=steps)
        assert counts.sum() == min(samples, steps * prompts)
        assert counts.max() - counts.min() <= 1
        assert len(chosen) == min(prompts, samples)


@pytest.mark.slow
def test_a_large_bundle_runs_no_more_prompts_than_its_samples_need(bundles, monkeypatch):
    """There a picture takes minutes."""
    bundle = bundles("public")
    steps = len(bundle.manifest.sampling.stage_c.schedule)
    monkeypatch.setattr(calibration, "LARGE", 0)
    samples = record(bundle, ["a", "b", "c", "d"], steps + 1, 0)
    assert samples.about.prompts == 2
    assert len(samples.feeds["stage_c"]) == steps + 1


def test_a_plan_file_says_what_it_was_written_from(tmp_path):
    plan = dict(PRESETS["int8"]) | {"stage_b": Int8(keep=("a.weight", "b.weight"), smoothing=0.25)}
    write_plan(tmp_path / "plan.toml", "int8", plan)
    # What is left as it is has no table in the file.
    kept = {name: recipe for name, recipe in plan.items() if recipe is not None}
    assert read_plan(tmp_path / "plan.toml") == ("int8", kept)


def test_exceptions_of_a_plan_are_in_the_bundle(bundles, tmp_path):
    bundle = bundles("demo")
    names = [
        u.weight for u in uses(onnx_ir.load(bundle.path("stage_b/model.onnx"))) if not u.reason
    ]
    recipe = dataclasses.replace(INT8_WEIGHTS, skip=tuple(names[:2]))
    request = Request("int8-weights", {"stage_b": recipe}, [], SAMPLES, 0)
    manifest = quantize(bundle, tmp_path / "b", request)
    record_ = manifest.quantization["stage_b"]
    assert [w.name for w in record_.weights if w.reason == "the plan skips it"] == names[:2]
    assert manifest.graphs["stage_c"].precision == "fp32"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --precision, --average-bits or --plan"),
        (["--plan", "node.toml", "--target-db", "30"], "--target-db picks a plan"),
        (["--precision", "int8", "--samples", "5"], "--samples 5 misses some timesteps"),
        (["--precision", "int8", "--calibration", "none.txt"], "none.txt cannot be read"),
        (["--precision", "int8", "--calibration", "empty.txt"], "empty.txt holds no prompts"),
        (["--precision", "int8", "--calibration", "twice.txt"], "line 3 is the same as line 1"),
        (["--plan", "bad.toml"], "bad.toml is no TOML"),
        (["--plan", "graph.toml"], "unknown graph 'stage_d'"),
        (
            ["--plan", "node.toml"],
            "names 'blocks.99.weight', which is no weight of stage_b",
        ),
        (["--plan", "bias.toml"], "[stage_b] names 'blocks.0.contract.bias'"),
        (["--plan", "both.toml"], "[stage_b] names 'blocks.0.contract.weight' twice"),
        (["--plan", "key.toml"], "unknown key 'colour'"),
        (["--plan", "none.toml"], "none.toml: it has a recipe for no graph"),
        (["--plan", "name.toml"], "precision is 'fp16', which names the bundle, and no graph gets"),
        (["--precision", "palette6"], "palette6 is not available for onnx bundles (stage_c)"),
        (["--precision", "fp16-weights", "--target-db", "40"], "fp16-weights takes no exceptions"),
        (["--precision", "int8", "--target-db", "nan"], "--target-db is nan"),
        (["--precision", "int8", "--target-db", "-3"], "--target-db is -3.0"),
        (["--precision", "int8", "--samples", "3"], "--samples 3 misses some timesteps"),
        (["--precision", "int8", "--calibration", "few.txt"], "(--calibration) has 3; give 4"),
    ],
)
def test_bad_input(capsys, bundles, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    stage_b = 'precision = "int8"\n[stage_b]\nrecipe = "int8"\n'
    files = {
        "empty.txt": "\n\n",
        "twice.txt": "a star\na ring\na star\n",
        "bad.toml": "precision = ",
        "graph.toml": 'precision = "int8"\n[stage_d]\nrecipe = "int8"\n',
        "few.txt": "a star\na ring\na square\n",
        "none.toml": 'precision = "int8"\n',
        "name.toml": stage_b.replace('"int8"', '"fp16"', 1),
        "bias.toml": stage_b + 'keep = ["blocks.0.contract.bias"]\n',
        "both.toml": stage_b + 'keep = ["blocks.0.contract.weight"]\n'
        'skip = ["blocks.0.contract.weight"]\n',
        "node.toml": stage_b + 'keep = ["blocks.99.weight"]\n',
        "key.toml": stage_b + "colour = 3\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main([str(bundles("demo").folder), "out", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_target_that_the_uniform_recipe_reaches_keeps_nothing(bundles, tmp_path, capsys):
    words = [str(bundles("demo").folder), str(tmp_path / "b"), "--precision", "int4-weights"]
    assert main([*words, "--target-db", "9"]) == 0
    records = open_bundle(tmp_path / "b").manifest.quantization
    for name in ("stage_c", "stage_b"):
        assert 9 <= records[name].worst_db < 20
        assert not [w for w in records[name].weights if w.stored.startswith("int8")]
    assert records["stage_a"].worst_db is None
    assert "worst step" in capsys.readouterr().out


@pytest.mark.slow
def test_a_target_out_of_reach_is_an_error_and_writes_nothing(bundles, tmp_path):
    """One that fp32 itself would miss with its channels last: there is always one below."""
    bundle = bundles("demo")
    prompts = default_prompts(bundle.manifest.model)[:4]
    plan = {"stage_b": Int8Dynamic(skip=())}
    request = Request("int8-dynamic", plan, prompts, SAMPLES, 0, target_db=150)
    with pytest.raises(RunError, match="every weight as an exception reaches"):
        quantize(bundle, tmp_path / "b", request)
    assert list(tmp_path.iterdir()) == []


def test_a_cpu_without_int8_products_is_warned_of(bundles, tmp_path, capsys, monkeypatch):
    words = [str(bundles("demo").folder), str(tmp_path / "b"), "--precision", "int8"]
    for flags, warned in (({"avx2"}, True), ({"avx2", "avx512_vnni"}, False), (set(), False)):
        monkeypatch.setattr("quantization.cli.cpu_flags", lambda flags=flags: frozenset(flags))
        assert main([*words, "--samples", "1"]) == 2
        assert ("warning: this CPU has no int8" in capsys.readouterr().err) == warned


def test_groups_of_weights_are_blocks(bundles):
    path = bundles("demo").path("stage_b/model.onnx")
    trial = Trial(path, INT8_WEIGHTS, [], Evaluation([], []), "block")
    assert trial.groups["blocks.0"] == ["blocks.0.expand.weight", "blocks.0.contract.weight"]
    grouped = [name for group in trial.groups.values() for name in group]
    assert sorted(grouped) == sorted(trial.values)
    trial.close()


def test_what_cannot_be_quantised_is_refused(capsys, made, bundles, tmp_path):
    once = made("int8-weights").folder
    assert main([str(once), str(tmp_path / "b"), "--precision", "int8"]) == 2
    assert "is int8-weights already" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_not_written_into_its_source(capsys, bundles):
    folder = bundles("demo").folder
    before = sorted(folder.rglob("*"))
    assert main([str(folder), str(folder / "in"), "--precision", "int8-weights"]) == 2
    assert "is inside the bundle" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_a_graph_without_weights_to_quantise_stays_as_it_is(capsys, bundles, tmp_path):
    """A text-free bundle's condition graph only resizes."""
    source = bundles("public", ExportOptions(text=False))
    words = [str(source.folder), str(tmp_path / "b"), "--precision", "int8-weights"]
    assert main([*words, "--target-db", "0"]) == 0
    found = open_bundle(tmp_path / "b", hashes="fresh").manifest
    assert found.graphs["stage_b_condition"] == source.manifest.graphs["stage_b_condition"]
    assert all(weight.reason for weight in found.quantization["stage_b_condition"].weights)
    assert found.graphs["stage_b"].precision == "int8-weights"


def test_quantization_needs_no_torch(bundles, tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'diffusers'):\n"
        "    sys.modules[name] = None\n"
        "from quantization.cli import main\n"
        f"sys.exit(main([{str(bundles('demo').folder)!r}, {str(tmp_path / 'b')!r},"
        " '--precision', 'int8-weights', '--target-db', '0', '--json']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == {*bundles("demo").manifest.graphs} - UNTOUCHED.keys()


@pytest.mark.parametrize("left", [0, 20])
def test_smoothing_that_passes_a_norm_over_is_an_error(bundles, tmp_path, monkeypatch, left):
    """It would cost a few dB, and nobody would notice."""
    graph = bundles("demo").path("stage_c/model.onnx")
    widths = {use.weight: load(graph).graph.initializers[use.weight].shape[1]
              for use in uses(load(graph)) if not use.reason}  # fmt: skip
    ends = {name: (-np.ones(n, np.float32), np.ones(n, np.float32)) for name, n in widths.items()}
    monkeypatch.setattr("quantization.onnx_int8._extremes", lambda *_: ends)
    monkeypatch.setattr("quantization.onnx_int8.normed", lambda model: list(normed(model))[:left])
    (tmp_path / "made").mkdir()
    message = rf"stage_c/model.onnx: smoothing found the products behind {left} of 21 norms"
    with pytest.raises(RunError, match=message):
        quantize_int8(graph, tmp_path / "made" / "model.onnx", Int8(), [])


def test_the_table_of_backends_needs_none_of_their_packages():
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnx_ir', 'onnxruntime', 'openvino', 'nncf', 'coremltools'):\n"
        "    sys.modules[name] = None\n"
        "import quantization.cli, quantization.backends\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
