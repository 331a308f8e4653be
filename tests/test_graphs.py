"""The exported files: parity with the reference on every odd configuration, size and batch."""

import collections
import dataclasses
import functools
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
from onnxruntime.tools.mobile_helpers.usability_checker import check_coreml_partitions
from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo

from exporter.graphs import plan_graphs
from exporter.options import ExportOptions
from runtimes.bundle.manifest import DENOISERS, GRAPHS
from runtimes.engines.base import Execution
from runtimes.engines.table import BundleGraphs
from runtimes.pipeline import Pipeline
from runtimes.plan import Options
from runtimes.tolerances import LIMITS
from validation.parity.gate import run_gate
from validation.parity.metrics import difference
from validation.parity.reference import record_reference

# Two of the four are exported in the short run: what is odd about the others is in the modules,
# which test_rewrites.py compares there too.
FAST = ("public", "one_level")
NAMES = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in tiny.TINY]
# Height and width in pixels that each configuration's ratios and levels admit, both not square.
SIZES = {
    "public": (128, 256),
    "odd_c_r": (128, 192),
    "no_effnet": (128, 192),
    "one_level": (96, 72),
}


# The same feeds on every engine that is installed; OpenVINO opens the ONNX bundle as it is.
ENGINES = {
    "onnxruntime": Execution(engine="onnxruntime"),
    "openvino": Execution(engine="openvino", precision="f32"),
}


@pytest.fixture(scope="module")
def recordings(bundles, checkpoint):
    """diffusers' run of a configuration, not square, recorded once."""

    @functools.cache
    def record(name):
        height, width = SIZES[name]
        options = Options(seed=3, steps=6, decoder_steps=4, height=height, width=width)
        manifest = bundles(name).manifest
        return record_reference(checkpoint(name), manifest, "a red ring", "a blue star", options)

    return record


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("name", NAMES)
def test_gate_passes_against_diffusers(bundles, recordings, name, engine):
    """Every graph <= 1e-5, every step's latents >= 80 dB, picture >= 60 dB; not square."""
    bundle = bundles(name)
    gate = run_gate(bundle, BundleGraphs(bundle, ENGINES[engine]), recordings(name))
    assert gate.failures == []
    assert {check.what for check in gate.graphs} == set(bundle.manifest.graphs) == set(GRAPHS)
    assert len(gate.trajectory) == len(gate.steps) == 10
    assert {used.precision for used in gate.placements.values()} == {"f32"}


@pytest.mark.parametrize("name", NAMES)
def test_both_guidances_pass_the_gate(bundles, checkpoint, name):
    bundle = bundles(name)
    options = Options(seed=1, steps=2, decoder_steps=2, guidance=2.5, decoder_guidance=1.5)
    recording = record_reference(checkpoint(name), bundle.manifest, "a star", "", options)
    assert run_gate(bundle, BundleGraphs(bundle, Execution()), recording).failures == []


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_graphs_equal_their_modules_at_any_batch_and_size(bundles, checkpoint, name, batch):
    """The files are traced at one small size; they must hold at others, on every engine."""
    sides = {"height": (4, 3), "width": (2, 5)}[("height", "width")[batch % 2]]
    generator = torch.Generator().manual_seed(batch)
    for plan in plan_graphs(checkpoint(name), "nchw", text=True):
        named = {"batch": batch, "embedding_height": 5, "embedding_width": 4}
        named |= {k: n * plan.multiple for k, n in zip(("height", "width"), sides, strict=True)}
        feeds = {tensor.name: _drawn(tensor, named, generator) for tensor in plan.inputs}
        with plan.module() as module:
            expected = module(*feeds.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        for execution in ENGINES.values():
            engine = BundleGraphs(bundles(name), execution).open(plan.name)
            found = engine.run({key: value.numpy() for key, value in feeds.items()})
            engine.close()
            for tensor, values in zip(plan.outputs, expected, strict=True):
                error = difference(found[tensor.name], values.numpy()).relative
                assert error <= LIMITS["fp32"].graph_error, (plan.name, tensor.name, execution)


def _drawn(tensor, named, generator):
    from runtimes.dimensions import shape_at

    shape = shape_at(tensor, named)
    if tensor.name == "attention_mask":
        return torch.ones(shape, dtype=torch.int64)
    if tensor.dtype == "int64":
        return torch.randint(0, 500, shape, generator=generator)
    return torch.randn(shape, generator=generator)


@pytest.mark.slow
def test_text_free_bundle_equals_diffusers_on_zero_text(bundles, checkpoint):
    bundle = bundles("public", ExportOptions(text=False))
    assert "decoder_text_encoder" not in bundle.manifest.graphs
    assert bundle.manifest.text_graphs["stage_b"] is None
    options = Options(steps=2, decoder_steps=3)
    recording = record_reference(checkpoint("public"), bundle.manifest, "a star", "", options)
    assert run_gate(bundle, BundleGraphs(bundle, Execution()), recording).failures == []


@pytest.mark.slow
def test_fp16_bundle_keeps_its_limits_and_its_fp32_islands(bundles, checkpoint):
    bundle = bundles("public", ExportOptions(precision="fp16"))
    options = Options(steps=4, decoder_steps=4)
    recording = record_reference(checkpoint("public"), bundle.manifest, "a star", "", options)
    assert run_gate(bundle, BundleGraphs(bundle, Execution()), recording).failures == []
    graphs = bundle.manifest.graphs
    assert graphs["stage_b_condition"].precision == "fp32"
    model = onnx.load(bundle.path(graphs["stage_b"].file))
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    reductions = [n for n in model.graph.node if n.op_type in ("Softmax", "LayerNormalization",
                  "ReduceL2", "ReduceSum", "ReduceSumSquare", "ReduceMean")]  # fmt: skip
    assert reductions
    assert {types[n.output[0]] for n in reductions if n.output[0] in types} == {
        onnx.TensorProto.FLOAT
    }


@pytest.mark.slow
def test_static_bundle_has_numbers_for_shapes(bundles):
    bundle = bundles("public", ExportOptions(static=True, height=128, width=256))
    for name, graph in bundle.manifest.graphs.items():
        for tensor in (*graph.inputs, *graph.outputs):
            assert all(isinstance(d, int) for d in tensor.shape), (name, tensor)
        assert partitions(bundle.path(graph.file)) == 1, name
    with Pipeline.open(bundle) as pipeline:
        result = pipeline("a red circle", options=Options(steps=2, decoder_steps=2))
    assert result.pictures.shape == (1, 128, 256, 3)


def partitions(path: Path) -> int:
    """Into how many parts ONNX Runtime's checker sees a graph of fixed sizes fall on Core ML."""
    model = ModelProtoWithShapeInfo(path).model_with_shape_info
    ops = "coreml_supported_mlprogram_ops.md"
    return int(check_coreml_partitions(model, True, ops).num_partitions)


@pytest.mark.parametrize("name", NAMES)
def test_files_are_valid_onnx_with_named_dimensions(bundles, name):
    bundle = bundles(name)
    for graph in bundle.manifest.graphs.values():
        path = bundle.path(graph.file)
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert {o.domain: o.version for o in model.opset_import} == {"": 18}
        assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
        values = [*model.graph.input, *model.graph.output]
        for value, tensor in zip(values, (*graph.inputs, *graph.outputs), strict=True):
            assert value.name == tensor.name
            dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            assert dims == list(tensor.shape)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_parts_a_graph_for_core_mls_provider(bundles, name):
    """By the list that ONNX Runtime's own checker goes by; the text's table is looked up first."""
    helpers = Path(onnxruntime.__file__).parent / "tools/mobile_helpers"
    listed = (helpers / "coreml_supported_mlprogram_ops.md").read_text(encoding="utf-8")
    known = set(re.findall(r"ai\.onnx:(\w+)", listed))
    for graph in (*DENOISERS, "stage_a", "text_encoder"):
        model = onnx.load(bundles(name).path(f"{graph}/model.onnx"), load_external_data=False)
        looked_up = {"Gather"} if graph == "text_encoder" else set()
        assert {node.op_type for node in model.graph.node} - known == looked_up
        assert not model.graph.metadata_props and not any(
            value.metadata_props for value in (*model.graph.value_info, *model.graph.node)
        )


@pytest.mark.parametrize("graph", ["stage_c", "stage_b", "stage_a", "text_encoder"])
def test_onnxruntime_runs_each_gelu_as_one_operator(bundles, graph, tmp_path):
    path = bundles("one_level").path(f"{graph}/model.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    before, after = (
        collections.Counter(node.op_type for node in onnx.load(file).graph.node)
        for file in (path, tmp_path / "optimised.onnx")
    )
    assert after["Gelu"] + after["BiasGelu"] == before["Erf"] > 0 and after["Erf"] == 0


def test_a_batch_is_its_pictures_one_by_one(bundles):
    """Prompts in one batch, one seed each, equal the same prompts alone."""
    options = Options(seed=(4, 9), steps=3, decoder_steps=2)
    with Pipeline.open(bundles("public")) as pipeline:
        both = pipeline(["a red ring", "a blue star"], options=options)
        for index, prompt in enumerate(["a red ring", "a blue star"]):
            alone = dataclasses.replace(options, seed=(options.seed[index],))
            one = pipeline(prompt, options=alone)
            assert difference(both.image[index], one.image[0]).relative < LIMITS["fp32"].graph_error
    assert not np.array_equal(both.pictures[0], both.pictures[1])
