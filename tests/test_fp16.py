"""fp16 ONNX bundles: what stays fp32, what that is worth, and the ranges that say so.

ONNX Runtime's CPU widens fp16 and does not round between two nodes, so nothing overflows there:
onnx's reference evaluator, which computes fp16 in fp16, is the judge here, also of the quantiser's
own.
"""

import json

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import tiny
import torch
from enlarged import enlarged
from filelock import FileLock
from half_sums import evaluator_with_half_sums
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.float16 import convert_float_to_float16

from exporter.checkpoint.find import find_pair
from exporter.checkpoint.weights import Deferred
from exporter.export import export
from exporter.job import check_job
from exporter.options import ExportOptions
from quantization.calibration import default_prompts, record
from quantization.cli import main
from quantization.islands import SPARE, islands
from quantization.onnx_fp16 import half_nodes, quantize_fp16, quantize_fp16_weights
from quantization.quantize import Request, quantize
from quantization.ranges import LARGEST_FP16
from quantization.recipes import PRESETS, TARGETS, Float16, Float16Weights
from quantization.roles import UNHELD
from quantization.rounded import rounded_run
from runtimes.bundle.manifest import DENOISERS, EXACT_GRAPHS, PICTURE_GRAPHS
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
    """As measuring makes it too, which takes longer: the demo needs no island."""
    folder = tmp_path_factory.mktemp("fp16") / "bundle"
    quantize(bundles("demo"), folder, Request("fp16", PRESETS["fp16"], [], 0, 0, target_db=0))
    return open_bundle(folder, hashes="fresh")


@pytest.fixture(scope="module")
def large(shared):
    """The fp32 bundle of tests/enlarged.py."""
    with FileLock(shared / "enlarged.lock"):
        if not (shared / "enlarged").exists():
            pair = tiny.save(enlarged(), shared / "checkpoints" / "enlarged")
            options = ExportOptions(golden=False)
            export(*find_pair(*map(str, pair)), shared / "enlarged", options)
    return open_bundle(shared / "enlarged")


@pytest.fixture(scope="module")
def feeds(bundles):
    bundle = bundles("demo")
    return record(bundle, default_prompts(bundle.manifest.model)[:1], 29, 3).feeds


def outputs_of(path):
    """All outputs of an fp32 graph, by name."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def half(graph):
    """Epsilon in true fp16, from a model or the path of one."""
    evaluator = ReferenceEvaluator(graph if isinstance(graph, onnx.ModelProto) else str(graph))
    return lambda feeds: evaluator.run(["epsilon"], feeds)[0]


def fp32(path):
    run = outputs_of(path)
    return lambda feeds: run(feeds)["epsilon"]


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


@pytest.mark.slow
def test_the_demo_needs_no_island_and_is_judged_graph_by_graph(bundles, fp16, tmp_path):
    """Casts at the borders included: half the size."""
    prompts = default_prompts(bundles("demo").manifest.model)[:4]
    request = Request("fp16", PRESETS["fp16"], prompts, 0, 0, target_db=TARGETS["fp16"])
    made = quantize(bundles("demo"), tmp_path / "b", request)
    for name, done in made.quantization.items():
        assert done.islands == () and done.worst_db >= TARGETS["fp16"]
        assert done.bytes_after < 0.55 * done.bytes_before, name
    assert set(made.quantization) == set(made.graphs) - set(EXACT_GRAPHS)
    assert made.graphs == fp16.manifest.graphs


def test_the_quantiser_s_judge_rounds_as_numpy_does(tmp_path):
    """To the last bit, over the end of the range and under 2^-14."""
    make, half = onnx.helper.make_node, onnx.TensorProto.FLOAT16
    nodes = [
        make("Cast", ["x"], ["h"], to=half),
        make("Mul", ["h", "h"], ["square"]),
        make("Sub", ["square", "h"], ["less"]),
        make("Cast", ["less"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N"]) for n in "xy"]
    types = [onnx.helper.make_tensor_value_info(n, half, ["N"]) for n in ("h", "square", "less")]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], value_info=types)
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "model.onnx")
    x = np.array([1.0001, 0.3333, 255.9, 300, 1e6, 1e-4, 3e-8], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = x.astype(np.float16)
        expected = (narrow * narrow - narrow).astype(np.float32)
    actual = rounded_run(tmp_path / "model.onnx", tmp_path)({"x": x})["y"]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", DENOISERS)
def test_the_quantiser_s_judge_is_close_to_onnx_s_evaluator(fp16, feeds, bundles, tmp_path, name):
    """Which rounds a convolution's sums over and over: some 3 dB less."""
    sample, graph = feeds[name][-1], fp16.path(f"{name}/model.onnx")
    exact = fp32(bundles("demo").path(f"{name}/model.onnx"))(sample)
    ours = difference(rounded_run(graph, tmp_path)(sample)["epsilon"], exact).sqnr_db
    assert abs(ours - difference(half(graph)(sample), exact).sqnr_db) < 4


@pytest.mark.slow
def test_values_out_of_range_anywhere_are_found_and_stay_in_fp32(large, tmp_path):
    """Queries, values and text that pass 65504 or vanish: plain fp16 is lost, ours above 50 dB."""
    prompts = default_prompts(large.manifest.model)[:4]
    manifest = quantize(large, tmp_path / "b", Request("fp16", PRESETS["fp16"], prompts, 0, 0))
    others = [name for name in manifest.quantization if name not in DENOISERS]
    samples = record(large, prompts[-1:], 29, 3, others=[*others, "stage_b_condition"]).feeds
    embedding = samples["stage_b_condition"][0]["image_embedding"]
    assert np.abs(embedding).max() > 250
    lost = {name for name, done in manifest.quantization.items() if done.islands}
    assert lost == {"text_encoder", *DENOISERS, "stage_a"}
    for name, done in manifest.quantization.items():
        assert done.worst_db >= LIMITS["fp16"].graph_db, name
        path, sample = large.path(f"{name}/model.onnx"), samples[name][-1]
        quantize_fp16(path, tmp_path / name / "model.onnx", Float16())
        exact = outputs_of(path)(sample)
        with np.errstate(all="ignore"):
            plain = rounded_run(tmp_path / name / "model.onnx", tmp_path)(sample)
        (output,) = exact
        if name in lost:
            assert not difference(plain[output], exact[output]).sqnr_db > 10, name
        ours = ReferenceEvaluator(str(tmp_path / "b" / name / "model.onnx")).run(None, sample)[0]
        assert difference(ours, exact[output]).sqnr_db >= LIMITS["fp16"].graph_db, name


@pytest.mark.slow
def test_what_stays_fp32_is_told_with_its_reason(large, tmp_path, capsys):
    words = [str(large.folder), str(tmp_path / "b"), "--precision", "fp16", "--verbose"]
    assert main(words) == 0
    printed, records = capsys.readouterr().out, open_bundle(tmp_path / "b").manifest.quantization
    reasons = {island.reason for done in records.values() for island in done.islands}
    assert any("reaches" in reason and "65504" in reason for reason in reasons)
    assert any("too few digits" in reason for reason in reasons) and UNHELD in reasons
    for done in records.values():
        for island in done.islands:
            assert f"{island.node} ({island.op}): {island.reason}" in printed
    assert "worst step" in printed


def test_a_factor_of_eight_is_spared(bundles):
    """At both ends of the range, for what a node takes and for what it gives."""
    model = onnx_ir.load(bundles("demo").path("stage_c/model.onnx"))
    node = next(n for n in model.graph if n.op_type == "Conv" and n.name in half_nodes(model))
    taken, given = node.inputs[0].name, node.outputs[0].name
    for value, wide in ((LARGEST_FP16 / SPARE, False), (LARGEST_FP16 / SPARE + 1, True),
                        (np.nan, True), (2**-11, False), (2**-12, True), (0, False)):  # fmt: skip
        for tensor in (taken, given):
            found = [island.node for island in islands(model, {tensor: value})]
            assert (node.name in found) == wide, (tensor, value)


@pytest.mark.slow
def test_a_graph_below_the_target_is_an_error(bundles, tmp_path):
    prompts = default_prompts(bundles("demo").manifest.model)[:4]
    plan = {"stage_c": Float16()}
    with pytest.raises(RunError, match="below 150; --precision fp16-weights"):
        quantize(bundles("demo"), tmp_path / "b", Request("fp16", plan, prompts, 0, 0, 150))
    assert not (tmp_path / "b").exists()


def test_fp16_weights_are_half_the_size_and_nothing_computes_in_fp16(bundles, tmp_path):
    for name in ("text_encoder", *DENOISERS, "stage_a"):
        source, target = bundles("demo").path(f"{name}/model.onnx"), tmp_path / name / "model.onnx"
        weights = quantize_fp16_weights(source, target, Float16Weights())
        assert sum(not weight.reason for weight in weights) > 0.8 * len(weights)
        graph = onnx_ir.load(target).graph
        for node in graph:
            kinds = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
            assert onnx_ir.DataType.FLOAT16 not in kinds or node.op_type == "Cast"
        before, after = (
            sum(f.stat().st_size for f in path.parent.iterdir()) for path in (source, target)
        )
        assert after < 0.55 * before


def test_sums_in_fp16_are_why_arm_misses_the_limit_of_fp16(bundles, fp16, feeds, tmp_path):
    """ONNX Runtime's kernels there add up a product's terms in fp16, one after the other.

    Under emulation of an ARM64 CPU the same step is 9.4e-3 off.
    """
    sample, source = feeds["stage_c"][-1], bundles("demo").path("stage_c/model.onnx")
    exact = fp32(source)(sample)
    native = evaluator_with_half_sums(fp16.path("stage_c/model.onnx")).run(None, sample)[0]
    assert 5e-3 < difference(native, exact).relative < 2e-2
    quantize_fp16_weights(source, tmp_path / "w" / "model.onnx", Float16Weights())
    stored = evaluator_with_half_sums(tmp_path / "w" / "model.onnx").run(None, sample)[0]
    assert difference(stored, exact).relative <= LIMITS["fp16-weights"].graph_error


def test_an_erf_outside_of_a_gelu_is_an_error():
    nodes = [onnx.helper.make_node("Erf", ["x"], ["y"], "alone")]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    with pytest.raises(RunError, match="'alone' is no part of a GELU"):
        half_nodes(onnx_ir.from_proto(model))


def test_an_export_in_fp16_says_that_it_measures_nothing(checkpoint):
    """OpenVINO's fp16 is how weights are stored, not what computes."""
    for backend, told in (("onnx", "quantization BUNDLE"), ("coreml", "validation BUNDLE")):
        notes = check_job(checkpoint("one_level"), ExportOptions(backend, "fp16")).notes
        assert "stay in fp16's range is not measured here" in notes[-1] and told in notes[-1]
    for options in (ExportOptions(), ExportOptions("openvino", "fp16")):
        assert not any(
            "measured" in note for note in check_job(checkpoint("one_level"), options).notes
        )


def test_an_export_refuses_a_weight_that_fp16_makes_infinite():
    module = torch.nn.Linear(1, 1, device="meta").half()
    recipes = {"weight": lambda: torch.tensor([[1e5]]), "bias": lambda: torch.tensor([1e4])}
    assert Deferred(module, recipes).value("bias") == 1e4
    with pytest.raises(RunError, match="weight 'weight' passes fp16's range"):
        Deferred(module, recipes).value("weight")


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
    assert graphs == {*bundles("demo").manifest.graphs} - {*PICTURE_GRAPHS}  # no prompt runs those
    over = [n for n in nodes if n["largest"] > LARGEST_FP16 and n["graph"] in DENOISERS]
    assert over and {n["op"] for n in over} <= {"Pow", "ReduceSum", "ReduceMean", "Add"}
    assert {n["precision"] for n in over} == {"fp32"}
    assert "infinite in fp16" in capsys.readouterr().out
    assert main([*words, "-o", str(path)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["ranges", str(bundles("demo").folder), "--runs", "0"]) == 2
    assert main(["ranges", str(bundles("demo").folder), "--normal-inputs"]) == 0
    assert "infinite in fp16" in capsys.readouterr().out
