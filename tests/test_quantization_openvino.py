"""Integer and fp16 weights in OpenVINO bundles: what is stored, how exact it is."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import numpy as np
import onnx_ir
import openvino
import pytest
from openvino_cases import IR, KEEP, as_ir, damage, source, weighted

from quantization import roles as onnx_side
from quantization.calibration import default_prompts, record
from quantization.cli import main
from quantization.integers import group_of
from quantization.openvino_weights import quantize_weights, read, uses, weight_input
from quantization.quantize import Request, quantize
from quantization.recipes import INT4_WEIGHTS, INT8_WEIGHTS, PRESETS, UNTOUCHED
from runtimes.bundle.manifest import EXACT_GRAPHS
from runtimes.bundle.read import open_bundle
from runtimes.engines.base import Execution
from runtimes.engines.table import BundleGraphs
from runtimes.errors import RunError
from runtimes.recording import read_golden
from runtimes.tolerances import LIMITS
from validation.parity.gate import run_gate


@pytest.fixture(scope="module")
def ir(bundles, tmp_path_factory):
    return as_ir(bundles("demo"), tmp_path_factory.mktemp("ir") / "bundle")


@pytest.fixture(scope="module")
def made(ir, tmp_path_factory):
    """The demo's bundle in a preset's precision."""
    root, found = tmp_path_factory.mktemp("quantized"), {}

    def get(precision):
        if precision not in found:
            quantize(ir, root / precision, Request(precision, PRESETS[precision], [], 29, 0))
            found[precision] = open_bundle(root / precision, hashes="fresh")
        return found[precision]

    return get


def gate(bundle):
    return run_gate(bundle, BundleGraphs(bundle, Execution(precision="f32")), read_golden(bundle))


def test_int8_weights_keep_35_db_in_every_step(made):
    found = gate(made("int8-weights"))
    assert found.failures == []
    least = min(check.sqnr_db for check in (*found.graphs, *found.steps))
    assert least >= LIMITS["int8-weights"].graph_db


@pytest.mark.slow
def test_fp16_halves_the_bytes_and_passes_its_limits(made, ir):
    bundle = made("fp16")
    assert gate(bundle).failures == []
    for name, graph in bundle.manifest.graphs.items():
        assert graph.precision == ("fp32" if name in EXACT_GRAPHS else "fp16")
        before, after = (
            b.manifest.files[graph.file.replace(".xml", ".bin")].size for b in (ir, bundle)
        )
        assert (after == before) if graph.precision == "fp32" else (0.49 < after / before < 0.52)
    for done in bundle.manifest.quantization.values():
        assert {(weight.stored, weight.reason) for weight in done.weights} == {("float16", "")}


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("int8-weights", "i8"), pytest.param("int4-weights", "i4", marks=pytest.mark.slow)],
)
def test_every_weight_is_listed_with_what_became_of_it(made, precision, kind):
    bundle = made(precision)
    assert bundle.manifest.quantization.keys() == bundle.manifest.graphs.keys() - UNTOUCHED.keys()
    for name, done in bundle.manifest.quantization.items():
        nodes = list(weighted(read(source(bundle, name))))
        assert len(done.weights) == len(nodes)
        assert done.bytes_after < done.bytes_before
        stored = "i8" if name not in ("stage_c", "stage_b") else kind
        for weight, (node, constant) in zip(done.weights, nodes, strict=True):
            label = constant.get_friendly_name()
            assert label.removesuffix("_int8").removesuffix("_int4") == weight.name
            assert bool(weight.reason) == (weight.stored == "float32")
            expected = "f32" if weight.reason else "i8" if _is_wide(node) else stored
            assert constant.get_element_type().to_string() == expected
            assert weight.reason or node.get_type_name() != "GroupConvolution"
    assert {"openvino", "nncf"} <= bundle.manifest.tools.keys()


def _is_wide(node):
    """Kernels wider than 1x1, which resample, have eight bits in any case."""
    return max(weight_input(node).get_shape()[2:], default=1) > 1


def test_what_stays_in_float_is_what_onnx_bundles_keep_there(bundles, ir):
    """By the same names and for the same reasons: one plan serves both."""
    theirs, ours = bundles("demo"), ir
    for name in ours.manifest.graphs:
        model = onnx_ir.load(source(theirs, name))
        expected = {(use.weight, use.reason) for use in onnx_side.uses(model)}
        assert {(use.weight, use.reason) for use in uses(read(source(ours, name)))} == expected


@pytest.mark.parametrize(
    "recipe",
    [INT8_WEIGHTS, pytest.param(INT4_WEIGHTS, marks=pytest.mark.slow)],
    ids=lambda r: r.name,
)
def test_widened_weights_are_within_half_a_step(ir, tmp_path, recipe):
    """As OpenVINO itself evaluates the subgraph; a step is the group's largest over 127 or 7."""
    quantize_weights(source(ir, "stage_b"), tmp_path / IR, recipe)
    before = {node.get_friendly_name(): c for node, c in weighted(read(source(ir, "stage_b")))}
    ports = []
    for node, constant in weighted(read(tmp_path / IR)):
        if constant.get_element_type().to_string() != "f32":
            ports.append((node, weight_input(node).get_source_output()))
    outputs = [openvino.opset15.result(port) for _, port in ports]
    run = openvino.Core().compile_model(
        openvino.Model(outputs, []), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    values = run({})
    assert len(ports) == 72
    for index, (node, _) in enumerate(ports):
        weight, found = before[node.get_friendly_name()].data, values[index]
        if node.get_type_name() == "ConvolutionBackpropData":
            weight, found = weight.swapaxes(0, 1), found.swapaxes(0, 1)
        bits, group = (8, 64) if _is_wide(node) else (recipe.bits, recipe.group)
        group = group_of(weight.shape[1], group) or weight.shape[1]
        blocks = weight.reshape(len(weight), -1, group, *weight.shape[2:])
        largest = np.abs(blocks).max(axis=(2, 3, 4), keepdims=True)
        error = np.abs(found - weight).reshape(blocks.shape)
        # A scale is rounded up to fp16: by 1 part in 1024 at most.
        assert (error <= largest / (2**bits - 2) * (1 + 2**-10) + 1e-7).all()


@pytest.mark.parametrize(
    ("inputs", "group", "found"),
    [(128, 64, 64), (144, 32, 24), (336, 64, 56), (64, 64, 0), (48, 64, 0), (26, 32, 0), (8, 0, 0),
     (127, 32, 0)],
)  # fmt: skip
def test_groups_divide_the_inputs(inputs, group, found):
    assert group_of(inputs, group) == found


@pytest.mark.slow
def test_four_bits_with_exceptions_keep_20_db_in_stage_b(ir, tmp_path):
    recipe = dataclasses.replace(INT4_WEIGHTS, keep=KEEP)
    stored = [
        w.stored
        for w in quantize_weights(source(ir, "stage_b"), tmp_path / IR, recipe)
        if not w.reason
    ]
    resampling = 4
    assert sum(s.startswith("int8 weights") for s in stored) == len(KEEP) + resampling
    assert sum(s.startswith("int4 weights") for s in stored) == 72 - len(KEEP) - resampling
    prompts = default_prompts(ir.manifest.model)[-1:]
    feeds = record(ir, prompts, 29, 77).feeds["stage_b"]
    assert damage(ir, tmp_path / IR, "stage_b", feeds) >= LIMITS["int4-weights"].graph_db


@pytest.mark.slow
def test_two_runs_make_the_same_bytes(ir, tmp_path):
    """In one process, where OpenVINO's own numbering of nodes goes on."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        quantize_weights(source(ir, "stage_b"), folder / IR, INT4_WEIGHTS)
    for name in (IR, IR.replace(".xml", ".bin")):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1


def test_a_graph_with_nothing_quantised_is_an_error(ir, tmp_path):
    names = tuple(use.weight for use in uses(read(source(ir, "stage_a"))))
    recipe = dataclasses.replace(INT8_WEIGHTS, skip=names)
    with pytest.raises(RunError, match="stage_a: nothing was quantised"):
        quantize(ir, tmp_path / "b", Request("int8-weights", {"stage_a": recipe}, [], 29, 0))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_quantised_is_one_line(capsys, ir, made, tmp_path, monkeypatch):
    plan = tmp_path / "plan.toml"
    plan.write_text('precision = "int8"\n[stage_b]\nrecipe = "int8"\nkeep = ["blocks.99.weight"]\n')
    once = made("int8-weights").folder
    cases = [
        (ir.folder, ["--precision", "int8-dynamic"], "not available for openvino bundles"),
        (
            ir.folder,
            ["--plan", str(plan)],
            "names 'blocks.99.weight', which is no weight of stage_b",
        ),
        (ir.folder, ["--precision", "int8", "--target-db", "30"], "--target-db measures ONNX"),
        (once, ["--precision", "int4-weights"], "is int8-weights already"),
    ]
    for folder, words, message in cases:
        assert main([str(folder), str(tmp_path / "b"), *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *r: None if n == "nncf" else find(n))
    assert main([str(ir.folder), str(tmp_path / "b"), "--precision", "int8"]) == 2
    assert "pip install 'wuerstchen-export[quantization,openvino]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [plan]


@pytest.mark.slow
def test_it_needs_no_torch_and_reports_to_nobody(ir, tmp_path):
    """Left alone, nncf sends what it is used for to a third party."""
    code = (
        "import os, sys\n"
        "os.environ.pop('NNCF_CI', None)\n"
        "for name in ('torch', 'transformers', 'diffusers'):\n"
        "    sys.modules[name] = None\n"
        "from quantization.cli import main\n"
        f"code = main([{str(ir.folder)!r}, {str(tmp_path / 'b')!r},"
        " '--precision', 'int8-weights', '--json'])\n"
        "from quantization.openvino_int8 import quiet_nncf\n"
        "with quiet_nncf():\n"
        "    from nncf.telemetry import wrapper\n"
        "assert not isinstance(wrapper.telemetry, wrapper.NNCFTelemetry)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == {*ir.manifest.graphs} - UNTOUCHED.keys()
