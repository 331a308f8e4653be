"""OpenVINO bundles whose denoisers compute in int8: exactness, exceptions, what really runs."""

import numpy as np
import openvino
import pytest
from openvino_cases import IR, KEEP, as_ir, damage, source, weighted

from quantization.calibration import default_prompts, record
from quantization.openvino_int8 import quantize_int8
from quantization.openvino_weights import read
from quantization.quantize import Request, quantize
from quantization.recipes import Int8
from runtimes.bundle.read import open_bundle
from runtimes.recording import read_golden
from runtimes.tolerances import LIMITS

STEPS = 29  # of Stage C, the longer run: the fewest samples that miss no timestep
SKIP = "blocks.0.expand.weight"


@pytest.fixture(scope="module")
def ir(bundles, tmp_path_factory):
    return as_ir(bundles("demo"), tmp_path_factory.mktemp("ir") / "bundle")


@pytest.fixture(scope="module")
def prompts(ir):
    return default_prompts(ir.manifest.model)[:8]


@pytest.fixture(scope="module")
def feeds(ir, prompts):
    return record(ir, prompts, STEPS, 0).feeds


@pytest.fixture(scope="module")
def judged(ir):
    """Feeds of a run that nothing was calibrated on."""
    return record(ir, default_prompts(ir.manifest.model)[-1:], STEPS, 77).feeds


@pytest.fixture(scope="module")
def by_plan(ir, prompts, tmp_path_factory):
    """The demo's bundle with Stage B in int8 but for some weights."""
    folder = tmp_path_factory.mktemp("planned") / "bundle"
    plan = {"stage_b": Int8(keep=KEEP, skip=(SKIP,))}
    quantize(ir, folder, Request("int8", plan, prompts, STEPS, 0))
    return open_bundle(folder, hashes="fresh")


@pytest.fixture(scope="module")
def uniform(ir, feeds, tmp_path_factory):
    """Both denoisers in int8, no exceptions: their folder, and what became of the weights."""
    root = tmp_path_factory.mktemp("uniform")
    names = ("stage_c", "stage_b")
    return root, {
        name: quantize_int8(source(ir, name), root / name / IR, Int8(), feeds[name])
        for name in names
    }


def test_int8_computes_convolutions_in_int8_and_nothing_else(uniform, ir):
    root, weights = uniform
    for name, count in (("stage_c", 42), ("stage_b", 70)):
        model = read(root / name / IR)
        both = [w.name for w in weights[name] if w.stored == "int8 weights and activations"]
        assert len(both) == count
        fake = [n for n in model.get_ops() if n.get_type_name() == "FakeQuantize"]
        fed = {
            port.get_node().get_type_name()
            for n in fake
            for port in n.output(0).get_target_inputs()
        }
        assert fed == {"Convolution"}
        model.reshape({t.name: _shape_in(t, ir, name) for t in ir.graph(name).inputs})
        ran = openvino.Core().compile_model(model, "CPU").get_runtime_model().get_ops()
        info = [op.get_rt_info() for op in ran]
        used = [
            _text(i["runtimePrecision"]) for i in info if _text(i["layerType"]) == "Convolution"
        ]
        assert len([p for p in used if p in ("u8", "i8")]) == count


def _shape_in(tensor, bundle, name):
    recorded = read_golden(bundle).tensors
    rows = 2 if name == "stage_c" else 1
    if tensor.name == "timestep_embedding":
        return [rows, tensor.shape[1]]
    key = f"{name}/start.latents" if tensor.name == "latents" else f"{name}_condition.{tensor.name}"
    return [rows, *recorded[key].shape[1:]]


def _text(value):
    return value.value if hasattr(value, "value") else str(value)


@pytest.mark.slow
def test_smoothing_makes_int8_better(uniform, ir, feeds, judged, tmp_path):
    quantize_int8(source(ir, "stage_c"), tmp_path / IR, Int8(smoothing=0), feeds["stage_c"])
    before, after = (
        damage(ir, path, "stage_c", judged["stage_c"])
        for path in (tmp_path / IR, uniform[0] / "stage_c" / IR)
    )
    assert after > before + 1


@pytest.mark.slow
def test_a_plan_beats_uniform_int8_and_keeps_30_db(uniform, by_plan, ir, judged):
    planned, flat = (
        damage(ir, path, "stage_b", judged["stage_b"])
        for path in (source(by_plan, "stage_b"), uniform[0] / "stage_b" / IR)
    )
    assert planned >= LIMITS["int8"].graph_db
    assert planned > flat + 3
    assert by_plan.manifest.graphs["stage_c"].precision == "fp32"
    calibration = by_plan.manifest.calibration
    assert (calibration.prompts, calibration.samples, calibration.seed) == (8, STEPS, 0)


@pytest.mark.slow
def test_exceptions_of_a_plan_are_honoured(by_plan, ir):
    listed = {w.name: w for w in by_plan.manifest.quantization["stage_b"].weights}
    assert listed[SKIP].reason == "the plan skips it"
    assert {listed[name].stored for name in KEEP} == {"int8 weights, groups of 64"}
    before = {n.get_friendly_name(): (n, c) for n, c in weighted(read(source(ir, "stage_b")))}
    for node, constant in weighted(read(source(by_plan, "stage_b"))):
        original, weight = before[node.get_friendly_name()]
        done = listed[weight.get_friendly_name()]
        if done.stored == "int8 weights and activations":
            assert node.input_value(0).get_node().get_type_name() == "FakeQuantize"
            continue
        # What is not quantised has the input it had and its own weight: nothing was smoothed.
        inputs = [n.input_value(0).get_node().get_friendly_name() for n in (node, original)]
        assert inputs[0] == inputs[1]
        if done.reason:
            assert np.array_equal(constant.data.reshape(-1), weight.data.reshape(-1))


@pytest.mark.slow
def test_two_runs_make_the_same_bytes_and_print_nothing(uniform, ir, feeds, tmp_path, capfd):
    """In one process, where OpenVINO's own numbering of nodes goes on."""
    quantize_int8(source(ir, "stage_c"), tmp_path / IR, Int8(), feeds["stage_c"])
    for name in (IR, IR.replace(".xml", ".bin")):
        assert (tmp_path / name).read_bytes() == (uniform[0] / "stage_c" / name).read_bytes()
    text = (tmp_path / IR).read_text()
    assert str(tmp_path) not in text and str(ir.folder) not in text and 'nncf"' not in text
    assert capfd.readouterr() == ("", "")
