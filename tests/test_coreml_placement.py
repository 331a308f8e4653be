"""What keeps a Core ML program off the Neural Engine: how it is counted, that it gets no more."""

import pytest
from test_coreml import convert, find

from runtimes.engines.coreml import import_coremltools
from validation.cli import main as validation
from validation.mil.islands import islands as types_of
from validation.mil.placement import placement

pytest.importorskip("coremltools")
import_coremltools()

# Of Stage C with two blocks of three layers each: nothing more may come to compute in fp32.
WHY = {"norm": 5, "grn": 16, "softmax": 2, "stream": 10, "end": 10}
CASTS, RUNS = 25, 12


@pytest.fixture(scope="module")
def stage_c(checkpoint, tmp_path_factory):
    plan = find(checkpoint, "one_level", True, "stage_c")
    return convert(plan, "fp16", tmp_path_factory.mktemp("placement") / "out")


def test_every_operation_in_fp32_is_counted_once(stage_c):
    """Against the listing of types, operation by operation."""
    (program,) = placement(stage_c.path, "stage_c")
    typed = types_of(stage_c.path)
    casts = {t.name for t in typed if t.kind == "cast"}
    wide = {t.name for t in typed if t.output == "fp32"}
    assert {operation.name for operation in program.wide} == wide | casts
    assert (program.casts, program.operations) == (len(casts), len(typed))
    assert program.half + len(wide) == len(typed)


def test_reasons_and_blocks_are_those_of_the_modules(stage_c):
    (program,) = placement(stage_c.path, "stage_c")
    assert program.why == WHY | {"cast": CASTS} and program.runs == RUNS
    blocks = {why: {o.block for o in program.wide if o.why == why} for why in WHY}
    assert blocks["grn"] == {"blocks.0", "blocks.3"}  # ResBlocks, then timesteps, then attention
    assert blocks["softmax"] == {"blocks.2", "blocks.5"}
    assert blocks["norm"] == blocks["grn"] | blocks["softmax"] | {"end"}
    # What Stage C begins with is added to first.
    assert blocks["stream"] == {"projection", *(f"blocks.{index}" for index in range(1, 6))}
    assert blocks["end"] == {"end"}


def test_denoisers_look_nothing_up_and_have_five_axes_at_most(stage_c):
    (program,) = placement(stage_c.path, "stage_c")
    assert (program.gathers, program.beyond_axes) == (0, 0)


def test_other_bundles_are_refused_in_a_line(capsys, bundles):
    assert validation(["placement", str(bundles("one_level").folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "is a bundle for onnx: placement is for those of 'python -m exporter" in captured.err
