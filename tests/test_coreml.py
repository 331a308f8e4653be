"""Core ML packages, their programs run by the interpreter: parity, precision, what is in them."""

import gc
import json
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from exporter.dimensions import make_static
from exporter.formats.coreml import TARGETS, check_target, write_coreml
from exporter.graphs import GraphPlan, plan_graphs
from exporter.modules.islands import ISLANDS, Island, keep_islands
from runtimes.bundle.manifest import CONDITION_GRAPHS, GRAPHS, Graph
from runtimes.engines.coreml import import_coremltools, read_specification
from runtimes.errors import RunError, UsageError
from runtimes.tolerances import LIMITS
from validation.mil.engine import MilEngine
from validation.mil.islands import HEAVY, WIDE, islands, precision_faults
from validation.mil.operations import OPERATIONS
from validation.parity.metrics import difference

pytest.importorskip("coremltools")
import_coremltools()

from coremltools.proto import FeatureTypes_pb2  # noqa: E402

# Not square, so that swapped sides show; Stage B's as a multiple of the smallest it takes.
SIZES = {"batch": 2, "embedding_height": 3, "embedding_width": 2}
SIDES = (2, 3)
# Which graphs of which configuration, with text or text-free, in which precision.
SETS = {
    ("public", True, "fp32"): GRAPHS,
    ("public", True, "fp16"): GRAPHS,
    ("odd_c_r", True, "fp16"): ("decoder_text_encoder", "stage_c"),
    ("odd_c_r", False, "fp16"): ("stage_b_condition", "stage_b"),
    ("no_effnet", True, "fp32"): ("stage_b_condition", "stage_c", "stage_b", "stage_a"),
    ("one_level", True, "fp16"): ("stage_c", "stage_b", "stage_a"),
}
CASES = [(*key, graph) for key, graphs in SETS.items() for graph in graphs]
# Converted in the short run: each kind of graph in fp16, with its islands; Stage B's four levels
# take as long as all of these.
FAST = [("public", True, "fp16", name) for name in ("stage_c", "text_encoder")]
FAST += [("one_level", True, "fp16", name) for name in ("stage_b", "stage_a")]


@dataclass(frozen=True)
class Written:
    """A saved package, the graph's static plan, and the fp32 module it must equal."""

    path: Path
    plan: GraphPlan
    module: nn.Module
    precision: str

    def engine(self) -> MilEngine:
        return MilEngine(self.path, Graph("", self.precision, self.plan.inputs, self.plan.outputs))


@pytest.fixture(scope="module", autouse=True)
def no_garbage() -> Iterator[None]:
    """coremltools collects garbage after every conversion: half a second of torch's objects."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def written(checkpoint, tmp_path_factory) -> Callable[..., Written]:
    """The package of one graph, converted on first use."""
    made: dict[tuple[str, bool, str, str], Written] = {}
    root = tmp_path_factory.mktemp("coreml")

    def get(name: str, text: bool, precision: str, graph: str) -> Written:
        key = (name, text, precision, graph)
        if key not in made:
            made[key] = convert(
                find(checkpoint, name, text, graph), precision, root / str(len(made))
            )
        return made[key]

    return get


def find(checkpoint, name: str, text: bool, graph: str) -> GraphPlan:
    plans = plan_graphs(checkpoint(name), "nchw", text=text)
    return next(plan for plan in plans if plan.name == graph)


def sizes(plan: GraphPlan, sides: tuple[int, int] = SIDES) -> dict[str, int]:
    height, width = (side * plan.multiple for side in sides)
    return SIZES | {"height": height, "width": width}


def convert(
    plan: GraphPlan, precision: str, folder: Path, islands: Collection[Island] = ISLANDS
) -> Written:
    plan = make_static(plan, sizes(plan))
    precision = "fp32" if plan.name in CONDITION_GRAPHS else precision
    with plan.module() as module:
        reference = module
    converted = typed(plan, precision)
    if precision == "fp16":
        keep_islands(converted, islands)
    path = write_coreml(plan, converted, folder, license="mit", metadata={"a": "b"})
    return Written(path, plan, reference, precision)


def typed(plan: GraphPlan, precision: str) -> nn.Module:
    with plan.module() as module:
        return module.half() if precision == "fp16" else module


def drawn(plan: GraphPlan) -> dict[str, Tensor]:
    """Inputs of a static graph; one prompt is shorter than the other."""
    generator = torch.Generator().manual_seed(1)
    feeds = {}
    for tensor in plan.inputs:
        if tensor.name == "attention_mask":
            value = torch.ones(tensor.shape, dtype=torch.int64)
            value[1, 5:] = 0
        elif tensor.dtype == "int64":
            value = torch.randint(0, 500, tensor.shape, generator=generator)
        else:
            value = torch.randn(tensor.shape, generator=generator)
        feeds[tensor.name] = value
    return feeds


def check(made: Written) -> None:
    """The interpreted program against the fp32 module, within the precision's limits."""
    feeds = drawn(made.plan)
    expected = made.module(*feeds.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = made.engine().run({name: value.numpy() for name, value in feeds.items()})
    assert list(found) == [tensor.name for tensor in made.plan.outputs]
    for values, name in zip(expected, found, strict=True):
        error = difference(found[name], values.numpy()).relative
        assert error <= LIMITS[made.precision].graph_error, name


@pytest.mark.parametrize(
    ("name", "text", "precision", "graph"),
    [pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow) for case in CASES],
)
def test_program_equals_its_module(written, name, text, precision, graph):
    made = written(name, text, precision, graph)
    check(made)
    assert precision_faults(made.path, graph, made.precision) == []


@pytest.mark.slow
def test_graphs_use_exactly_the_operations_of_the_interpreter(written):
    kinds = {typed.kind for case in CASES for typed in islands(written(*case).path)}
    # Of epsilon's division, in bundles of format version 1; of the text's mask, in those of 2.
    older = {"abs", "not_equal"}
    fewer_islands = {"reduce_max", "rsqrt"}
    assert kinds | older | fewer_islands == OPERATIONS.keys()
    assert not kinds & older and not kinds & fewer_islands


@pytest.mark.parametrize(
    ("name", "up"), [pytest.param("public", 3, marks=pytest.mark.slow), ("one_level", 0)]
)
def test_fp16_programs_have_fp32_islands(written, name, up):
    """The listing itself: reductions, the residual stream and the last projection are fp32."""
    listing = islands(written(name, True, "fp16", "stage_b").path)
    outputs = {
        kind: [t.output for t in listing if t.kind == kind] for kind in (*WIDE, *HEAVY, "add")
    }
    for kind in (*WIDE, "add"):
        assert set(outputs[kind]) == {"fp32"}, kind
    for kind in ("conv", "linear", "matmul"):
        assert set(outputs[kind]) == {"fp16"}, kind
    assert outputs["conv_transpose"] == ["fp16"] * up + ["fp32"]


@pytest.mark.slow
def test_precision_faults_are_found(written):
    """The fp32 program is no fp16 one, and the other way round."""
    narrow = written("public", True, "fp16", "stage_c").path
    wide = written("public", True, "fp32", "stage_c").path
    assert any("conv" in fault for fault in precision_faults(wide, "stage_c", "fp16"))
    assert any("cast" in fault for fault in precision_faults(narrow, "stage_c", "fp32"))
    faults = precision_faults(written("one_level", True, "fp16", "stage_a").path, "stage_b", "fp16")
    assert [fault for fault in faults if "last operation" in fault]


def test_sums_beyond_fp16_stay_finite_and_exact(checkpoint, tmp_path):
    """GlobalResponseNorm's sum of squares passes 65504 here; its result does not."""
    plan = find(checkpoint, "one_level", True, "stage_c")
    build = plan.build

    def louder(weights):
        module = build(weights)
        for block in module.blocks[::3]:
            block.expand.weight.mul_(300)
        return module

    check(convert(replace(plan, build=louder), "fp16", tmp_path / "out"))


def test_metadata_is_all_a_host_needs(written):
    made = written("public", True, "fp16", "stage_c")
    spec = read_specification(made.path)
    found = spec.description.metadata
    assert (found.license, found.author) == ("mit", "wuerstchen-export")
    assert "stage_c" in found.shortDescription
    own = dict(found.userDefined)
    assert (own["graph"], own["precision"], own["a"]) == ("stage_c", "fp16", "b")
    inputs = json.loads(own["functions"])["main"]["inputs"]
    assert [tensor["name"] for tensor in inputs] == ["latents", "timestep_embedding", "text_kv"]
    assert inputs[0] == {"name": "latents", "dtype": "float32", "shape": [2, 16, 2, 3]}


def test_token_ids_are_int32(written):
    spec = read_specification(written("public", True, "fp16", "text_encoder").path)
    ids = json.loads(spec.description.metadata.userDefined["functions"])["main"]["inputs"][0]
    assert ids == {"name": "input_ids", "dtype": "int32", "shape": [2, 77]}
    types = {feature.name: feature.type.multiArrayType.dataType for feature in described(spec)}
    kinds = FeatureTypes_pb2.ArrayFeatureType
    assert types == {
        "input_ids": kinds.INT32, "attention_mask": kinds.INT32, "last_hidden_state": kinds.FLOAT32
    }  # fmt: skip


def described(spec):
    return (*spec.description.input, *spec.description.output)


@pytest.mark.slow
def test_same_module_gives_the_same_bytes(written, checkpoint, tmp_path):
    for graph in ("stage_c", "text_encoder"):
        first = written("public", True, "fp16", graph).path
        plan = find(checkpoint, "public", True, graph)
        second = convert(plan, "fp16", tmp_path / graph).path
        assert contents(first) == contents(second)
        assert len(contents(first)) == 3  # the program, its weights, the package's manifest


def contents(package: Path) -> dict[str, bytes]:
    files = [path for path in package.rglob("*") if path.is_file()]
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in files}


def test_same_inputs_give_the_same_values(written):
    engine = written("public", True, "fp16", "stage_c").engine()
    feeds = {
        k: v.numpy() for k, v in drawn(written("public", True, "fp16", "stage_c").plan).items()
    }
    constants = {"text_kv": feeds.pop("text_kv")}
    first, second = engine.bind(constants)(feeds), engine.run({**feeds, **constants})
    assert (first["epsilon"] == second["epsilon"]).all()


def test_opening_a_package_with_coremltools_changes_nothing(written):
    """It writes the manifest anew each time, and a bundle vouches for that file's hash."""
    path = written("public", True, "fp16", "stage_c").path
    before = contents(path)
    ct = import_coremltools()
    ct.utils.load_spec(str(path))
    ct.models.MLModel(str(path), skip_model_load=True)
    assert contents(path) == before


@pytest.mark.parametrize(
    "graph",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("stage_b_condition", "stage_b")),
        "stage_a",
    ],
)
def test_several_sizes_are_functions_that_share_their_weights(checkpoint, tmp_path, graph):
    plan = find(checkpoint, "one_level", True, graph)
    named = {"small": sizes(plan), "large": sizes(plan, (4, 2))}
    path, module = in_sizes(plan, tmp_path, named)
    for size in named.values():
        check(Written(path, make_static(plan, size), module, "fp32"))
    assert {typed.function for typed in islands(path)} == {"large", "small"}
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert weights.stat().st_size < 1.5 * 4 * parameters
    other = Written(path, make_static(plan, sizes(plan, (5, 5))), module, "fp32")
    with pytest.raises(RunError, match=r"no function of the package takes .*large: .*small: "):
        check(other)


@pytest.mark.slow
def test_graphs_that_are_the_same_at_all_sizes_have_one_function(checkpoint, tmp_path):
    plan = find(checkpoint, "one_level", True, "text_encoder")
    named = {"small": sizes(plan), "large": sizes(plan, (4, 2))}
    path, module = in_sizes(plan, tmp_path, named)
    check(Written(path, make_static(plan, named["small"]), module, "fp32"))
    assert {typed.function for typed in islands(path)} == {"main"}


def in_sizes(plan, folder, named):
    with plan.module() as module:
        path = write_coreml(
            plan, module, folder / "out", license="", metadata={}, target="iOS18", sizes=named
        )
    return path, module


@pytest.mark.parametrize(
    "target",
    ["iOS18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("iOS17", "iOS26"))],
)
def test_programs_of_every_target_hold(checkpoint, tmp_path, target):
    plan = find(checkpoint, "one_level", True, "stage_a")
    plan = make_static(plan, sizes(plan))
    with plan.module() as module:
        path = write_coreml(plan, module, tmp_path / target, license="", metadata={}, target=target)
    check(Written(path, plan, module, "fp32"))


def test_wrong_deployment_targets_are_usage_errors(monkeypatch):
    for target in TARGETS:
        check_target(target)
    with pytest.raises(UsageError, match="--deployment-target iOS12: there are iOS17, iOS18, "):
        check_target("iOS12")
    with pytest.raises(UsageError, match="iOS17 takes one picture size; several need one of iOS18"):
        check_target("iOS17", sizes=2)
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(UsageError, match=r"pip install 'wuerstchen-export\[coreml\]'"):
        check_target("iOS17")
