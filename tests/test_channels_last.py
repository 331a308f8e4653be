"""Integer graphs have their channels last: the same function, with products of matrices."""

from collections import Counter

import onnx_ir
import pytest
from quantized_graphs import feeds_for, session

from quantization.channels_last import channels_last
from quantization.onnx_files import load, save
from quantization.roles import uses
from validation.parity.metrics import difference

DENOISERS = ("stage_c", "stage_b")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize(("config", "height", "width"), [("public", 32, 48), ("one_level", 24, 12)])
def test_the_same_function_at_any_size(bundles, tmp_path, config, name, height, width, fused):
    path = bundles(config).path(f"{name}/model.onnx")
    model = load(path)
    wanted = {use.weight for use in uses(model) if not use.reason and use.kind != "MatMul"}
    assert channels_last(model, fuse_attention=fused) == len(wanted) > 0
    save(model, tmp_path / "graph" / "model.onnx")
    sizes = {"batch": 2, "height": height, "width": width}
    feeds = feeds_for(path, sizes)
    first, second = (
        s.run(None, feeds)[0] for s in map(session, (path, tmp_path / "graph/model.onnx"))
    )
    assert difference(second, first).relative < 2e-5


@pytest.mark.parametrize("name", DENOISERS)
def test_only_depthwise_convolutions_and_attention_are_transposed(bundles, name):
    """Every other transpose is one that the pass should have spared."""
    model = load(bundles("demo").path(f"{name}/model.onnx"))
    channels_last(model)
    count = Counter(node.op_type for node in model.graph)
    kept = count["Conv"] + count["ConvTranspose"]
    resampled = count["SpaceToDepth"] + count["DepthToSpace"]
    # Two around a convolution; queries, keys, values and the result of attention; scale and shift
    # of a timestep, one number a channel each.
    most = 2 * (kept + resampled) + 4 * count["Softmax"] + 2 * count["Gemm"]
    assert 0 < count["Transpose"] <= most
    assert count["Pow"] == count["ReduceSum"]  # GRN's squares: norms are LayerNormalization
    assert {use.kind for use in uses(model) if not use.reason} == {"MatMul"}


def test_attention_over_the_most_positions_is_one_operator(bundles):
    """Of Stage B's levels; Stage C has one, whose few positions are faster in five operators."""
    for name, fused in (("stage_b", 6), ("stage_c", 0)):
        model = load(bundles("demo").path(f"{name}/model.onnx"))
        attention = sum(node.op_type == "Softmax" for node in model.graph)
        channels_last(model, fuse_attention=True)
        count = Counter(node.op_type for node in model.graph)
        assert (count["MultiHeadAttention"], count["Softmax"]) == (fused, attention - fused)


def test_weights_keep_their_names_and_reasons(bundles):
    """Plans made for one form of a graph serve the other, and OpenVINO's."""
    path = bundles("demo").path("stage_b/model.onnx")
    before = {use.weight: use.reason for use in uses(onnx_ir.load(path))}
    model = load(path)
    channels_last(model)
    assert {use.weight: use.reason for use in uses(model)} == before


def test_a_graph_without_convolutions_stays_as_it_is(bundles):
    model = load(bundles("public").path("text_encoder/model.onnx"))
    before = [node.name for node in model.graph]
    assert channels_last(model) == 0
    assert [node.name for node in model.graph] == before
