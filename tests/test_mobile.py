"""Bundles for phones: the same pictures from fixed shapes and ORT files, within a memory budget."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import manifests
import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.tools.onnx_model_utils import is_fixed_size_tensor

from exporter.cli import main
from exporter.mobile import make, request
from exporter.mobile.cli import byte_count
from exporter.mobile.memory import choices, fitting
from exporter.mobile.optimised import operators, write_ort
from exporter.mobile.request import Request, check_request, check_sizes
from exporter.options import ExportOptions
from quantization.cli import main as quantization_main
from runtimes import Options, Pipeline
from runtimes.bundle.manifest import Quantization, Weight
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.cli import main as runtimes_main
from runtimes.errors import RunError, UsageError
from runtimes.progress import SILENT
from validation.cli import main as validation_main

ROOT = Path(__file__).parents[1]
PROMPT = "a red circle"
SHORT = Options(steps=3, decoder_steps=2, seed=7)


@pytest.fixture(scope="module")
def phone(bundles, tmp_path_factory) -> Bundle:
    """The tiny bundle as it comes out without an option."""
    output = tmp_path_factory.mktemp("mobile") / "phone"
    assert main(["mobile", str(bundles("one_level").folder), str(output), "--quiet"]) == 0
    return open_bundle(output, hashes="fresh", verify_rest=True)


def picture(bundle: Bundle) -> np.ndarray:
    with Pipeline.open(bundle) as pipeline:
        return pipeline(PROMPT, options=SHORT).pictures[0]


def fbs_of(path: Path):
    """The graph of an ORT file by the reader of ONNX Runtime's own wheel."""
    from onnxruntime.tools.ort_format_model import OrtFormatModelProcessor  # noqa: F401 — its path
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    return InferenceSession.GetRootAsInferenceSession(bytearray(path.read_bytes()), 0).Model()


# What comes out


def test_pictures_are_those_of_the_bundle_it_was_made_of(bundles, phone):
    off = picture(phone).astype(int) - picture(bundles("one_level"))
    assert np.abs(off).max() <= 1


def test_it_passes_its_golden_run_and_replay(phone, capsys):
    assert validation_main([str(phone.folder), "--golden", "--quiet"]) == 0
    assert runtimes_main([str(phone.folder), "--replay", "--quiet"]) == 0
    capsys.readouterr()


def test_files_are_one_a_graph_and_are_those_of_the_manifest(phone):
    for name, graph in phone.manifest.graphs.items():
        assert graph.file == f"{name}/model.ort" and graph.is_ort and graph.data == ()
        assert [key for key in phone.files_of(name) if key.startswith(f"{name}/")] == [graph.file]
        assert graph.opsets["ai.onnx"] == 18 and graph.ir_version == 8
    assert phone.strangers() == []
    assert {"mobile.md", "mobile.json", "required_operators.config"} < phone.manifest.files.keys()


def test_operators_are_counted_as_onnxruntimes_own_reader_does(phone):
    for graph in phone.manifest.graphs.values():
        path = phone.path(graph.file)
        read = fbs_of(path).Graph()
        nodes = [read.Nodes(index) for index in range(read.NodesLength())]
        assert operators(path) == Counter(node.OpType().decode() for node in nodes)


def test_a_reduced_build_is_told_every_operator(phone):
    """The file says to ONNX Runtime's own parser what its own reader finds in the graphs."""
    from onnxruntime.tools.reduced_build_config_parser import parse_config

    listed, types = parse_config(str(phone.path("required_operators.config")), True)
    needed = set()
    for graph in phone.manifest.graphs.values():
        read = fbs_of(phone.path(graph.file)).Graph()
        for node in map(read.Nodes, range(read.NodesLength())):
            domain = node.Domain().decode() or "ai.onnx"
            needed.add((domain, node.SinceVersion(), node.OpType().decode()))
    found = {
        (d, v, op) for d, versions in listed.items() for v, ops in versions.items() for op in ops
    }
    assert found == needed and len(needed) > 20
    assert types.is_typed_registration_needed("ai.onnx", "Softmax", "float")
    assert not types.is_typed_registration_needed("ai.onnx", "Softmax", "double")
    assert str(phone.folder) not in phone.path("required_operators.config").read_text("utf-8")


def test_outputs_are_those_of_onnxruntime_at_the_same_level(bundles, phone):
    """Bit for bit: what was optimised ahead is what a session would have made."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    source = bundles("one_level")
    for name in ("stage_b", "stage_a"):
        chance = np.random.default_rng(0)
        feeds = {
            tensor.name: chance.standard_normal(tensor.shape).astype(np.float32)
            for tensor in phone.graph(name).inputs
        }
        first, second = (
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for path in (source.path(source.graph(name).file), phone.path(f"{name}/model.ort"))
        )
        np.testing.assert_array_equal(first.run(None, feeds)[0], second.run(None, feeds)[0])


@pytest.fixture(scope="module")
def static(bundles, tmp_path_factory) -> Bundle:
    """Two pictures at a time, as ONNX files."""
    output = tmp_path_factory.mktemp("mobile") / "static"
    words = ["--form", "onnx", "--batch-size", "2", "--quiet"]
    assert main(["mobile", str(bundles("one_level").folder), str(output), *words]) == 0
    return open_bundle(output, hashes="fresh", verify_rest=True)


def test_onnx_files_of_fixed_shapes_are_described_as_a_static_export_is(bundles, static):
    options = ExportOptions(static=True, batch_size=2, golden=False)
    exported = bundles("one_level", options).manifest
    manifest = static.manifest
    for name, graph in exported.graphs.items():
        made = dataclasses.replace(manifest.graphs[name], origin=graph.origin)
        assert made == graph
    for field in ("sampling", "sizes", "host", "golden", "text_graphs", "tokenizers", "precision"):
        assert getattr(manifest, field) == getattr(exported, field), field


def test_onnx_files_of_fixed_shapes_pass_the_checker(static):
    for graph in static.manifest.graphs.values():
        path = static.path(graph.file)
        onnx.checker.check_model(str(path), full_check=True)
        inside = onnx.load(path, load_external_data=False).graph
        assert all(map(is_fixed_size_tensor, (*inside.input, *inside.output)))


def test_another_size_becomes_the_default_and_has_no_golden_run(bundles, tmp_path, capsys):
    words = ["--size", "96x144", "--form", "onnx"]
    assert main(["mobile", str(bundles("one_level").folder), str(tmp_path / "b"), *words]) == 0
    assert "without the golden run" in capsys.readouterr().err
    made = open_bundle(tmp_path / "b")
    assert made.manifest.golden is None and "golden/tokens.json" in made.manifest.files
    assert picture(made).shape[:2] == made.manifest.sizes[0] == made.manifest.host.sizes[0].picture


def test_what_accelerators_take_is_said_before_and_after(phone):
    report = json.loads(phone.path("mobile.json").read_text("utf-8"))
    assert report["graphs"].keys() == phone.manifest.graphs.keys()
    page = phone.path("mobile.md").read_text("utf-8")
    for name, graph in report["graphs"].items():
        before, after = graph["open_shapes"], graph["fixed_shapes"]
        assert list(after) == ["NNAPI", "Core ML NeuralNetwork", "Core ML MLProgram"]
        for accelerator, found in after.items():
            assert found["open_shapes"] == 0 and found["supported"] <= found["nodes"]
            assert before[accelerator]["open_shapes"] > 0
            line = next(row for row in page.splitlines() if f"| {name} | {accelerator} |" in row)
            assert f"{found['supported']} of {found['nodes']} in {found['partitions']}" in line
    assert report["graphs"]["stage_b"]["fixed_shapes"]["Core ML MLProgram"]["verdict"] == "YES"


def test_it_takes_no_pytorch(bundles, tmp_path):
    code = (
        "import sys; sys.modules.update(torch=None, onnxscript=None, safetensors=None)\n"
        "from exporter.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["mobile", bundles("one_level").folder, tmp_path / "b", "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], check=False, cwd=ROOT)
    assert done.returncode == 0 and open_bundle(tmp_path / "b").manifest.mobile is not None


# Memory


def test_choices_go_from_harmless_to_harmful_and_cost_less(bundles):
    found = choices(bundles("demo"), ".ort", 1)
    names = [(choice.precision, choice.keep) for choice in found]
    assert names == [
        (precision, keep)
        for precision in ("", "int8-weights", "int4-weights")
        for keep in ("all", "one")
    ]
    for kept, alone in zip(found[::2], found[1::2], strict=True):
        assert alone.memory < kept.memory
    assert found[0].memory > found[2].memory > found[4].memory
    for index in range(len(found)):
        budget = found[index].memory
        chosen = fitting(found, budget, bundles("demo"))[0]
        assert chosen == next(choice for choice in found if choice.memory <= budget)


def test_a_budget_that_nothing_fits_into_is_refused_with_the_least(bundles, tmp_path, capsys):
    source = bundles("one_level")
    words = ["mobile", str(source.folder), str(tmp_path / "b"), "--memory-budget", "1kB"]
    assert main(words) == 2
    least = min(choices(source, ".ort", 1), key=lambda choice: choice.memory)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"the least is {least.memory / 1e6:.1f} MB" in err
    assert list(tmp_path.iterdir()) == []


def test_one_graph_at_a_time_comes_before_smaller_weights(bundles, tmp_path, capsys):
    source = bundles("one_level")
    alone = choices(source, ".ort", 1)[1]
    budget = f"{alone.memory}B"
    words = ["mobile", str(source.folder), str(tmp_path / "b"), "--memory-budget", budget]
    assert main([*words, "--quiet"]) == 0
    mobile = open_bundle(tmp_path / "b").manifest.mobile
    assert (mobile.keep, mobile.budget, mobile.level) == ("one", alone.memory, "extended")
    assert 0 < mobile.memory <= alone.memory
    capsys.readouterr()
    words = [str(tmp_path / "b"), PROMPT, "-o", str(tmp_path / "p.png")]
    words += ["--steps", "2", "--decoder-steps", "2"]
    assert runtimes_main(words) == 0
    assert "one graph in memory at a time, as the bundle's mobile.keep says" in (
        capsys.readouterr().out
    )


def test_runs_keep_as_many_graphs_as_the_manifest_says(phone, capsys, tmp_path):
    mobile = dataclasses.replace(phone.manifest.mobile, keep="one")
    one = dataclasses.replace(phone, manifest=dataclasses.replace(phone.manifest, mobile=mobile))
    for bundle, asked, held in (
        (phone, None, 1),
        (one, None, 0),
        (one, False, 1),
        (phone, True, 0),
    ):
        with Pipeline.open(bundle, low_memory=asked) as pipeline:
            pipeline(PROMPT, options=SHORT)
            assert len(pipeline._sessions._open) == held * len(bundle.manifest.graphs)
    words = [str(phone.folder), PROMPT, "-o", str(tmp_path / "p.png"), "--json"]
    for more, held in ([], False), (["--low-memory"], True):
        assert runtimes_main([*words, "--steps", "2", "--decoder-steps", "2", *more]) == 0
        assert json.loads(capsys.readouterr().out)["low_memory"] == held


def test_estimates_are_what_comes_out(phone, bundles):
    """A little above: files are as large as that or smaller."""
    sizes = choices(bundles("one_level"), ".ort", 1)[0].sizes
    for name, graph in phone.manifest.graphs.items():
        assert phone.manifest.files[graph.file].size <= sizes[name]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8-weights", "int4-weights"])
def test_weights_are_as_large_as_estimated(bundles, tmp_path, precision):
    """Against what the quantiser writes: from 2 % below to 15 % above."""
    source = bundles("demo")
    words = ["--precision", precision, "--target-db", "0", "--quiet"]
    assert quantization_main([str(source.folder), str(tmp_path / "b"), *words]) == 0
    made = choices(open_bundle(tmp_path / "b"), ".onnx", 1)[0].sizes
    sizes = next(c for c in choices(source, ".onnx", 1) if c.precision == precision).sizes
    assert all(0.98 * made[name] <= size <= 1.15 * made[name] for name, size in sizes.items())


@pytest.mark.slow
def test_the_demo_is_quantised_where_the_budget_asks_for_it(bundles, tmp_path, capsys):
    """By the command of its own, and judged by it: the picture passes the golden run's limits."""
    budget = next(c for c in choices(bundles("demo"), ".ort", 1) if c.precision).memory
    words = [str(bundles("demo").folder), str(tmp_path / "b"), "--memory-budget"]
    assert main(["mobile", *words, f"{choices(bundles('demo'), '.ort', 1)[3].memory}B"]) == 0
    made = open_bundle(tmp_path / "b").manifest
    assert (made.precision, made.mobile.keep) == ("int8-weights", "one")
    assert made.mobile.memory < budget
    assert validation_main([str(tmp_path / "b"), "--golden", "--quiet"]) == 0
    capsys.readouterr()


@pytest.mark.slow
def test_the_demo_in_int8_keeps_its_kernels(bundles, tmp_path, capsys):
    """And its picture; left to itself, ONNX Runtime would compute it in fp32."""
    words = ["--precision", "int8", "--target-db", "0", "--samples", "29", "--quiet"]
    folder = bundles("demo").folder
    assert quantization_main([str(folder), str(tmp_path / "int8"), *words]) == 0
    assert main(["mobile", str(tmp_path / "int8"), str(tmp_path / "b"), "--quiet"]) == 0
    made = open_bundle(tmp_path / "b")
    for name, done in made.manifest.quantization.items():
        found = operators(made.path(made.graph(name).file))
        assert all(found[kernel] == count for kernel, count in done.kernels.items())
    off = picture(made).astype(int) - picture(open_bundle(tmp_path / "int8"))
    assert np.abs(off).max() <= 1
    capsys.readouterr()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GB", 4 * 10**9), ("4 GB", 4 * 10**9), ("4GiB", 4 << 30), ("3.5gib", 7 << 29),
        ("900MB", 900 * 10**6), ("512mib", 512 << 20), ("1000KB", 10**6), ("77B", 77),
    ],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text, count):
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["4", "GB", "4 G", "-4GB", "0GB", "4GB5", "9" * 60, "1e9B", "٤GB"])
def test_what_is_no_size_is_refused(text, capsys):
    assert main(["mobile", "a", "b", f"--memory-budget={text}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--memory-budget" in err


# What is refused


def fixed(bundle: Bundle, **changes) -> Bundle:
    """A bundle that says something else of itself."""
    return Bundle(bundle.folder, dataclasses.replace(bundle.manifest, **changes))


def precision(bundle: Bundle, name: str) -> Bundle:
    graphs = bundle.manifest.graphs
    return fixed(
        bundle, graphs={k: dataclasses.replace(g, precision=name) for k, g in graphs.items()}
    )


@pytest.mark.parametrize(
    ("change", "request_", "words"),
    [
        (lambda b: fixed(b, backend="openvino"), Request(), "a bundle of OpenVINO"),
        (lambda b: fixed(b, backend="coreml"), Request(), "run on Apple's phones as they are"),
        (lambda b: precision(b, "fp16"), Request(), "give --form onnx"),
        (lambda b: precision(b, "fp16-weights"), Request(), "give --form onnx"),
        (lambda b: precision(b, "int8"), Request(form="onnx"), "--form onnx: with fixed shapes"),
        (lambda b: precision(b, "int8"), Request(level="basic"), "--level basic: with fixed"),
        (lambda b: b, Request(form="onnx", level="basic"), "--level is for --form ort"),
        (lambda b: b, Request(batch_size=0), "--batch-size is 0"),
        (lambda b: b, Request(height=-1), "--height is -1"),
        (lambda b: b, Request(height=0), "--height is 0"),
        (lambda b: fixed(b, sizes=((64, 64),)), Request(), "makes pictures of 64 x 64 pixels"),
    ],
)
def test_what_cannot_be_made_is_refused(bundles, change, request_, words):
    with pytest.raises(UsageError, match=words):
        check_request(change(bundles("one_level")), request_)


def test_a_bundle_that_is_ready_is_refused_or_taken_as_it_is(phone, static):
    with pytest.raises(UsageError, match="in ORT format already"):
        check_request(phone, Request())
    assert check_request(static, Request()).batch == 2
    for other in (Request(batch_size=1), Request(height=96)):
        with pytest.raises(UsageError, match=r"2 at a time, and nothing else; for .* open shapes"):
            check_request(static, other)


def test_a_graph_that_is_too_large_for_the_format_is_named(bundles):
    with pytest.raises(UsageError, match=r"stage_b of .* has 3\.40 GB, .*--form onnx"):
        check_sizes(bundles("one_level"), {"stage_a": 1 << 20, "stage_b": 3_400_000_000}, "ort")
    check_sizes(bundles("one_level"), {"stage_b": 3_400_000_000}, "onnx")


def test_a_budget_passes_over_what_is_too_large_for_the_format(bundles, tmp_path, monkeypatch):
    """Weights that are made smaller fit into a file, where the bundle's own do not."""
    source = bundles("one_level")
    found = choices(source, ".ort", 1)
    monkeypatch.setattr(request, "MOST_BYTES", max(found[2].sizes.values()))
    made = []
    monkeypatch.setattr(make, "_settled", lambda *args: made.extend(args[3]) or 1 / 0)
    asked = Request(budget=found[0].memory)
    with pytest.raises(ZeroDivisionError):
        make.make(source.folder, tmp_path / "b", asked, SILENT)
    assert made[0].precision == "int8-weights"
    with pytest.raises(UsageError, match="an ORT file holds 2 GB"):
        make.make(source.folder, tmp_path / "b", Request(), SILENT)
    assert list(tmp_path.iterdir()) == []


def test_products_that_would_not_be_of_integers_are_refused(bundles, tmp_path):
    source = bundles("one_level")
    weight = Weight("w", "int8", "", "MatMulIntegerToFloat")
    done = Quantization("int8", (weight,), 0, 0)
    with pytest.raises(RunError, match=r"1 of 1 products of integers \(MatMulIntegerToFloat\)"):
        write_ort(source.path("stage_a/model.onnx"), tmp_path / "a.ort", "extended", done)


@pytest.mark.parametrize(
    "words",
    [["--form", "tflite"], ["--level", "all"], ["--memory-budget", "4"], ["--height", "x"]],
)
def test_bad_words_are_one_line_and_nothing_is_written(bundles, tmp_path, capsys, words):
    source = str(bundles("one_level").folder)
    assert main(["mobile", source, str(tmp_path / "b"), *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_openvino_does_not_read_them(phone, tmp_path, capsys):
    words = [str(phone.folder), PROMPT, "-o", str(tmp_path / "p.png"), "--engine", "openvino"]
    assert runtimes_main(words) == 2
    assert "--engine openvino reads ONNX files" in capsys.readouterr().err


def test_they_are_not_quantised(phone, tmp_path, capsys):
    words = [str(phone.folder), str(tmp_path / "b"), "--precision", "int8-weights"]
    assert quantization_main(words) == 2
    assert "which nothing here quantises" in capsys.readouterr().err


def test_a_manifest_that_says_nothing_of_phones_has_no_entry(bundles, phone):
    assert "mobile" not in manifests.read(bundles("one_level").folder)
    assert manifests.read(phone.folder)["mobile"]["level"] == "extended"
