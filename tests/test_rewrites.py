"""Every rewrite and every export-form module against the reference module, before any export."""

import pytest
import tiny
import torch
from torch.nn import functional as F

from exporter.checkpoint.shapes import stage_b_shapes
from exporter.cost import count, graph_parameters
from exporter.graphs import plan_graphs
from exporter.modules.resize import resize, resize_matrix
from exporter.modules.stage_a import RepeatedEdge
from exporter.modules.stage_b import StageB
from runtimes.tolerances import LIMITS
from validation.parity.metrics import difference

# Export-form modules in PyTorch differ by rounding alone: well inside the gate's limit.
LIMIT = LIMITS["fp32"].graph_error / 10
NAMES = list(tiny.TINY)
LAYOUTS = ["nchw", "nhwc"]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return difference(found.numpy(), expected.numpy()).relative


def modules(checkpoint, name, layout, text=True):
    found = {}
    for plan in plan_graphs(checkpoint(name), layout, text=text):
        with plan.module() as module:
            found[plan.name] = module
    return found


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_stage_c_equals_the_reference(checkpoint, name, layout, batch):
    reference, found = tiny.reference(name).stage_c, modules(checkpoint, name, layout)
    config = checkpoint(name).stage_c.config
    x, t = drawn(batch, config.c_in, 5, 7), torch.linspace(1, 0.1, batch)
    text = drawn(batch, 77, config.c_cond, seed=2)
    text_kv = found["stage_c_condition"](text)
    assert text_kv.shape == (batch, config.depth, 2, 77, config.c)
    epsilon = found["stage_c"](x, reference.gen_r_embedding(t), text_kv)
    assert error(epsilon, reference(x, t, text)) < LIMIT


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [True, False])
def test_stage_b_equals_the_reference(checkpoint, name, layout, batch, text):
    reference, found = tiny.reference(name).stage_b, modules(checkpoint, name, layout, text)
    config = checkpoint(name).stage_b.config
    x = drawn(batch, config.c_in, 3 * config.multiple, 2 * config.multiple)
    embedding, t = drawn(batch, config.effnet_embd, 5, 7, seed=2), torch.linspace(1, 0.1, batch)
    hidden = drawn(batch, 77, config.clip_embd, seed=3)
    given = (embedding, x, hidden) if text else (embedding, x)
    conditions = found["stage_b_condition"](*given)
    epsilon = found["stage_b"](x, reference.gen_r_embedding(t), *conditions)
    # Text-free is exact against the reference on zero text (rewrite 6) ...
    expected = reference(x, t, embedding, hidden if text else torch.zeros_like(hidden))
    assert error(epsilon, expected) < LIMIT
    # ... and this checkpoint's text does matter, so the agreement says something.
    if not text:
        assert error(epsilon, reference(x, t, embedding, hidden)) > 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_stage_a_equals_the_reference(checkpoint, name, layout):
    reference, found = tiny.reference(name).stage_a, modules(checkpoint, name, layout)
    config = checkpoint(name).stage_a.config
    for batch in (1, 3):
        latents = drawn(batch, config.latent_channels, 6, 4)
        expected = reference.decode(latents * config.scale_factor).sample.clamp(0, 1)
        assert error(found["stage_a"](latents), expected) < LIMIT


@pytest.mark.parametrize("name", NAMES)
def test_text_encoders_equal_the_reference(checkpoint, name):
    reference, found = tiny.reference(name), modules(checkpoint, name, "nchw")
    ids = torch.arange(3 * 77).view(3, 77) % 500
    mask = torch.ones_like(ids)
    mask[1, 40:], mask[2, 3:] = 0, 0
    for graph in ("text_encoder", "decoder_text_encoder"):
        expected = getattr(reference, graph)(ids, attention_mask=mask).last_hidden_state
        assert error(found[graph](ids, mask), expected) < LIMIT


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((24, 24), (64, 64)), ((24, 24), (32, 32)), ((24, 24), (16, 16)), ((7, 5), (16, 3)),
     ((6, 6), (4, 4)), ((36, 24), (24, 16)), ((5, 9), (5, 9)), ((12, 8), (1, 1)),
     ((1, 1), (4, 4)), ((48, 13), (2, 7))],
)  # fmt: skip
def test_resize_equals_torch(given, wanted):
    x = drawn(2, 16, *given)
    expected = F.interpolate(x, size=wanted, mode="bicubic", antialias=True, align_corners=True)
    assert error(resize(x, *wanted), expected) < LIMIT


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 5, 4, 7), (1, 1, 2, 3)])
def test_edges_as_slices_are_torchs_replication_padding(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(RepeatedEdge()(x), F.pad(x, (1, 1, 1, 1), mode="replicate"))


def test_resize_rows_are_weighted_means():
    rows = resize_matrix(24, 64).sum(dim=1)
    assert torch.allclose(rows, torch.ones_like(rows), atol=1e-6)


def test_rank_16_effnet_shrinks_the_public_stage_b():
    """Rewrite 1 on the public config: 1,055,365,280 parameters become 848,822,432."""
    from exporter.checkpoint.configs import StageBConfig
    from exporter.modules.stage_b import StageBCondition

    config = StageBConfig()
    assert count(stage_b_shapes(config)) == 1_055_365_280
    with torch.device("meta"):
        step, once = StageB(config, "nchw"), StageBCondition(config, text=True)
    shared = sum(  # the condition graph holds its own copy of each block's key and value weights
        p.numel() for n, p in once.named_parameters() if ".to_k." in n or ".to_v." in n
    )
    total = sum(p.numel() for m in (step, once) for p in m.parameters())
    # GRN's beta (4 c a block) went into the next bias (rewrite 7).
    betas = sum(block.grn.gamma.numel() for block in step.blocks if hasattr(block, "grn"))
    assert total - shared + betas == 848_822_432


def test_text_free_stage_b_has_no_text_graphs(checkpoint):
    names = [plan.name for plan in plan_graphs(checkpoint("public"), "nchw", text=False)]
    assert "decoder_text_encoder" not in names
    kept, dropped = (
        {plan.name: plan for plan in plan_graphs(checkpoint("public"), "nchw", text=text)}
        for text in (True, False)
    )
    assert not any("text" in tensor.name for tensor in dropped["stage_b"].inputs)
    assert graph_parameters(dropped["stage_b_condition"]) == 0
    assert graph_parameters(kept["stage_b_condition"]) > 0
