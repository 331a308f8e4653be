"""Core ML bundles quantised: records, functions, names, exceptions, refusals, equal bytes."""

import dataclasses
import subprocess
import sys

import numpy as np
import onnx_ir
import pytest
from quantized_coreml import made, package, tiny, values

from exporter.options import ExportOptions
from quantization.cli import main
from quantization.coreml_program import mil_name, weights
from quantization.recipes import INT8_WEIGHTS, PALETTE4, PALETTE6, PRESETS
from quantization.roles import DEPTHWISE, FIRST, LAST, MAPPER, SMALL, uses
from runtimes.bundle.read import open_bundle
from runtimes.engines.coreml import import_coremltools, read_specification
from validation.mil.engine import MilEngine
from validation.parity.metrics import difference

pytest.importorskip("coremltools")


@pytest.fixture(scope="module")
def two_sizes(bundles):
    """A tiny Stage C, a function for each of two picture sizes."""
    options = ExportOptions(
        backend="coreml", modules=("stage_c",), sizes=((128, 256),), deployment_target="iOS18"
    )
    return bundles("public", options)


@pytest.fixture(scope="module")
def functions(two_sizes, tmp_path_factory):
    """The two functions in a preset's precision."""
    root, found = tmp_path_factory.mktemp("functions"), {}

    def get(precision):
        if precision not in found:
            found[precision] = made(two_sizes, root / precision, precision)
        return found[precision]

    return get


@pytest.fixture(scope="module")
def stage_b(bundles):
    """A tiny Stage B in Core ML and in ONNX: it has weights in every role."""
    options = ExportOptions(modules=("stage_b",), static=True)
    return tuple(
        bundles("odd_c_r", dataclasses.replace(options, backend=backend))
        for backend in ("coreml", "onnx")
    )


@pytest.mark.slow
def test_every_weight_is_in_the_record_with_what_became_of_it(stage_b, tmp_path):
    source = stage_b[0]
    found = made(source, tmp_path / "b", "palette6")
    record = found.manifest.quantization["stage_b"]
    listed = weights(read_specification(package(source, "stage_b")))
    assert [(w.name, w.reason) for w in record.weights] == [(w.name, w.reason) for w in listed]
    assert {w.reason for w in listed} == {"", FIRST, DEPTHWISE, MAPPER, SMALL, LAST}
    assert all(bool(w.reason) == w.stored.startswith("float") for w in record.weights)
    left = {w.name for w in weights(read_specification(package(found, "stage_b")))}
    assert left == {w.name for w in record.weights if w.reason}
    assert found.manifest.graphs["stage_b"].precision == "palette6"
    assert {"coremltools", "scikit-learn"} <= found.manifest.tools.keys()


@pytest.mark.slow
def test_weights_and_reasons_are_those_of_the_onnx_graph(stage_b):
    """So that one plan serves both; the last projection alone has lost its name to a cast."""
    coreml, other = stage_b
    model = onnx_ir.load(other.path("stage_b/model.onnx"))
    wanted = [(mil_name(use.weight), use.reason) for use in uses(model)]
    found = [(w.name, w.reason) for w in weights(read_specification(package(coreml, "stage_b")))]
    assert [name for name, reason in wanted if reason == LAST] == ["p_clf_weight"]
    assert [reason for _, reason in found] == [reason for _, reason in wanted]
    assert [item for item in found if item[1] != LAST] == [w for w in wanted if w[1] != LAST]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["palette4", "int4-weights"])
def test_functions_survive_and_share_their_weights(two_sizes, functions, precision):
    found = functions(precision)
    path, before = package(found), package(two_sizes)
    constants = values(path)
    assert constants.keys() == values(before).keys() == {"size_128x128", "size_128x256"}
    done = [w.name for w in found.manifest.quantization["stage_c"].weights if not w.reason]
    for name in done:
        both = [next(v for k, v in own.items() if k.startswith(f"{name}_") and "." not in k)
                for own in constants.values()]  # fmt: skip
        assert (both[0] == both[1]).all()
    sizes = [
        (p / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size for p in (path, before)
    ]
    assert sizes[0] < 0.75 * sizes[1]
    described, source = (read_specification(p).description for p in (path, before))
    assert described.functions == source.functions
    assert described.defaultFunctionName == source.defaultFunctionName == "size_128x128"
    graph = found.manifest.graphs["stage_c"]
    for function in source.functions:
        feeds = drawn(function)
        exact = MilEngine(before, graph).run(feeds)["epsilon"]
        assert difference(MilEngine(path, graph).run(feeds)["epsilon"], exact).sqnr_db > 10


def drawn(function):
    """Inputs of a function, by its description."""
    generator = np.random.default_rng(0)
    shapes = {f.name: tuple(f.type.multiArrayType.shape) for f in function.input}
    return {k: generator.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["palette4", "int4-weights"])
def test_two_runs_make_the_same_bytes_and_opening_changes_none(
    two_sizes, functions, tmp_path, precision
):
    first, second = functions(precision), made(two_sizes, tmp_path / "b", precision)
    assert first.manifest.files == second.manifest.files
    import_coremltools().models.MLModel(str(package(first)), skip_model_load=True)
    open_bundle(first.folder, hashes="fresh")
    text = (package(first) / "Data/com.apple.CoreML/model.mlmodel").read_bytes()
    assert str(first.folder.parent).encode() not in text
    assert len(list(package(first).rglob("*.*"))) == 4  # Manifest, program, weights, a folder


@pytest.mark.slow
def test_a_package_says_its_new_precision_and_the_rest_as_before(bundles, tmp_path):
    source = tiny(bundles)
    found = made(source, tmp_path / "b", "palette6")
    before, after = (read_specification(package(b)).description for b in (source, found))
    assert after.metadata.userDefined["precision"] == "palette6"
    assert after.metadata.shortDescription == "Wuerstchen, graph stage_c (palette6)"
    after.metadata.userDefined["precision"] = "fp16"
    after.metadata.shortDescription = before.metadata.shortDescription
    assert after == before


@pytest.mark.slow
def test_exceptions_are_honoured_by_either_name(bundles, tmp_path):
    bundle = tiny(bundles, "iOS18")
    exceptions = {"keep": ("blocks.0.expand.weight",), "skip": ("p_blocks_0_contract_weight",)}
    for recipe in (PALETTE4, INT8_WEIGHTS):
        found = made(bundle, tmp_path / recipe.name, recipe.name, **exceptions)
        by_name = {w.name: w for w in found.manifest.quantization["stage_c"].weights}
        assert by_name["p_blocks_0_expand_weight"].stored == "int8 weights, per channel"
        skipped = by_name["p_blocks_0_contract_weight"]
        assert (skipped.stored, skipped.reason) == ("float16", "the plan skips it")


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("int4-weights", "int4-weights needs iOS 18, and stage_c is for iOS17: take palette4"),
        ("int8", "--precision int8: int8 is not available for coreml bundles (stage_c)"),
        ("fp16", "--precision fp16: fp16 is not available for coreml bundles ("),
    ],
)
def test_what_a_package_cannot_store_is_refused(capsys, bundles, tmp_path, precision, message):
    refused(capsys, [tiny(bundles).folder, tmp_path / "b", "--precision", precision], message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_bad_requests_are_refused(capsys, stage_b, bundles, tmp_path, monkeypatch):
    source, output = tiny(bundles).folder, tmp_path / "b"
    command = [stage_b[1].folder, output, "--precision", "palette6"]
    refused(capsys, command, "--precision palette6: palette6 is not available for onnx bundles")
    plan = tmp_path / "plan.toml"
    words = 'precision = "palette6"\n[stage_c]\nrecipe = "palette6"\nskip = ["blocks.99.weight"]\n'
    plan.write_text(words)
    missing = "plan.toml: [stage_c] names 'blocks.99.weight', which is no weight of stage_c"
    refused(capsys, [source, output, "--plan", plan], missing)
    once = made(tiny(bundles), tmp_path / "once", "palette6").folder
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


@pytest.mark.slow
def test_quantization_needs_no_torch(bundles, tmp_path):
    """Not found, rather than None in sys.modules: scikit-learn looks there for who is loaded."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'diffusers'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from quantization.cli import main\n"
        f"sys.exit(main([{str(tiny(bundles).folder)!r}, {str(tmp_path / 'b')!r},"
        " '--precision', 'palette6']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "stage_c               palette6" in done.stdout
    progress = [line.partition(":")[0] for line in done.stderr.splitlines()]
    assert progress == ["[1/1] stage_c", "hashing"]  # and no library's complaint


def test_palette_presets_give_the_denoisers_their_bits():
    for name, palette in (("palette6", PALETTE6), ("palette4", PALETTE4)):
        own = {graph for graph, recipe in PRESETS[name].items() if recipe == palette}
        assert own == {"stage_c", "stage_b"}
        others = {graph: recipe for graph, recipe in PRESETS[name].items() if graph not in own}
        untouched = {graph for graph, recipe in others.items() if recipe is None}
        assert untouched == {"preview"}
        assert {others[graph] for graph in others.keys() - untouched} == {INT8_WEIGHTS}
