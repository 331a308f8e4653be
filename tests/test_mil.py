"""Every operation of the MIL interpreter against PyTorch, on programs saved as packages."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtimes.bundle.manifest import Graph, Tensor
from runtimes.engines.coreml import import_coremltools
from runtimes.errors import RunError
from runtimes.tolerances import LIMITS
from validation.mil.engine import MilEngine
from validation.mil.operations import OPERATIONS
from validation.mil.program import read_program
from validation.parity.metrics import difference

pytest.importorskip("coremltools")
ct = import_coremltools()

from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function, Program, types  # noqa: E402
from mil_cases import FLOAT, INTEGER, Case, w  # noqa: E402

TYPES = {"fp32": types.fp32, "fp16": types.fp16, "int32": types.int32}
TORCH = {"fp32": torch.float32, "fp16": torch.float16}
SPEC = "Data/com.apple.CoreML/model.mlmodel"


@pytest.fixture(scope="module", autouse=True)
def no_garbage():
    """coremltools collects garbage after every conversion: half a second of torch's objects."""
    gc.freeze()
    yield
    gc.unfreeze()


def package(folder: Path, build: Callable[..., Any], shapes: Any, dtype: str) -> Path:
    """A program of one function saved as a package, no pass applied."""
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = {
        name: mb.placeholder(shape=shape, dtype=TYPES[dtype])
        for name, shape in zip(names, shapes, strict=True)
    }
    with Function(inputs, opset_version=ct.target.iOS17) as function:
        found = build(*function.inputs.values())
        found = found if isinstance(found, list | tuple) else [found]
        function.set_outputs([mb.identity(x=x, name=f"out{i}") for i, x in enumerate(found)])
    program = Program()
    program.add_function("main", function)
    path = folder / "model.mlpackage"
    ct.convert(
        program,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
        package_dir=str(path),
    )
    return path


def engine(path: Path, outputs: int = 1) -> MilEngine:
    named = tuple(Tensor(f"out{i}", "", ()) for i in range(outputs))
    return MilEngine(path, Graph("", "fp32", (), named))


def drawn(shape: tuple[int, ...], dtype: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == "int32":
        return torch.randint(0, 9, shape, generator=generator, dtype=torch.int32)
    return torch.randn(shape, generator=generator).to(TORCH[dtype])


def check(case: Case, dtype: str, folder: Path) -> None:
    path = package(folder, case.mil, case.shapes, dtype)
    assert case.kind in {o.kind for o in read_program(path)["main"].operations}
    inputs = [drawn(shape, dtype, seed) for seed, shape in enumerate(case.shapes)]
    # torch's answer is taken in fp32 on the same values: an fp16 program rounds, no more.
    expected = case.expected(*(x.float() if x.is_floating_point() else x for x in inputs))
    expected = expected if isinstance(expected, tuple) else (expected,)
    feeds = {f"x{i}": x.numpy() for i, x in enumerate(inputs)}
    found = engine(path, len(expected)).run(feeds)
    for index, values in enumerate(expected):
        result = found[f"out{index}"]
        limit = LIMITS["fp16" if result.dtype == np.float16 or dtype == "fp16" else "fp32"]
        assert result.shape == tuple(values.shape)
        assert difference(result, values.numpy()).relative <= limit.graph_error


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("case", FLOAT, ids=lambda case: f"{case.kind} {case.what}".strip())
def test_operation_equals_torch(case, dtype, tmp_path):
    check(case, dtype, tmp_path)


@pytest.mark.parametrize("case", INTEGER, ids=lambda case: f"{case.kind} {case.what}".strip())
def test_integer_operation_equals_torch(case, tmp_path):
    check(case, "int32", tmp_path)


def test_every_operation_has_a_case():
    assert {case.kind for case in FLOAT + INTEGER} == OPERATIONS.keys()


FLOAT_CASES = {case.kind: case for case in FLOAT}
INTEGER_CASES = {case.kind: case for case in INTEGER}
# What an operation may not be given: the interpreter does not know it and must say so.
UNKNOWN = {
    "gelu": lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
    "conv": lambda x: mb.conv(x=x, weight=w(8, 6, 3, 3).numpy(), pad_type="same"),
    "gather": lambda x: mb.gather(x=x, indices=np.array([1]), axis=1),
    "slice_by_index": lambda x: mb.slice_by_index(
        x=x, begin=[0, 0, 0, 0], end=[2, 6, 5, 4], stride=[1, 2, 1, 1]
    ),
    "concat": lambda x: mb.concat(values=[x, x], axis=1, interleave=True),
    "reshape": lambda x: mb.reshape(x=x, shape=[2, -1]),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_parameter_is_an_error_that_names_the_operation(kind, tmp_path):
    path = package(tmp_path, UNKNOWN[kind], [(2, 6, 5, 4)], "fp32")
    with pytest.raises(RunError, match=f"MIL operation {kind} '"):
        engine(path).run({"x0": np.zeros((2, 6, 5, 4), np.float32)})


def test_unknown_operation_is_an_error_before_anything_runs(tmp_path):
    path = package(tmp_path, lambda x: mb.erf(x=mb.sin(x=x)), [(2, 3)], "fp32")
    with pytest.raises(RunError, match="does not know the MIL operation erf, sin"):
        engine(path)


def test_index_outside_a_table_is_an_error(tmp_path):
    path = package(tmp_path, INTEGER_CASES["gather"].mil, [(2, 5)], "int32")
    with pytest.raises(RunError, match=r"gather .*indices outside 0\.\.8"):
        engine(path).run({"x0": np.full((2, 5), 9, np.int32)})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x0": np.zeros((2, 4), np.float32)}, r"takes \{'x0': \(2, 4\)\}.* main: x0 \(2, 3\)"),
        ({}, "no function of the package takes"),
        ({"x0": np.zeros((2, 3), np.float16)}, "'x0' is float16 .* declares float32"),
    ],
)
def test_wrong_inputs_are_errors(feeds, message, tmp_path):
    path = package(tmp_path, lambda x: mb.sigmoid(x=x), [(2, 3)], "fp32")
    with pytest.raises(RunError, match=message):
        engine(path).run(feeds)


DECLARATIONS = [
    (lambda tensor: setattr(tensor, "dataType", 10), r"float16 \[2, 3\]"),
    (lambda tensor: setattr(tensor.dimensions[0].constant, "size", 5), r"float32 \[5, 3\]"),
]


@pytest.mark.parametrize(("change", "message"), DECLARATIONS, ids=["type", "shape"])
def test_result_other_than_declared_is_an_error(change, message, tmp_path):
    path = package(tmp_path, lambda x: mb.sigmoid(x=x, name="here"), [(2, 3)], "fp32")
    spec = ct.utils.load_spec(str(path))
    function = spec.mlProgram.functions["main"]
    for operation in function.block_specializations[function.opset].operations:
        for output in operation.outputs:
            if output.name == "here":
                change(output.type.tensorType)
    (path / SPEC).write_bytes(spec.SerializeToString())
    with pytest.raises(RunError, match=f"'here' is float32 .* declares {message}"):
        engine(path).run({"x0": np.zeros((2, 3), np.float32)})


def test_damaged_packages_are_errors(tmp_path):
    path = package(tmp_path, FLOAT_CASES["linear"].mil, [(2, 3, 4)], "fp32")
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:64] + bytes(64) + whole[128:])
    with pytest.raises(RunError, match="weight file is damaged at"):
        engine(path)
    weights.write_bytes(whole)
    manifest = path / "Manifest.json"
    manifest.write_text(json.dumps({"itemInfoEntries": {}}))
    with pytest.raises(RunError, match="is no readable Core ML package"):
        engine(path)
