"""examples/measurements/block_forms.py: blocks in other forms compute the same."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest

import validation.bench.peak
from runtimes.engines.base import GraphFile

SCRIPT = Path(__file__).parents[1] / "examples/measurements/block_forms.py"
spec = importlib.util.spec_from_file_location("block_forms", SCRIPT)
assert spec is not None and spec.loader is not None
block_forms = importlib.util.module_from_spec(spec)
sys.modules["block_forms"] = block_forms  # its dataclasses look their module up there
spec.loader.exec_module(block_forms)


@pytest.fixture
def small(monkeypatch):
    """A place of a few channels and positions."""
    place = block_forms.Place("small", 2, 24, 3, 6)
    monkeypatch.setattr(block_forms, "PLACES", (place,))
    monkeypatch.setattr(validation.bench.peak, "SIZES", (64,))


@pytest.mark.slow
def test_every_form_equals_the_exported_one(small, capsys):
    words = ["--repeats", "1", "--without", "compile", "plain", "autocast", "--json"]
    assert block_forms.main(words) == 0
    timings = json.loads(capsys.readouterr().out)["timings"]
    graphs = ["small, 3 x res", "small, 3 x attention"]
    assert list(dict.fromkeys(timing["graph"] for timing in timings)) == graphs
    timed = Counter(timing["contender"].partition(": ")[0] for timing in timings)
    assert timed.keys() == {"PyTorch eager", *(form.name for form in block_forms.FORMS)}
    for timing in timings:
        limit = {"bf16": 0.02, "f16": 0.002}.get(timing["precision"], 2e-6)
        assert timing["relative_error"] < limit, timing


@pytest.mark.slow
def test_the_forms_are_what_they_are_called(small, tmp_path, monkeypatch):
    """Of one block each, and without the forms of attention that the residual blocks show."""
    plain = ("fixed sizes", "channels last")
    kept = [form for form in block_forms.FORMS if form.kind == "res" or form.name not in plain]
    monkeypatch.setattr(block_forms, "FORMS", kept)
    monkeypatch.setattr(block_forms, "DEPTH", 1)
    forms = block_forms.Forms(tmp_path, lambda line: None)
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
    assert operators("1x1 convolutions")["Conv"] == 3
    assert operators("channels last")["Conv"] == 1 and operators("channels last")["MatMul"] == 2
    assert operators("ReduceL2 in GRN")["ReduceL2"] == 1
    case = next(cases)
    assert operators("1x1 convolutions")["Conv"] == 4
    assert operators("q, k and v in one")["Conv"] == 2
    assert operators("one Attention operator")["Attention"] == 1
