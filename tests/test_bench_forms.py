"""`python -m validation bench --forms`: blocks in other forms compute the same."""

import json
from collections import Counter

import onnx
import pytest

import validation.bench.forms
import validation.bench.peak
from runtimes.engines.base import GraphFile
from validation.bench.forms import FORMS, Forms, Place
from validation.cli import main


@pytest.fixture
def small(monkeypatch):
    """A place of a few channels and positions."""
    monkeypatch.setattr(validation.bench.forms, "PLACES", (Place("small", 2, 24, 3, 6),))
    monkeypatch.setattr(validation.bench.peak, "SIZES", (64,))


@pytest.mark.slow
def test_every_form_equals_the_exported_one(small, capsys):
    words = ["--forms", "--repeats", "1", "--without", "compile", "plain", "autocast", "--json"]
    assert main(["bench", *words]) == 0
    timings = json.loads(capsys.readouterr().out)["timings"]
    graphs = ["small, 3 x res", "small, 3 x attention"]
    assert list(dict.fromkeys(timing["graph"] for timing in timings)) == graphs
    timed = Counter(timing["contender"].partition(": ")[0] for timing in timings)
    assert timed.keys() == {"PyTorch eager", *(form.name for form in FORMS)}
    for timing in timings:
        limit = 0.02 if timing["precision"] == "bf16" else 2e-6
        assert timing["relative_error"] < limit, timing


def test_the_forms_are_what_they_are_called(small, tmp_path):
    forms = Forms(tmp_path, lambda line: None)
    cases = forms.cases()

    def file_of(name: str) -> GraphFile:
        file = next(s.file(case) for s in forms.sources() if s.label == f"{name}: ")
        assert file is not None
        return file

    def operators(name: str) -> Counter:
        return Counter(node.op_type for node in onnx.load(file_of(name).path).graph.node)

    def sizes(name: str) -> list[int]:
        """What is fixed of the latents' shape."""
        file = file_of(name)
        declared = [size for size in file.graph.inputs[0].shape if isinstance(size, int)]
        shape = onnx.load(file.path).graph.input[0].type.tensor_type.shape
        assert declared == [axis.dim_value for axis in shape.dim if axis.dim_value]
        return declared

    case = next(cases)
    assert sizes("fixed sizes") == [2, 24, 6, 6] and sizes("1x1 convolutions") == [24]
    assert operators("1x1 convolutions")["Conv"] == 9
    assert operators("channels last")["Conv"] == 3 and operators("channels last")["MatMul"] == 6
    assert operators("ReduceL2 in GRN")["ReduceL2"] == 3
    case = next(cases)
    assert operators("1x1 convolutions")["Conv"] == 12
    assert operators("q, k and v in one")["Conv"] == 6
    assert operators("one Attention operator")["Attention"] == 3
