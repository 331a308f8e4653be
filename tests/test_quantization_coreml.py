"""Quantised Core ML packages: what is stored, how exact it is, what is refused."""

import dataclasses
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest

from exporter.options import ExportOptions
from quantization.cli import main
from quantization.coreml_program import mil_name, weights
from quantization.quantize import Request, quantize
from quantization.recipes import INT8_WEIGHTS, PALETTE4, PALETTE6, PRESETS
from quantization.weights import LAST, uses
from runtimes.bundle import open_bundle
from runtimes.coreml_engine import import_coremltools, read_specification
from runtimes.options import timesteps_for
from runtimes.schedule import schedule, timestep_embedding
from validation.metrics import decibels, difference
from validation.mil.engine import MilEngine, widened
from validation.mil.islands import precision_faults
from validation.mil.program import read_program, unpack
from validation.recording import read_golden
from validation.tolerances import LIMITS, limits_for

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
def exported(bundles):
    """A tiny Stage C in a Core ML bundle for one picture size."""

    def get(target="iOS17", precision="fp16"):
        return bundles(
            "public",
            ExportOptions(
                backend="coreml",
                modules=("stage_c",),
                deployment_target=target,
                precision=precision,
            ),
        )

    return get


@pytest.fixture(scope="module")
def two_sizes(bundles):
    """A tiny Stage B, a function for each of two picture sizes."""
    options = ExportOptions(
        backend="coreml", modules=("stage_b",), sizes=((128, 256),), deployment_target="iOS18"
    )
    return bundles("public", options)


@pytest.fixture(scope="module")
def demo(bundles):
    """The demo's Stage C, and its ONNX bundle's recording of what goes in and comes out."""
    bundle = bundles("demo", ExportOptions(backend="coreml", modules=("stage_c",)))
    return bundle, read_golden(bundles("demo").folder)


def made(bundle, folder, precision, **exceptions):
    """A bundle in a preset's precision, with exceptions of its denoisers."""
    plan = {
        name: dataclasses.replace(PRESETS[precision][name], **exceptions)
        for name in bundle.manifest.graphs
    }
    quantize(bundle, folder, Request(precision, plan, [], 0, 0))
    return open_bundle(folder, verify_hashes=True)


def package(bundle, name="stage_c"):
    return bundle.path(bundle.manifest.graphs[name].file)


def values(path):
    """Every floating constant of a package's functions; of compressed ones, what they stand for."""
    return {
        name: {k: v for k, v in widened(function).constants.items() if not isinstance(v, str)}
        for name, function in read_program(path).items()
    }


def worst_db(bundle, recording):
    """The least SQNR of the last steps of Stage C, each fed with what was recorded."""
    denoiser, graph = bundle.manifest.sampling.stage_c, bundle.manifest.graphs["stage_c"]
    run = MilEngine(package(bundle), graph).bind(
        {"text_kv": recording.tensors["stage_c_condition.text_kv"]}
    )
    timesteps = timesteps_for(recording.options, "stage_c", denoiser)
    rows = list(enumerate(schedule(timesteps, denoiser.s, denoiser.scaler)))
    found = []
    for index, row in rows[-LAST_STEPS:]:
        latents = recording.tensors[f"stage_c/{index - 1}.latents"]
        doubled = np.concatenate([latents, latents])
        embedding = np.repeat(timestep_embedding(row.t, denoiser), 2, axis=0)
        epsilon = run({"latents": doubled, "timestep_embedding": embedding})["epsilon"]
        found.append(difference(epsilon, recording.tensors[f"stage_c/{index}.epsilon"]).sqnr_db)
    return min(found)


@pytest.mark.parametrize("precision", KEPT)
def test_the_demo_holds_the_limit_in_its_worst_steps(demo, tmp_path, precision):
    bundle, recording = demo
    found = made(bundle, tmp_path / "b", precision, keep=KEPT[precision])
    assert worst_db(found, recording) >= decibels(limits_for(precision).graph_error)
    record = found.manifest.quantization["stage_c"]
    share = {"int8-weights": 0.57, "palette6": 0.46, "palette4": 0.42}[precision]
    assert record.bytes_after <= share * record.bytes_before
    kept = {w.name for w in record.weights if w.stored == "int8 weights, per channel"}
    assert kept == set(map(mil_name, KEPT[precision])) or precision == "int8-weights"


def test_fp16_as_exported_is_what_the_rest_is_measured_against(demo):
    assert worst_db(*demo) >= decibels(LIMITS["fp16"].graph_error)


@pytest.mark.parametrize(("target", "precision"), STORED)
def test_programs_are_the_same_but_for_their_weights(exported, tmp_path, target, precision):
    source = exported(target)
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


def test_every_weight_is_in_the_record_with_what_became_of_it(two_sizes, tmp_path):
    found = made(two_sizes, tmp_path / "b", "palette6")
    record = found.manifest.quantization["stage_b"]
    listed = [w.name for w in weights(read_specification(package(two_sizes, "stage_b")))]
    assert [w.name for w in record.weights] == listed
    assert all(bool(w.reason) == w.stored.startswith("float") for w in record.weights)
    left = {w.name for w in weights(read_specification(package(found, "stage_b")))}
    assert left == {w.name for w in record.weights if w.reason}
    assert found.manifest.graphs["stage_b"].precision == "palette6"
    assert {"coremltools", "scikit-learn"} <= found.manifest.tools.keys()


@pytest.mark.parametrize("graph", ["stage_c", "stage_b"])
def test_weights_and_reasons_are_those_of_the_onnx_graph(bundles, exported, two_sizes, graph):
    """So that one plan serves both; the last projection alone has lost its name to a cast."""
    source = bundles("public", ExportOptions(modules=("stage_c", "stage_b")))
    model = onnx.load(source.path(f"{graph}/model.onnx"), load_external_data=False)
    wanted = [(mil_name(use.weight), use.reason) for use in uses(model)]
    bundle = exported() if graph == "stage_c" else two_sizes
    found = [(w.name, w.reason) for w in weights(read_specification(package(bundle, graph)))]
    assert set(found) ^ set(wanted) <= {item for item in found + wanted if item[1] == LAST}
    assert len(set(wanted)) == len({item for item in found if item[1] != LAST}) + sum(
        reason == LAST for _, reason in set(wanted)
    )


@pytest.mark.parametrize("precision", ["palette4", "int8-weights"])
def test_functions_survive_and_share_their_weights(two_sizes, tmp_path, precision):
    found = made(two_sizes, tmp_path / "b", precision)
    path, before = package(found, "stage_b"), package(two_sizes, "stage_b")
    functions = values(path)
    assert functions.keys() == values(before).keys() == {"size_128x128", "size_128x256"}
    done = [w.name for w in found.manifest.quantization["stage_b"].weights if not w.reason]
    for name in done:
        both = [next(v for k, v in own.items() if k.startswith(f"{name}_") and "." not in k)
                for own in functions.values()]  # fmt: skip
        assert (both[0] == both[1]).all()
    sizes = [
        (p / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size for p in (path, before)
    ]
    assert sizes[0] < 0.75 * sizes[1]
    described, source = (read_specification(p).description for p in (path, before))
    assert [f.name for f in described.functions] == [f.name for f in source.functions]
    assert described.defaultFunctionName == source.defaultFunctionName == "size_128x128"
    for width in (32, 64):
        engine = MilEngine(path, found.manifest.graphs["stage_b"])
        feeds = drawn(source, width)
        exact = MilEngine(before, found.manifest.graphs["stage_b"]).run(feeds)["epsilon"]
        assert difference(engine.run(feeds)["epsilon"], exact).sqnr_db > 10


def drawn(description, width):
    """Inputs of the function whose latents are this wide."""
    generator = np.random.default_rng(0)
    for function in description.functions:
        shapes = {f.name: tuple(f.type.multiArrayType.shape) for f in function.input}
        if shapes["latents"][-1] == width:
            return {k: generator.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    raise AssertionError(f"no function takes latents of width {width}")


@pytest.mark.parametrize("precision", ["palette6", "int4-weights"])
def test_two_runs_make_the_same_bytes_and_opening_changes_none(two_sizes, tmp_path, precision):
    first, second = (made(two_sizes, tmp_path / name, precision) for name in ("a", "b"))
    assert first.manifest.files == second.manifest.files
    import_coremltools().models.MLModel(str(package(first, "stage_b")), skip_model_load=True)
    open_bundle(first.folder, verify_hashes=True)
    text = (package(first, "stage_b") / "Data/com.apple.CoreML/model.mlmodel").read_bytes()
    assert str(tmp_path).encode() not in text
    assert not list(tmp_path.rglob("tmp*"))


def test_a_package_says_its_new_precision_and_the_rest_as_before(exported, tmp_path):
    source = exported()
    found = made(source, tmp_path / "b", "palette6")
    before, after = (read_specification(package(b)).description for b in (source, found))
    assert after.metadata.userDefined["precision"] == "palette6"
    assert after.metadata.shortDescription == "Wuerstchen, graph stage_c (palette6)"
    after.metadata.userDefined["precision"] = "fp16"
    after.metadata.shortDescription = before.metadata.shortDescription
    assert after == before


def test_exceptions_are_honoured_by_either_name(exported, tmp_path):
    bundle = exported("iOS18")
    exceptions = {"keep": ("blocks.0.expand.weight",), "skip": ("p_blocks_0_contract_weight",)}
    for recipe in (PALETTE4, INT8_WEIGHTS):
        found = made(bundle, tmp_path / recipe.name, recipe.name, **exceptions)
        by_name = {w.name: w for w in found.manifest.quantization["stage_c"].weights}
        assert by_name["p_blocks_0_expand_weight"].stored.startswith("int8 weights, groups of ")
        skipped = by_name["p_blocks_0_contract_weight"]
        assert (skipped.stored, skipped.reason) == ("float16", "the plan skips it")


def test_fp32_packages_are_taken_too(exported, tmp_path):
    found = made(exported(precision="fp32"), tmp_path / "b", "palette6")
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


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("int4-weights", "int4-weights needs iOS 18, and stage_c is for iOS17: take palette4"),
        ("int8", "--precision int8: not available for coreml bundles"),
        ("fp16", "--precision fp16: not available for coreml bundles"),
    ],
)
def test_what_a_package_cannot_store_is_refused(capsys, exported, tmp_path, precision, message):
    refused(capsys, [exported().folder, tmp_path / "b", "--precision", precision], message)
    assert list(tmp_path.iterdir()) == []


def test_bad_requests_are_refused(capsys, bundles, exported, tmp_path, monkeypatch):
    source, output = exported().folder, tmp_path / "b"
    onnx_bundle = bundles("public", ExportOptions(modules=("stage_c", "stage_b"))).folder
    command = [onnx_bundle, output, "--precision", "palette6"]
    refused(capsys, command, "--precision palette6: not available for onnx bundles")
    plan = tmp_path / "plan.toml"
    words = 'precision = "palette6"\n[stage_c]\nrecipe = "palette6"\nskip = ["blocks.99.weight"]\n'
    plan.write_text(words)
    missing = "the plan names 'blocks.99.weight', which stage_c does not have"
    refused(capsys, [source, output, "--plan", plan], missing)
    once = made(exported(), tmp_path / "once", "palette6").folder
    again = "is palette6 already; quantise the fp32 or fp16 bundle instead"
    refused(capsys, [once, output, "--precision", "int8-weights"], again)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    extra = "scikit-learn is not installed, which quantises coreml bundles: pip install "
    refused(capsys, [source, output, "--precision", "palette6"], extra)
    assert not output.exists()


def refused(capsys, words, message):
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_quantization_needs_no_torch(exported, tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'diffusers'):\n"
        "    sys.modules[name] = None\n"
        "from quantization.cli import main\n"
        f"sys.exit(main([{str(exported().folder)!r}, {str(tmp_path / 'b')!r},"
        " '--precision', 'palette6']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "stage_c               palette6" in done.stdout
    assert done.stderr == ""


def test_palette_presets_give_the_denoisers_their_bits():
    for name, palette in (("palette6", PALETTE6), ("palette4", PALETTE4)):
        own = {graph for graph, recipe in PRESETS[name].items() if recipe == palette}
        assert own == {"stage_c", "stage_b"}
        assert {r for g, r in PRESETS[name].items() if g not in own} == {INT8_WEIGHTS}
