"""Integer weights are multiplied as integers by ONNX Runtime, and a check says where not."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from quantized_graphs import feeds_for, in_fp32, run, session, widened

from quantization.integers import block_of, blocks_of
from quantization.onnx_files import load
from quantization.onnx_int8 import quantize_int8_dynamic
from quantization.onnx_kernels import kernels, with_kernels
from quantization.onnx_weights import quantize_weights
from quantization.recipes import INT4_WEIGHTS, INT8_WEIGHTS, Int8Dynamic, in_steps
from runtimes.bundle.manifest import Weight
from runtimes.errors import RunError
from validation.parity.metrics import difference

KEEP = ("blocks.0.expand.weight", "blocks.2.to_q.weight")


@pytest.fixture(scope="module")
def graph(bundles):
    return bundles("demo").path("stage_c/model.onnx")


def made(graph, folder, quantize, recipe):
    target = folder / "graph" / "model.onnx"
    target.parent.mkdir()
    return target, quantize(graph, target, recipe)


@pytest.mark.parametrize(
    ("quantize", "recipe", "kept", "rest"),
    [
        (quantize_weights, in_steps(INT8_WEIGHTS), "MatMulNBits", {"MatMulNBits"}),
        (quantize_weights, in_steps(INT4_WEIGHTS), "MatMulNBits", {"MatMulNBits"}),
        (quantize_int8_dynamic, Int8Dynamic(), "MatMulNBits",
         {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}),
    ],
)  # fmt: skip
def test_every_product_runs_in_its_kernel(graph, tmp_path, quantize, recipe, kept, rest):
    recipe = dataclasses.replace(recipe, keep=KEEP)
    target, weights = made(graph, tmp_path, quantize, recipe)
    ran = {w.name: w.kernel for w in with_kernels(target, weights) if not w.reason}
    assert len(ran) == 42
    assert {ran.pop(name) for name in KEEP} == {kept}
    assert set(ran.values()) == rest


def test_a_product_that_runs_in_fp32_is_an_error(graph, tmp_path):
    """As a later release of ONNX Runtime could do that no longer knows a pattern."""
    weights = [Weight("blocks.0.expand.weight", "int8 weights", "", "MatMulIntegerToFloat")]
    copy = Path(shutil.copytree(graph.parent, tmp_path / "stage_c")) / graph.name
    message = "1 of 1 integer products do not run as such.*'blocks.0.expand.weight', written for"
    with pytest.raises(RunError, match=message):
        with_kernels(copy, weights)
    assert kernels(copy) == {}


@pytest.mark.parametrize("recipe", [INT8_WEIGHTS, INT4_WEIGHTS])
def test_with_fp32_activations_a_graph_is_its_widened_weights(graph, tmp_path, recipe):
    target, _ = made(graph, tmp_path, quantize_weights, recipe)
    feeds = feeds_for(graph, {"batch": 1, "height": 8, "width": 8})
    first, second = (run(made_of(target), feeds)["epsilon"] for made_of in (session, in_fp32))
    assert difference(first, second).relative < 1e-5


@pytest.mark.parametrize(("bits", "block", "inputs"), [(8, 32, 96), (8, 64, 80), (4, 16, 40)])
def test_blocks_are_within_half_a_step(bits, block, inputs):
    weight = np.random.default_rng(0).normal(size=(inputs, 24)).astype(np.float32)
    integers, scale = blocks_of(weight, bits, block)
    assert np.abs(integers).max() == 2 ** (bits - 1) - 1
    wide = (integers * scale[..., None]).reshape(24, -1)[:, :inputs].T
    step = np.repeat(scale, block, axis=1)[:, :inputs].T
    assert (np.abs(wide - weight) <= step / 2 * 1.0001).all()


@pytest.mark.parametrize(
    ("inputs", "largest", "bits", "block"),
    [(192, 64, 8, 64), (144, 64, 8, 32), (1536, 64, 8, 128), (1296, 64, 8, 64), (6144, 32, 4, 64)],
)
def test_blocks_waste_little(inputs, largest, bits, block):
    """1296 = 1280 + 16 inputs would need a tenth more in blocks that are not full."""
    assert block_of(inputs, largest, bits) == block


def test_an_embedding_widens_the_rows_that_are_looked_up(bundles, tmp_path):
    path = bundles("demo").path("text_encoder/model.onnx")
    target, weights = made(path, tmp_path, quantize_weights, INT8_WEIGHTS)
    tables = {n.inputs[0].name for n in onnx_ir.load(target).graph if n.op_type == "Gather"}
    name = next(w.name for w in weights if w.stored.startswith("int8") and not w.kernel)
    assert {f"{name}_int8", f"{name}_scale"} <= tables
    weight = load(path).graph.initializers[name].const_value.numpy()
    ids = np.resize(np.array([3, 7, 3, 600], np.int64), (1, 77))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    widest = np.abs(weight[ids]).max()
    model = load(target)
    table = next(n for n in model.graph if n.inputs[0] and n.inputs[0].name == f"{name}_int8")
    output = model.graph.node(f"{table.outputs[0].name}".replace("_rows", "_grouped")).outputs[0]
    model.graph.outputs.append(output)
    serialized = onnx_ir.to_proto(model).SerializeToString()
    rows = run(session(serialized), feeds)[output.name]
    rows = rows.reshape(1, 77, weight.shape[1])
    assert np.abs(rows - weight[ids]).max() <= widest / 254 * 1.0001


def test_the_specification_of_blocks_is_read_back(graph, tmp_path):
    """`widened` decodes by the operator's definition; the weights must come out."""
    target, _ = made(graph, tmp_path, quantize_weights, INT8_WEIGHTS)
    name = "blocks.0.contract.weight"
    node = next(n for n in load(target).graph if n.op_type == "MatMulNBits"
                and n.inputs[1].name == f"{name}_int8")  # fmt: skip
    weight = load(graph).graph.initializers[name].const_value.numpy()[:, :, 0, 0].T
    assert np.abs(widened(node) - weight).max() < np.abs(weight).max() / 200
