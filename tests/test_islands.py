"""fp16 modules with fewer fp32 islands: in range, exact on trained weights, chosen by name."""

import pytest
import torch
from test_coreml import check, convert, find
from torch.nn import functional as F

from exporter.checkpoint.find import demo_pair
from exporter.checkpoint.open import open_checkpoint
from exporter.cli import main as export
from exporter.dimensions import make_static, named_sizes
from exporter.fingerprint import Fingerprints
from exporter.graphs import plan_graphs
from exporter.job import check_job
from exporter.modules.blocks import GlobalResponseNorm
from exporter.modules.islands import ISLANDS, LEAST, SETS, half_norm, keep_islands
from exporter.options import ExportOptions
from exporter.torch_engine import TorchEngine
from runtimes.bundle.manifest import CONDITION_GRAPHS
from runtimes.recording import read_golden
from runtimes.sizes import sizes
from runtimes.tolerances import LIMITS
from validation.mil.placement import placement
from validation.parity.gate import graph_results

HALF = 2.0**-8  # a handful of roundings of 2^-11 each


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("size", [0.02, 1.0, 300.0, 9000.0])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_norm_in_fp16_holds_what_its_squares_do_not(size, axis):
    """Against PyTorch's in fp32, of the same numbers; 256 squared is beyond fp16."""
    x = (torch.randn(2, 64, 5, 64, generator=torch.Generator().manual_seed(0)) * size).half()
    for eps in (1e-6, 1e-5):
        wide = x.float().movedim(axis, -1)
        expected = F.layer_norm(wide, wide.shape[-1:], eps=eps).movedim(-1, axis)
        assert off(half_norm(x, axis, eps), expected) < HALF


@pytest.mark.parametrize("size", [0.05, 1.0, 200.0])
def test_global_response_norm_in_fp16_is_that_in_fp32(size):
    draws = torch.Generator().manual_seed(0)
    module = GlobalResponseNorm(32, "nchw").half()
    torch.nn.init.normal_(module.gamma, generator=draws)
    x = (torch.randn(2, 32, 64, 64, generator=draws) * size).half()
    expected = module.float()(x.float())
    keep_islands(module.half(), ())
    found = module(x)
    assert found.dtype == torch.float16 and off(found, expected) < HALF


@pytest.fixture(scope="module")
def worst_db(bundles):
    """The worst step of a graph of the demo in fp16 with some islands, by PyTorch's rounding."""
    bundle = bundles("demo")
    recording, constants = read_golden(bundle), bundle.manifest.sampling
    size = sizes(constants.height, constants.width, constants)
    plans = {p.name: p for p in plan_graphs(open_checkpoint(*demo_pair(), None), "nchw", text=True)}

    def get(name, islands):
        plan = make_static(plans[name], named_sizes(plans[name], 1, constants, size))
        engine = TorchEngine(plan, islands=islands)
        worst = min(off.sqnr_db for _, _, off in graph_results(engine, bundle, name, recording))
        engine.close()
        return worst

    return get


@pytest.mark.parametrize(
    "name",
    ["text_encoder", "stage_c", pytest.param("stage_b", marks=pytest.mark.slow), "stage_a"],
)
def test_the_least_islands_keep_the_limit(worst_db, name):
    islands = SETS[LEAST].get(name, ())
    assert worst_db(name, islands) >= LIMITS["fp16"].graph_db
    assert set(islands) < set(ISLANDS)


@pytest.mark.slow
def test_without_any_stage_c_misses_it(worst_db):
    """So that the limit is one."""
    assert worst_db("stage_c", ()) < LIMITS["fp16"].graph_db


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["text_encoder", "stage_c", "stage_b", "stage_a"])
def test_programs_have_no_other_operations_in_fp32(checkpoint, tmp_path, graph):
    islands = SETS[LEAST].get(graph, ())
    plan = find(checkpoint, "one_level", True, graph)
    made = convert(plan, "fp16", tmp_path / "out", islands)
    check(made)
    (program,) = placement(made.path, graph)
    wide = [each for each in program.wide if each.kind not in ("cast", "select", "clip")]
    # The norm in front of epsilon's projection belongs to its island.
    assert {each.why for each in wide} <= {*islands, "norm"}
    assert {each.block for each in wide if each.why == "norm"} <= {"end"}


def test_resume_keeps_condition_graphs_alone_for_other_islands(checkpoint):
    jobs = [
        check_job(checkpoint("one_level"), ExportOptions(backend="coreml", islands=name))
        for name in SETS
    ]
    safe, least = map(Fingerprints, jobs)
    kept = {plan.name for plan in jobs[0].plans if safe.of(plan) == least.of(plan)}
    assert kept == {*CONDITION_GRAPHS, "stage_a_encoder"}  # which has all islands either way


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--islands", "least"], "--islands is for --backend coreml"),
        (["--backend", "coreml", "--precision", "fp32", "--islands", "least"], "leave --precision"),
        (["--backend", "coreml", "--islands", "most"], "invalid choice: 'most'"),
    ],
)
def test_bad_input(capsys, tmp_path, words, message):
    assert export([str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
