"""Attention as one operator, and the buffers of fixed shapes that CUDA graphs need."""

import collections
import weakref

import numpy as np
import onnx
import onnx_ir
import pytest
import torch

from exporter.cli import main as export_main
from exporter.modules.blocks import AttnBlock, fuse_attention
from exporter.options import ExportOptions
from quantization.onnx_fp16 import half_nodes
from runtimes.engines.base import Execution
from runtimes.engines.onnxruntime_device import provider_options
from runtimes.engines.table import BundleGraphs
from runtimes.errors import RunError
from runtimes.pipeline import Pipeline, load_tokenizers
from runtimes.plan import Options
from validation.parity.gate import run_gate
from validation.parity.metrics import difference
from validation.parity.reference import record_reference

ENGINES = [Execution(engine="onnxruntime"), Execution(engine="openvino", precision="f32")]
FUSED = ExportOptions(fused_attention=True, golden=False)
STATIC = ExportOptions(fused_attention=True, golden=False, static=True, modules=("stage_c",))


def _operators(bundle, graph):
    model = onnx.load(bundle.path(bundle.graph(graph).file), load_external_data=False)
    return collections.Counter(node.op_type for node in model.graph.node), model


@pytest.mark.slow
def test_fused_graphs_equal_diffusers(bundles, checkpoint):
    bundle = bundles("public", FUSED)
    for graph in ("stage_c", "stage_b"):
        operators, model = _operators(bundle, graph)
        assert operators["Attention"] > 0 and operators["Softmax"] == 0
        assert next(o.version for o in model.opset_import if o.domain == "") == 23
    assert _operators(bundle, "stage_a")[1].opset_import[0].version == 18
    options = Options(seed=2, steps=3, decoder_steps=3)
    recording = record_reference(checkpoint("public"), bundle.manifest, "a ring", "a star", options)
    for execution in ENGINES:
        assert run_gate(bundle, BundleGraphs(bundle, execution), recording).failures == []


def test_a_text_free_block_attends_to_all_of_its_equal_tokens():
    torch.manual_seed(0)
    block = AttnBlock(16, 2, "nchw", constant_tokens=77)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 16, 3, 5)
    with torch.no_grad():
        expected = block(x, None)
        fuse_attention(block)
        assert block.fused and difference(block(x, None).numpy(), expected.numpy()).relative < 1e-6


def test_the_placement_counts_what_was_fused(bundles):
    bundle = bundles("public", STATIC)
    expected = _operators(bundle, "stage_c")[0]["Attention"]
    engine = BundleGraphs(bundle, Execution()).open("stage_c")
    assert expected > 0
    assert str(engine.placement).endswith(f", {expected} fused attention")
    engine.close()


def test_bindings_of_one_graph_do_not_mix_their_constants(bundles):
    """Fixed shapes share their buffers: each run must see the constants of its own binding."""
    source = BundleGraphs(bundles("public", STATIC), Execution())
    engine, generator = source.open("stage_c"), np.random.default_rng(0)
    shapes = {
        tensor.name: tensor.shape for tensor in bundles("public", STATIC).graph("stage_c").inputs
    }

    def drawn(name):
        return generator.standard_normal(shapes[name], np.float32)

    feeds = {name: drawn(name) for name in ("latents", "timestep_embedding")}
    texts = [drawn("text_kv"), drawn("text_kv")]
    expected = [engine.run({**feeds, "text_kv": text})["epsilon"] for text in texts]
    assert not np.allclose(*expected)
    bound = [engine.bind({"text_kv": text}) for text in texts]
    for which in (0, 1, 0, 0, 1):
        assert np.array_equal(bound[which](feeds)["epsilon"], expected[which])
    engine.close()


def test_what_fits_the_bytes_of_a_buffer_only_is_refused(bundles):
    bundle = bundles("public", STATIC)
    engine = BundleGraphs(bundle, Execution()).open("stage_c")
    feeds = {t.name: np.zeros(t.shape, np.float32) for t in bundle.graph("stage_c").inputs}
    for wrong in (feeds["latents"].astype(np.int32), feeds["latents"].swapaxes(0, 1)):
        with pytest.raises(RunError, match=r"'latents' is .* the graph takes float32"):
            engine.run({**feeds, "latents": wrong})
    engine.close()


def test_a_closed_graph_gives_its_memory_back(bundles):
    """Whoever holds a binding holds the session: a pipeline lets go of it with the graph."""
    gone = []

    class Watched(BundleGraphs):
        def open(self, name):
            engine = super().open(name)
            gone.append(weakref.ref(engine._session))
            return engine

    bundle = bundles("demo")
    source, tokenizers = Watched(bundle, Execution()), load_tokenizers(bundle)
    alive = []
    with Pipeline(bundle.manifest, source, tokenizers, low_memory=True) as pipeline:
        pipeline(
            "a star",
            options=Options(steps=1, decoder_steps=1),
            on_tensors=lambda name, tensors: alive.append(sum(ref() is not None for ref in gone)),
        )
    assert len(gone) == 6 and max(alive) == 1


def test_options_ask_for_a_captured_graph_where_a_denoiser_has_fixed_shapes(bundles):
    fixed, free = (bundles("public", each).graph("stage_c") for each in (STATIC, None))
    assert provider_options(fixed, "cuda") == {"use_tf32": "0", "enable_cuda_graph": "1"}
    assert provider_options(free, "cuda") == {"use_tf32": "0"}
    assert provider_options(fixed, "cpu") == {}


def test_fp16_takes_the_operator_in():
    """CUDA's flash attention has fp16 kernels only."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["q"], "product"),
        onnx.helper.make_node("Attention", ["q", "q", "q"], ["y"], "attention"),
        onnx.helper.make_node("Softmax", ["q"], ["z"], "softmax"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    assert half_nodes(onnx_ir.from_proto(onnx.helper.make_model(graph))) == {"product", "attention"}


def test_other_formats_refuse_the_option(tmp_path, capsys):
    words = [str(tmp_path / "out"), "--backend", "openvino", "--fused-attention"]
    assert export_main(words) == 2
    assert "--fused-attention is for --backend onnx" in capsys.readouterr().err
