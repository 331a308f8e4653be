"""The weights of quantised Core ML packages: how they are stored, how exact they are."""

from collections import Counter

import numpy as np
import pytest
import torch
from quantized_coreml import made, package, tiny, values

from exporter.checkpoint.find import demo_pair
from exporter.checkpoint.open import open_checkpoint
from exporter.graphs import plan_graphs
from exporter.options import ExportOptions
from exporter.torch_engine import TorchGraphs
from quantization.coreml_program import mil_name
from runtimes import Options, Pipeline, RunError
from runtimes.bundle.readme import PROMPT
from runtimes.engines.coreml import read_specification
from runtimes.pipeline import load_tokenizers
from runtimes.schedule import timestep_embedding
from runtimes.tolerances import LIMITS, limits_for
from validation.mil.compressed import COMPRESSED
from validation.mil.engine import MilEngine
from validation.mil.islands import precision_faults
from validation.mil.program import read_program, unpack
from validation.parity.metrics import difference

pytest.importorskip("coremltools")

AFFINE = "constexpr_affine_dequantize"
BLOCKS = "constexpr_blockwise_shift_scale"
TABLES = "constexpr_lut_to_dense"
# Deployment target, precision: the operation that widens, words about each weight, and the least
# SQNR of a weight: a bit is worth 6 dB; tables fit each weight, small tables in groups most.
STORED = {
    ("iOS17", "int8-weights"): (AFFINE, "int8 weights, per channel", 38),
    ("iOS17", "palette8"): (TABLES, "8-bit palette, one table", 38),
    ("iOS17", "palette6"): (TABLES, "6-bit palette, one table", 26),
    ("iOS17", "palette4"): (TABLES, "4-bit palette, one table", 16),
    ("iOS18", "int8-weights"): (BLOCKS, "int8 weights, ", 38),
    ("iOS18", "int4-weights"): (BLOCKS, "int4 weights, ", 14),
    ("iOS18", "palette8"): (TABLES, "8-bit palette, one table", 38),
    ("iOS18", "palette6"): (TABLES, "6-bit palette, ", 26),
}
# What the demo's Stage C keeps in 8 bits to hold its limit in every step, most harmful first.
KEPT = {
    "int8-weights": (),
    "palette6": ("blocks.18.contract.weight",),
    "palette4": (
        "blocks.18.contract.weight", "blocks.15.expand.weight", "blocks.15.contract.weight",
        "blocks.18.expand.weight", "blocks.14.to_q.weight", "blocks.0.contract.weight",
        "blocks.0.expand.weight", "blocks.14.to_v.weight", "blocks.17.to_out.weight",
        "blocks.17.to_v.weight", "blocks.2.to_v.weight", "blocks.20.to_v.weight",
    ),
}  # fmt: skip
LAST_STEPS = 3  # the least noise in, the most error out


@pytest.fixture(scope="module")
def demo(bundles):
    """The demo's Stage C, and what PyTorch gave it and got from it in a run."""
    bundle = bundles("demo", ExportOptions(backend="coreml", modules=("stage_c",)))
    graphs = TorchGraphs(plan_graphs(open_checkpoint(*demo_pair(), None), "nchw", text=True))
    recorded = {}
    with Pipeline(bundle.manifest, graphs, load_tokenizers(bundle), low_memory=True) as pipeline:
        pipeline(PROMPT, options=Options(decoder_steps=1), on_tensors=recorded.__setitem__)
    return bundle, recorded


def worst_db(bundle, recorded):
    """The least SQNR of the last steps of Stage C, each fed with what was recorded."""
    denoiser, graph = bundle.manifest.sampling.stage_c, bundle.manifest.graphs["stage_c"]
    run = MilEngine(package(bundle), graph).bind(recorded["stage_c_condition"])
    found = []
    for index, row in list(enumerate(denoiser.schedule))[-LAST_STEPS:]:
        latents = recorded[f"stage_c/{index - 1}"]["latents"]
        doubled = np.concatenate([latents, latents])
        embedding = np.repeat(timestep_embedding(row.t, denoiser), 2, axis=0)
        epsilon = run({"latents": doubled, "timestep_embedding": embedding})["epsilon"]
        found.append(difference(epsilon, recorded[f"stage_c/{index}"]["epsilon"]).sqnr_db)
    return min(found)


@pytest.mark.slow
@pytest.mark.parametrize("precision", KEPT)
def test_the_demo_holds_the_limit_in_its_worst_steps(demo, tmp_path, precision):
    bundle, recorded = demo
    found = made(bundle, tmp_path / "b", precision, keep=KEPT[precision])
    assert worst_db(found, recorded) >= limits_for(precision).graph_db
    record = found.manifest.quantization["stage_c"]
    share = {"int8-weights": 0.57, "palette6": 0.46, "palette4": 0.42}[precision]
    assert record.bytes_after <= share * record.bytes_before
    kept = {w.name for w in record.weights if w.stored == "int8 weights, per channel"}
    assert kept == set(map(mil_name, KEPT[precision])) or precision == "int8-weights"


@pytest.mark.slow
def test_fp16_as_exported_is_what_the_rest_is_measured_against(demo):
    assert worst_db(*demo) >= LIMITS["fp16"].graph_db


# One in the short run: what differs between the others is coremltools' search for tables.
@pytest.mark.parametrize(
    ("target", "precision"),
    [
        pytest.param(*case, marks=[] if case == ("iOS17", "int8-weights") else pytest.mark.slow)
        for case in STORED
    ],
)
def test_programs_are_the_same_but_for_their_weights(bundles, tmp_path, target, precision):
    source = tiny(bundles, target)
    found = made(source, tmp_path / "b", precision)
    kind, words, least = STORED[target, precision]
    record = found.manifest.quantization["stage_c"]
    done = {w.name for w in record.weights if not w.reason}
    assert all(w.stored.startswith(words) for w in record.weights if not w.reason)
    before, after = (read_program(package(b))["main"] for b in (source, found))
    kinds = [Counter(o.kind for o in function.operations) for function in (before, after)]
    assert kinds[1] - kinds[0] == {kind: len(done)} and not kinds[0] - kinds[1]
    assert precision_faults(package(found), "stage_c", "fp16") == []
    widened_values, own = values(package(found))["main"], coremltools_values(package(found))
    for name in done:
        close = next(k for k in own if k.startswith(f"{name}_"))
        assert (widened_values[close].numpy() == own[close]).all()
        error = difference(own[close], before.constants[name].numpy())
        assert error.sqnr_db >= least, name


def coremltools_values(path):
    """What coremltools itself makes of the compressed weights of a package with one function."""
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = read_specification(path)
    program = load(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    return {
        operation.outputs[0].name: operation.materialized_val_inference()
        for operation in program.functions["main"].operations
        if operation.op_type.startswith("constexpr_")
    }


@pytest.mark.slow
def test_fp32_packages_are_taken_too(bundles, tmp_path):
    found = made(tiny(bundles, precision="fp32"), tmp_path / "b", "palette6")
    record = found.manifest.quantization["stage_c"]
    assert {w.stored for w in record.weights} == {"float32", "6-bit palette, one table"}
    assert record.bytes_after < 0.8 * record.bytes_before
    assert precision_faults(package(found), "stage_c", "fp32") == []


@pytest.mark.parametrize(("bits", "signed"), [(4, False), (6, False), (4, True)])
def test_packed_integers_are_read_back(bits, signed):
    from coremltools.optimize._utils import pack_elements_into_bits

    low = -(1 << bits - 1) if signed else 0
    wanted = np.random.default_rng(0).integers(low, low + (1 << bits), 777)
    wanted = wanted.astype(np.int8 if signed else np.uint8)
    found = unpack(pack_elements_into_bits(wanted, bits), bits, len(wanted), signed=signed)
    assert (found.view(wanted.dtype) == wanted).all()


def test_one_scale_and_zero_point_for_all():
    data = torch.arange(-4, 4, dtype=torch.int8).reshape(2, 4)
    found = COMPRESSED[AFFINE](
        data, torch.tensor(1, dtype=torch.int8), torch.tensor(0.5), torch.tensor(0)
    )
    assert torch.equal(found, (data.float() - 1) / 2)


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        (TABLES, (torch.zeros(4, 4), torch.zeros(1, 1, 16, 2)), "tables of vectors"),
        (TABLES, (torch.zeros(4, 4), torch.zeros(3, 1, 16, 1)), "3 blocks do not divide 4"),
        (BLOCKS, (torch.zeros(4, 6), torch.zeros(4, 4)), "4 blocks do not divide 6 along axis 1"),
    ],
)
def test_what_the_interpreter_does_not_widen_is_an_error(kind, inputs, message):
    with pytest.raises(RunError, match=message):
        COMPRESSED[kind](*inputs)
