"""What graphs really compute in: fp32 where it is promised, and a label that is true."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from openvino_cases import as_ir

from quantization.plan_file import RECIPES
from quantization.quantize import Request, quantize
from quantization.recipes import PRESETS
from runtimes.bundle.manifest import CONDITION_GRAPHS, PRECISIONS
from runtimes.bundle.read import open_bundle
from runtimes.engines import onnxruntime_device
from runtimes.engines.base import Execution
from runtimes.engines.onnxruntime_device import computed_precision
from runtimes.engines.table import ENGINES, BundleGraphs
from runtimes.errors import RunError
from validation.parity.metrics import difference
from validation.parity.recording import read_golden
from validation.parity.tolerances import LIMITS

WIDENED = ("text_encoder", *CONDITION_GRAPHS)


@pytest.fixture(scope="module")
def narrow(bundles, tmp_path_factory):
    """Integer weights of the demo, whose products are large enough for ONNX Runtime to fuse."""
    folder = tmp_path_factory.mktemp("narrow")
    made = {}
    # The twin of the ONNX bundle instead of a second export of the demo, which takes a minute.
    sources = {"onnx": bundles("demo"), "openvino": as_ir(bundles("demo"), folder / "ir")}
    request = Request("int8-weights", PRESETS["int8-weights"], [], 0, 0)
    for backend, source in sources.items():
        quantize(source, folder / backend, request)
        made[backend] = open_bundle(folder / backend)
    return made


def unfused(path: Path, feeds):
    """Every node as the file has it: weights widened to fp32, then a product in fp32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


@pytest.mark.parametrize("name", WIDENED)
@pytest.mark.parametrize(
    ("backend", "engine"),
    [("onnx", "onnxruntime"), ("onnx", "openvino"), ("openvino", "openvino")],
)
def test_integer_weights_multiply_fp32_activations(narrow, bundles, backend, engine, name):
    """Engines round activations to int8 by default where weights are integers: 5e-3 to 9e-3."""
    golden = read_golden(bundles("demo")).tensors
    graph = narrow["onnx"].graph(name)
    feeds = {tensor.name: golden[f"{name}.{tensor.name}"] for tensor in graph.inputs}
    expected = unfused(narrow["onnx"].path(graph.file), feeds)
    precision = "f32" if engine == "openvino" else None  # bf16 by default outside the conditions
    opened = BundleGraphs(narrow[backend], Execution(engine=engine, precision=precision)).open(name)
    outputs = opened.run(feeds)
    opened.close()
    assert opened.placement.precision == "f32"
    for key, values in expected.items():
        assert difference(outputs[key], values).relative < LIMITS["fp32"].graph_error


def test_onnx_runtime_would_round_them_by_default(narrow, bundles):
    """The premise: without the setting the same graph is off by far more."""
    golden = read_golden(bundles("demo")).tensors
    graph = narrow["onnx"].graph("stage_c_condition")
    path = narrow["onnx"].path(graph.file)
    feeds = {"last_hidden_state": golden["stage_c_condition.last_hidden_state"]}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = np.asarray(session.run(None, feeds)[0])
    assert difference(outputs, unfused(path, feeds)["text_kv"]).relative > 1e-3


def test_the_bundles_readme_tells_hosts(narrow, bundles):
    setting = "session.qdq_matmulnbits_accuracy_level"
    assert setting in (narrow["onnx"].folder / "README.md").read_text(encoding="utf-8")
    assert setting not in (bundles("demo").folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("machine", "flags", "device", "label"),
    [
        ("x86_64", {"avx512_fp16"}, "cpu", "f32"),
        ("AMD64", set(), "cpu", "f32"),
        ("aarch64", {"asimd", "asimdhp"}, "cpu", "f16"),
        ("aarch64", {"asimd"}, "cpu", "f32"),
        ("arm64", set(), "cpu", "f16"),
        ("x86_64", set(), "cuda", "f16"),
    ],
)
def test_fp16_is_reported_as_what_computes(monkeypatch, machine, flags, device, label):
    """ONNX Runtime widens fp16 nodes on x86 CPUs; ARM64 has kernels for them."""
    monkeypatch.setattr(onnxruntime_device.platform, "machine", lambda: machine)
    monkeypatch.setattr(onnxruntime_device, "cpu_flags", lambda: frozenset(flags))
    assert computed_precision("fp16", device) == label


def test_every_precision_is_fp32_or_a_recipe():
    assert {"fp32", *RECIPES} == set(PRECISIONS)


def test_an_unknown_precision_is_an_error():
    """Nobody guesses what a graph of a later version computes in, or takes of memory."""
    with pytest.raises(RunError, match="stored in 'int3-weights', which this version does not"):
        computed_precision("int3-weights", "cpu")
    for engine in ENGINES.values():
        footprint = engine.footprint(Execution())
        assert footprint.of_weights("int8-weights") >= 1
        with pytest.raises(RunError, match="int3-weights"):
            footprint.of_weights("int3-weights")
