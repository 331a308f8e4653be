"""fp16 ONNX bundles: what stays fp32, what that is worth, and the ranges that say so.

ONNX Runtime's CPU widens fp16 and does not round between two nodes, so nothing overflows there:
onnx's reference evaluator, which computes fp16 in fp16, is the judge here.
"""

import json
import re

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.float16 import convert_float_to_float16

from quantization.calibration import default_prompts, record
from quantization.cli import main
from quantization.onnx_fp16 import half_nodes, quantize_fp16
from quantization.quantize import Request, quantize
from quantization.ranges import LARGEST_FP16
from quantization.recipes import PRESETS, Float16
from runtimes.bundle.manifest import DENOISERS
from runtimes.bundle.read import open_bundle
from runtimes.engines.base import Execution
from runtimes.engines.table import BundleGraphs
from runtimes.errors import RunError
from runtimes.recording import read_golden
from runtimes.tolerances import LIMITS
from validation.parity.gate import run_gate
from validation.parity.metrics import difference


@pytest.fixture(scope="module")
def fp16(bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fp16") / "bundle"
    quantize(bundles("demo"), folder, Request("fp16", PRESETS["fp16"], [], 0, 0))
    return open_bundle(folder, verify_hashes=True)


@pytest.fixture(scope="module")
def feeds(bundles):
    bundle = bundles("demo")
    return record(bundle, default_prompts(bundle.manifest.model)[:1], 29, 3).feeds


def half(graph):
    """Epsilon in true fp16, from a model or the path of one."""
    evaluator = ReferenceEvaluator(graph if isinstance(graph, onnx.ModelProto) else str(graph))
    return lambda feeds: evaluator.run(["epsilon"], feeds)[0]


def fp32(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(["epsilon"], feeds)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", DENOISERS)
def test_true_fp16_keeps_50_db_at_the_worst_step(fp16, bundles, feeds, name):
    """The last steps are the worst: epsilon is divided by the least noise."""
    run = half(fp16.path(f"{name}/model.onnx"))
    exact = fp32(bundles("demo").path(f"{name}/model.onnx"))
    steps = [*feeds[name][:-4:6], *feeds[name][-4:]]
    found = [difference(run(f), exact(f)).sqnr_db for f in steps]
    assert min(found) >= LIMITS["fp16"].graph_db


def test_the_gate_holds_on_both_engines(fp16):
    for engine in ("onnxruntime", "openvino"):
        execution = Execution(engine=engine, precision="f32" if engine == "openvino" else None)
        gate = run_gate(fp16, BundleGraphs(fp16, execution), read_golden(fp16))
        assert gate.failures == []


def test_reductions_norms_softmax_and_epsilon_stay_fp32(bundles, fp16):
    reductions = {"ReduceMean", "ReduceSum", "ReduceMax", "Pow", "Sqrt", "Reciprocal", "Softmax",
                  "LayerNormalization", "Gemm", "Abs", "Sigmoid"}  # fmt: skip
    for name in DENOISERS:
        model = onnx.load(fp16.path(f"{name}/model.onnx"), load_external_data=False)
        kinds = {v.name: v.data_type for v in model.graph.initializer}
        made = {output: node for node in model.graph.node for output in node.output}

        def of(value, seen=made, kinds=kinds, model=model):
            """The type of a value, by the casts and weights behind it."""
            while value in seen and seen[value].op_type != "Cast":
                floats = [i for i in seen[value].input if i]
                value = floats[1] if seen[value].op_type in ("Conv", "MatMul") else floats[0]
            if value in seen:
                return seen[value].attribute[0].i
            return kinds.get(value, onnx.TensorProto.FLOAT)

        for node in model.graph.node:
            if node.op_type in reductions:
                assert of(node.input[0]) == onnx.TensorProto.FLOAT, node.name
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        assert all(kinds[node.input[1]] == onnx.TensorProto.FLOAT16 for node in convolutions)
        assert of(made["epsilon"].input[0]) == onnx.TensorProto.FLOAT
        ends = [*model.graph.input, *model.graph.output]
        assert all(v.type.tensor_type.elem_type != onnx.TensorProto.FLOAT16 for v in ends)
        source = onnx_ir.load(bundles("demo").path(f"{name}/model.onnx"))
        assert 0.4 < len(half_nodes(source)) / len(source.graph) < 0.6


def test_no_value_goes_through_fp16_between_two_fp32_nodes(fp16):
    """onnxruntime's pass writes such a round trip after every node it is told to leave alone."""
    for name in fp16.manifest.graphs:
        graph = onnx.load(fp16.path(f"{name}/model.onnx"), load_external_data=False).graph
        casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
        assert not [node.name for node in casts.values() if node.input[0] in casts]


def test_a_round_trip_that_is_not_recognised_is_an_error(bundles, tmp_path, monkeypatch):
    """The pass knows its casts by name: a release that names them anew must not pass unseen."""
    monkeypatch.setattr("quantization.onnx_fp16._NARROWING", re.compile("^no such name$"))
    graph = bundles("demo").path("stage_c/model.onnx")
    with pytest.raises(RunError, match="still rounds to fp16 between two fp32 nodes"):
        quantize_fp16(graph, tmp_path / "model.onnx", Float16())
    assert not list(tmp_path.iterdir())


def test_an_erf_outside_of_a_gelu_is_an_error():
    nodes = [onnx.helper.make_node("Erf", ["x"], ["y"], "alone")]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    with pytest.raises(RunError, match="'alone' is no part of a GELU"):
        half_nodes(onnx_ir.from_proto(model))


@pytest.mark.slow
def test_grn_past_65504_overflows_plain_fp16_and_not_ours(bundles, feeds, tmp_path):
    """One block's GELU 60 times as large, and its next weights as much smaller."""
    model = onnx.load(bundles("demo").path("stage_b/model.onnx"))
    for value in model.graph.initializer:
        for end, factor in (
            ("expand.weight", 60),
            ("expand.bias", 60),
            ("contract.weight", 1 / 60),
        ):
            if value.name == f"blocks.4.{end}":
                scaled = numpy_helper.to_array(value) * np.float32(factor)
                value.CopyFrom(numpy_helper.from_array(scaled, value.name))
    source = tmp_path / "source" / "model.onnx"
    source.parent.mkdir()
    onnx.save(model, source)
    sample = feeds["stage_b"][-1]
    exact = fp32(source)(sample)

    plain = onnx_ir.from_proto(convert_float_to_float16(onnx.load(source), keep_io_types=True))
    plain.graph.sort()
    with np.errstate(all="ignore"):
        lost = difference(half(onnx_ir.to_proto(plain))(sample), exact)
    assert not lost.sqnr_db > 10
    quantize_fp16(source, tmp_path / "ours" / "model.onnx", Float16())
    ours = half(tmp_path / "ours" / "model.onnx")(sample)
    assert np.isfinite(ours).all()
    assert difference(ours, exact).sqnr_db >= LIMITS["fp16"].graph_db


def test_ranges_say_which_nodes_need_fp32(bundles, tmp_path, capsys):
    """The norms' squares pass 65504 on the demo already; what runs in fp16 is far below."""
    path = tmp_path / "ranges.json"
    words = ["ranges", str(bundles("demo").folder), "--runs", "1", "--steps", "3"]
    assert main([*words, "--decoder-steps", "2", "-o", str(path)]) == 0
    nodes = json.loads(path.read_text())["nodes"]
    graphs = {node["graph"] for node in nodes}
    assert graphs == set(bundles("demo").manifest.graphs)
    over = [n for n in nodes if n["largest"] > LARGEST_FP16 and n["graph"] in DENOISERS]
    assert over and {n["op"] for n in over} <= {"Pow", "ReduceSum", "ReduceMean", "Add"}
    assert {n["precision"] for n in over} == {"fp32"}
    assert "infinite in fp16" in capsys.readouterr().out
    assert main([*words, "-o", str(path)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["ranges", str(bundles("demo").folder), "--runs", "0"]) == 2
    assert main(["ranges", str(bundles("demo").folder), "--normal-inputs"]) == 0
    assert "infinite in fp16" in capsys.readouterr().out
