"""What graphs really compute in: fp32 where it is promised, and a label that is true."""

import onnx_ir
import pytest
from openvino_cases import as_ir
from quantized_graphs import attributes, feeds_for, grouped_in_fp32, in_fp32, run, session

from quantization.plan_file import RECIPES
from quantization.quantize import Request, quantize
from quantization.recipes import INT8_WEIGHTS, PRESETS, UNTOUCHED
from runtimes.bundle.manifest import CONDITION_GRAPHS, DENOISERS, PRECISIONS
from runtimes.bundle.read import open_bundle
from runtimes.engines import onnxruntime_device
from runtimes.engines.base import Execution
from runtimes.engines.onnxruntime_device import computed_precision
from runtimes.engines.table import ENGINES, BundleGraphs
from runtimes.errors import RunError
from runtimes.recording import read_golden
from runtimes.tolerances import LIMITS
from validation.parity.metrics import difference

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
    source = bundles("demo").path(f"{name}/model.onnx")
    expected = run(
        in_fp32(narrow["onnx"].path(graph.file))
        if backend == "onnx"
        else grouped_in_fp32(source, INT8_WEIGHTS),
        feeds,
    )
    precision = "f32" if engine == "openvino" else None  # bf16 by default outside the conditions
    opened = BundleGraphs(narrow[backend], Execution(engine=engine, precision=precision)).open(name)
    outputs = opened.run(feeds)
    opened.close()
    assert opened.placement.precision == "f32"
    for key, values in expected.items():
        assert difference(outputs[key], values).relative < LIMITS["fp32"].graph_error


def test_every_product_says_how_exact_it_is(narrow):
    """In the node, so that no host has to know: what runs once in fp32, what runs often in int8."""
    for name in narrow["onnx"].manifest.graphs.keys() - UNTOUCHED.keys():
        model = onnx_ir.load(narrow["onnx"].path(narrow["onnx"].graph(name).file))
        levels = {
            attributes(node)["accuracy_level"]
            for node in model.graph
            if node.op_type == "MatMulNBits"
        }
        assert levels == ({4} if name in DENOISERS else {1})


@pytest.mark.parametrize("name", DENOISERS)
def test_the_denoisers_round_activations(narrow, name):
    """The premise of the one above, and the price of its speed."""
    path = narrow["onnx"].path(narrow["onnx"].graph(name).file)
    feeds = feeds_for(path, {"batch": 1, "height": 32, "width": 32})
    outputs = (run(made, feeds)["epsilon"] for made in (session(path), in_fp32(path)))
    assert 1e-3 < difference(*outputs).relative < 3e-2


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


def test_int8_in_front_of_convolutions_is_computed_in_fp32():
    """As int8 bundles of earlier versions have it."""
    rounded = ["QuantizeLinear"] * 4
    assert computed_precision("int8", "cpu", [*rounded, *["Conv"] * 9, "MatMul"]) == "f32"
    assert computed_precision("int8", "cpu", [*rounded, "Conv", *["MatMul"] * 9]) == "int8"


def test_an_unknown_precision_is_an_error():
    """Nobody guesses what a graph of a later version computes in, or takes of memory."""
    with pytest.raises(RunError, match="stored in 'int3-weights', which this version does not"):
        computed_precision("int3-weights", "cpu")
    for engine in ENGINES.values():
        footprint = engine.footprint(Execution())
        assert footprint.of_weights("fp32") > 0
        with pytest.raises(RunError, match="int3-weights"):
            footprint.of_weights("int3-weights")
