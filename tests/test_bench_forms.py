"""`python -m validation bench --forms`: blocks in other forms compute the same."""

import json
from collections import Counter
from pathlib import Path

import onnx
import pytest

import validation.bench.forms
import validation.bench.peak
from validation.bench.forms import FORMS, Forms, Place
from validation.cli import main


@pytest.fixture
def small(monkeypatch):
    """A place of a few channels and positions."""
    monkeypatch.setattr(validation.bench.forms, "PLACES", (Place("small", 2, 24, 3, 6),))
    monkeypatch.setattr(validation.bench.peak, "SIZES", (64,))


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

    def operators(name: str) -> Counter:
        files = {source.label: source.file(case) for source in forms.sources()}
        file = files[f"{name}: "]
        assert file is not None
        return Counter(node.op_type for node in onnx.load(Path(file.path)).graph.node)

    def sizes(name: str) -> list[int]:
        """What is fixed of the latents' shape."""
        files = {source.label: source.file(case) for source in forms.sources()}
        file = files[f"{name}: "]
        assert file is not None
        declared = [size for size in file.graph.inputs[0].shape if isinstance(size, int)]
        model = onnx.load(Path(file.path))
        written = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        assert declared == [size for size in written if size]
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
