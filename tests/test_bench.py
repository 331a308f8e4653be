"""validation bench: every graph, every way to run it, each time with its error."""

import json

from validation.cli import main


def test_every_graph_is_timed_with_its_error(capsys, bundles):
    bundle = bundles("demo")
    assert main(["bench", str(bundle.folder), "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["timings"]
    assert {timing["graph"] for timing in found} == set(bundle.manifest.graphs)
    limits = {"PyTorch fp32": 0, "ONNX Runtime fp32": 1e-5, "OpenVINO f32": 1e-5}
    for timing in found:
        assert 0 < timing["fastest"] <= timing["median"] <= timing["slowest"]
        assert timing["relative_error"] <= limits.get(timing["contender"], 5e-2)
    assert limits.keys() <= {timing["contender"] for timing in found}


def test_the_table_has_a_column_per_contender(capsys, bundles):
    assert main(["bench", str(bundles("demo").folder), "--repeats", "1", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "torch" in lines[0] and "cores" in lines[0]
    assert {line.count("|") for line in lines[1:]} == {lines[1].count("|")}


def test_bad_use(capsys, bundles):
    demo = str(bundles("demo").folder)
    for words, message in (
        ([], "give a bundle to time, or --blocks"),
        ([demo, "--blocks"], "give a bundle to time, or --blocks"),
        ([demo, "--repeats", "0"], "--repeats is 0"),
    ):
        assert main(["bench", *words]) == 2
        assert message in capsys.readouterr().err
