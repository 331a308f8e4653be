"""Forms chosen for an average number of bits: the optimum, its bytes, its damage, refusals."""

import dataclasses
import itertools

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from sklearn.cluster import KMeans

from quantization.allocation import UNITS, Option, allocate
from quantization.average_bits import check_average, check_format
from quantization.bit_forms import BitForm, average_bits, parse_form
from quantization.cli import main
from quantization.integers import blocks_of
from quantization.mixed import choose
from quantization.onnx_weights import choices, quantize_mixed
from quantization.palettes import palettised, table_of
from quantization.plan_file import read_plan, write_plan
from quantization.recipes import INT4_WEIGHTS, MixedBits, in_steps
from quantization.trial import Trial, evaluation_of, sqnr_db
from runtimes import UsageError
from runtimes.progress import SILENT

INPUTS, OUTPUTS = 96, 64
# Of scikit-learn's k-means, by mean square error: its start is drawn, and tried ten times.
OF_SCIKIT = 1.1


@pytest.fixture
def products(tmp_path):
    """A graph of four products of one input, whose sum is epsilon: each matters half as much."""
    rng = np.random.default_rng(0)
    sizes = [4.0**-i for i in range(4)]
    weights = [rng.normal(size=(INPUTS, OUTPUTS)).astype(np.float32) * s for s in sizes]
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"], f"n{i}") for i in range(4)]
    nodes.append(helper.make_node("Sum", [f"y{i}" for i in range(4)], ["epsilon"], "sum"))
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", INPUTS])],
        [helper.make_tensor_value_info("epsilon", TensorProto.FLOAT, ["n", OUTPUTS])],
        [numpy_helper.from_array(w.astype(np.float32), f"w{i}") for i, w in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    save(model, tmp_path / "model.onnx")
    feeds = [{"x": rng.normal(size=(256, INPUTS)).astype(np.float32)} for _ in range(3)]
    path = tmp_path / "model.onnx"
    trial = Trial(path, in_steps(INT4_WEIGHTS), [], evaluation_of(path, feeds))
    yield trial
    trial.close()


def drawn(rng, weights, forms, steps):
    return [
        [Option(str(i), int(rng.integers(1, 40)) * 16, rng.random(steps)) for i in range(forms)]
        for _ in range(weights)
    ]


def every_choice(weights, budget):
    chosen = itertools.product(*weights)
    return [c for c in chosen if sum(option.bytes for option in c) <= budget]


def worst(options):
    return np.sum([option.noise for option in options], axis=0).max()


@pytest.mark.parametrize("seed", range(20))
def test_for_one_step_the_choice_is_the_optimum(seed):
    rng = np.random.default_rng(seed)
    weights, budget = drawn(rng, 5, 4, 1), int(rng.integers(600, 2500))
    assert budget < 16 * UNITS  # counted exactly
    fitting, found = every_choice(weights, budget), allocate(weights, budget)
    if found is None:
        assert fitting == []
        return
    assert sum(option.bytes for option in found) <= budget
    assert worst(found) == pytest.approx(min(map(worst, fitting)), rel=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_for_several_steps_it_is_close_to_the_optimum(seed):
    """It minimises sums over steps; the best worst step need not be among those, but few do."""
    rng = np.random.default_rng(seed)
    weights, budget = drawn(rng, 5, 4, 4), 1500
    fitting, found = every_choice(weights, budget), allocate(weights, budget)
    better = [choice for choice in fitting if worst(choice) < worst(found) - 1e-12]
    assert sum(option.bytes for option in found) <= budget
    assert len(better) <= len(fitting) / 50


def test_sizes_are_rounded_so_that_the_budget_holds():
    rng = np.random.default_rng(0)
    weights = [
        [Option(str(i), int(size), rng.random(1)) for i, size in enumerate(row)]
        for row in rng.integers(1_000_000, 9_000_000, (40, 6))
    ]
    found = allocate(weights, 150_000_001)
    assert 0.99 * 150_000_001 < sum(option.bytes for option in found) <= 150_000_001


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_tables_are_as_exact_as_scikit_learns(bits):
    values = np.random.default_rng(0).standard_t(5, (64, 96)).astype(np.float16)
    table, indices = table_of(values, bits)
    assert table.dtype == np.float16 and len(table) == 1 << bits
    error = np.square(table.astype(float)[indices] - values.ravel()).mean()
    oracle = KMeans(1 << bits, n_init=10, random_state=0).fit(values.reshape(-1, 1).astype(float))
    assert error <= OF_SCIKIT * oracle.inertia_ / values.size
    again = table_of(values.copy(), bits)
    assert (again[0] == table).all() and (again[1] == indices).all()


def test_few_values_are_kept_exactly():
    values = np.array([[0.5, -1.0, 0.5], [2.0, 2.0, -1.0]], np.float16)
    assert (palettised(values, 2, 1, 0) == values).all()
    assert (palettised(values, 1, 2, 0) == values).all()


@pytest.mark.parametrize("text", ["int4/64", "int2/16", "palette4", "palette3/32", "fp16", "fp32"])
def test_forms_are_spelled_as_they_are_read(text):
    assert str(parse_form(text)) == text


@pytest.mark.parametrize(
    "text", ["", "int4", "int3/64", "palette5", "fp8", "fp16/2", "int4/0", "4"]
)
def test_no_other_words_are_forms(text):
    with pytest.raises(ValueError, match=f"^{text}$"):
        parse_form(text)


def test_the_bytes_of_forms_are_those_of_the_file(products, tmp_path):
    sizes = choices(products.graph)
    forms = dict(zip(sizes, ("int2/16", "int4/64", "int8/128", "fp16"), strict=True))
    target = tmp_path / "written" / "model.onnx"
    quantize_mixed(products.graph, target, MixedBits(forms=tuple(forms.items())))
    stored = onnx_ir.load(target).graph.initializers.values()
    total = sum(value.const_value.nbytes for value in stored)
    assert total == sum(sizes[name][form] for name, form in forms.items())
    assert average_bits(sizes, forms) == 8 * total / (4 * INPUTS * OUTPUTS)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_onnx_runtime_reads_the_integers_of_every_width(products, tmp_path, bits):
    block = 32
    target = tmp_path / "written" / "model.onnx"
    forms = {f"w{i}": f"int{bits}/{block}" if i == 0 else "fp32" for i in range(4)}
    quantize_mixed(products.graph, target, MixedBits(forms=tuple(forms.items())))
    graph = onnx_ir.load(target).graph
    level = next(node for node in graph if node.op_type == "MatMulNBits")
    level.attributes["accuracy_level"] = onnx_ir.AttrInt64("accuracy_level", 1)
    onnx_ir.save(onnx_ir.load(target), target)
    weights = onnx_ir.load(products.graph).graph.initializers
    first, *others = [weights[f"w{i}"].const_value.numpy() for i in range(4)]
    integers, scale = blocks_of(first, bits, block)
    wide = (integers * scale[..., None]).reshape(OUTPUTS, -1)[:, :INPUTS].T
    x = np.eye(INPUTS, dtype=np.float32)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    found = session.run(["epsilon"], {"x": x})[0]
    # The identity is rounded to 8 bits exactly: ones and noughts.
    assert np.abs(found - (wide + sum(others))).max() < 1e-4 * np.abs(wide).max()


@pytest.mark.parametrize("palettes", [False, True])
def test_a_mixed_choice_is_better_than_one_form_of_the_same_size(products, palettes):
    if palettes:
        forms = [BitForm("palette", bits) for bits in (1, 2, 3, 4, 6, 8)]
        own = {str(form): form.bytes(INPUTS, OUTPUTS) for form in forms}
        sizes = dict.fromkeys(products.values, own | {"fp16": 2 * INPUTS * OUTPUTS})
    else:
        sizes = choices(products.graph)
    alike = "palette4" if palettes else "int4/32"
    uniform = dict.fromkeys(sizes, alike)
    bits = average_bits(sizes, uniform)
    chosen = choose("stage_c", products, sizes, bits, palettes=palettes, progress=SILENT)
    assert 0.9 * bits < chosen.average_bits <= bits
    again = choose("stage_c", products, sizes, bits, palettes=palettes, progress=SILENT)
    assert again == chosen
    if not palettes:
        recipe = MixedBits(forms=tuple(uniform.items()))
        with products.written(
            lambda target: quantize_mixed(products.prepared, target, recipe)
        ) as graph:
            assert chosen.worst_db > sqnr_db(graph.noise().max()) + 3
    order = [parse_form(dict(chosen.recipe.forms)[f"w{i}"]).bits for i in range(4)]
    assert order == sorted(order, reverse=True) and order[0] > order[-1]


def test_a_plan_is_read_as_it_was_written(tmp_path):
    recipe = MixedBits(forms=(("a.weight", "int4/64"), ("b.weight", "fp16")))
    write_plan(tmp_path / "plan.toml", recipe.name, {"stage_b": recipe})
    assert read_plan(tmp_path / "plan.toml") == (recipe.name, {"stage_b": recipe})


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        ("forms = 4", "'forms' must be a table of weight names and forms"),
        ('forms = {"w" = 4}', "'w' is 4; a form is one such as"),
        ('forms = {"w" = "int5/64"}', "'w' is 'int5/64'; a form is one such as"),
    ],
)
def test_plans_with_other_forms_are_refused(tmp_path, forms, message):
    plan = tmp_path / "plan.toml"
    plan.write_text(f'precision = "mixed-bits"\n[stage_c]\nrecipe = "mixed-bits"\n{forms}\n')
    with pytest.raises(UsageError, match=message):
        read_plan(plan)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--average-bits", "1.5"], "--average-bits 1.5: stage_c takes "),
        (["--average-bits", "17"], "--average-bits 17: give more than 0 and up to 16"),
        (["--average-bits", "-1"], "--average-bits -1: give more than 0"),
        (["--average-bits", "nan"], "--average-bits"),
        (["--average-bits", "4", "--precision", "int8"], "--precision and --average-bits each say"),
        (["--average-bits", "4", "--target-db", "20"], "--target-db picks exceptions"),
        (["--precision", "int8", "--twin", "x"], "--twin is what --average-bits measures on"),
        ([], "give --precision, --average-bits or --plan"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(capsys, bundles, tmp_path, words, message):
    output = tmp_path / "b"
    assert main([str(bundles("public").folder), str(output), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not output.exists()


def test_a_plan_for_another_format_or_model_is_refused(capsys, bundles, tmp_path):
    plan, weight = tmp_path / "plan.toml", "blocks.0.expand.weight"
    for name, form, message in (
        (
            weight,
            "palette4",
            f"[stage_c.forms] has palette4 for '{weight}', which stage_c here can",
        ),
        ("blocks.99.weight", "fp16", "names 'blocks.99.weight', which is no weight of stage_c"),
    ):
        recipe = MixedBits(forms=((name, form),))
        write_plan(plan, recipe.name, {"stage_c": recipe})
        words = [str(bundles("public").folder), str(tmp_path / "b"), "--plan", str(plan)]
        assert main(words) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_only_formats_with_forms_and_twins_of_the_model_are_taken(bundles, tmp_path):
    bundle = bundles("public")

    def of(**values):
        return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, **values))

    other = dataclasses.replace(bundle.manifest.model, id="another")
    for found, twin, message in (
        (of(backend="openvino"), None, "openvino bundles have no forms to choose from"),
        (of(backend="coreml"), None, "give it as --twin"),
        (of(backend="coreml"), of(precision="fp16"), "is an onnx fp16 bundle; give the fp32 onnx"),
        (of(backend="coreml"), of(model=other), "is of another, "),
        (bundle, bundle, "--twin is for Core ML bundles"),
    ):
        with pytest.raises(UsageError, match=message):
            check_format(found, 4)
            check_average(found, 4, twin)
