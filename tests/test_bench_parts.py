"""Parts of validation bench: the yardstick's modules, FLOP counts, clock, matrix peak."""

import time

import pytest
import tiny
import torch
from torch.nn import functional as F

import validation.bench.peak
from exporter.graphs import plan_graphs
from runtimes.engines.base import Placement
from runtimes.tolerances import LIMITS
from validation.bench.cases import count_flops
from validation.bench.end_to_end import Clock, TimedGraphs
from validation.bench.peak import matrix_peaks
from validation.bench.reference_modules import reference_module
from validation.parity.metrics import difference

EXACT = LIMITS["fp32"].graph_error


@pytest.fixture(autouse=True)
def small_peak(monkeypatch):
    """A product that takes no time says how the peak is measured as well as a large one."""
    monkeypatch.setattr(validation.bench.peak, "SIZES", (64,))


@pytest.mark.parametrize("name", list(tiny.TINY))
def test_reference_modules_are_diffusers_own(checkpoint, name):
    """Built from config and weights by name, they compute what the saved modules do."""
    saved, x = tiny.reference(name), torch.Generator().manual_seed(3)
    for plan in plan_graphs(checkpoint(name), "nchw", text=True):
        with plan.weights() as weights:
            found = reference_module(plan, weights)
            if plan.name.endswith("_condition"):
                assert found is None
                continue
            config = checkpoint(name).stage_b.config
            if plan.name == "stage_c":
                config = checkpoint(name).stage_c.config
                given = (torch.randn(2, config.c_in, 5, 7, generator=x), torch.tensor([0.9, 0.2]),
                         torch.randn(2, 77, config.c_cond, generator=x))  # fmt: skip
                expected = saved.stage_c(*given)
            elif plan.name == "stage_b":
                side = 2 * config.multiple
                given = (torch.randn(1, config.c_in, side, side, generator=x), torch.tensor([0.4]),
                         torch.randn(1, config.effnet_embd, 5, 7, generator=x),
                         torch.randn(1, 77, config.clip_embd, generator=x))  # fmt: skip
                expected = saved.stage_b(*given)
            elif plan.name == "stage_a":
                given = (torch.randn(1, config.c_out, 6, 4, generator=x),)
                scaled = given[0] * saved.stage_a.config.scale_factor
                expected = saved.stage_a.decode(scaled).sample.clamp(0, 1)
            else:
                given = (torch.arange(154).view(2, 77), torch.ones(2, 77, dtype=torch.long))
                expected = getattr(saved, plan.name)(*given).last_hidden_state
            output = found(*given)
            output = output if isinstance(output, torch.Tensor) else output[0]
            assert difference(output.numpy(), expected.numpy()).relative < EXACT / 10


def test_attention_counts():
    """PyTorch's counter leaves fused attention out on some devices, not on the meta device."""

    class Attention(torch.nn.Module):
        def forward(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v)

    q, kv = torch.zeros(1, 2, 8, 4), torch.zeros(1, 2, 6, 4)
    assert count_flops(Attention(), [q, kv, kv]) == 2 * (2 * 2 * 8 * 6 * 4)


def test_the_clock_counts_what_runs_inside_the_engines():
    class Sleeper:
        load_seconds, placement = 0.0, Placement("none", "CPU", "f32")

        def run(self, feeds):
            time.sleep(0.02)
            return feeds

        def bind(self, constants):
            return lambda feeds: self.run({**constants, **feeds})

    class Graphs:
        def open(self, name):
            return Sleeper()

    clock, start = Clock(), time.perf_counter()
    engine = TimedGraphs(Graphs(), clock).open("stage_a")
    assert engine.run({"a": 1}) == {"a": 1}
    assert engine.bind({"a": 1})({"b": 2}) == {"a": 1, "b": 2}
    time.sleep(0.02)
    assert 0.04 <= clock.seconds <= time.perf_counter() - start - 0.02


def test_peaks_are_measured_for_every_precision_of_the_processor():
    import openvino

    peaks = matrix_peaks()
    assert "f32" in peaks and all(rate > 0 for rate in peaks.values())
    has = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert ("int8" in peaks, "bf16" in peaks) == ("INT8" in has, "BF16" in has)


def test_pytorch_measures_the_peak_where_openvino_is_not(monkeypatch):
    monkeypatch.setattr(validation.bench.peak, "TORCH_SIZE", 64)
    monkeypatch.setattr(validation.bench.peak, "RUNS", 1)
    rate = validation.bench.peak._torch_rate("cpu", torch.float32)
    assert 0 < rate < 1e15
