"""Which files belong to a graph: in folders of their own, at the top, in packages."""

from dataclasses import replace

import pytest

from runtimes.bundle.graph_files import could_be_read, engine_reads, graph_files
from runtimes.bundle.manifest import File, Graph
from runtimes.bundle.read import Bundle
from runtimes.errors import RunError


@pytest.fixture
def manifest_of(bundles):
    """A manifest with these graphs (name -> file) and files."""
    whole = bundles("one_level").manifest

    def make(graphs: dict[str, str], *files: str):
        made = {name: Graph(file, "fp32", (), ()) for name, file in graphs.items()}
        named = {file: File(1, "") for file in files}
        return replace(whole, graphs=made, files=named)

    return make


@pytest.mark.parametrize(
    ("graphs", "files", "rest"),
    [
        (
            {"stage_a": "stage_a/model.onnx"},
            ["stage_a/model.onnx", "stage_a/model.onnx.data", "stage_a/more/config.json"],
            ["README.md", "stage_a.onnx", "stage_ab/model.onnx", "tokenizer/tokenizer.json"],
        ),
        (
            {"stage_a": "model.onnx"},
            ["model.onnx", "model.onnx.data", "model.onnx_data", "weights.bin"],
            ["README.md", "golden/run.safetensors", "golden/x.bin", "tokenizer/tokenizer.json"],
        ),
        (
            {"stage_b": "stage_b.onnx", "stage_b_condition": "stage_b_condition.onnx"},
            ["stage_b.onnx", "stage_b.onnx.data", "shared.data"],
            ["stage_b_condition.onnx", "stage_b_condition.onnx.data", "README.md"],
        ),
        (
            {"stage_b": "graphs/b.xml", "stage_a": "graphs/a.xml"},
            ["graphs/b.xml", "graphs/b.bin", "graphs/shared.bin"],
            ["graphs/a.xml", "graphs/a.bin", "graphs/notes.txt", "b.bin"],
        ),
        (
            {"stage_a": "stage_a.mlpackage"},
            ["stage_a.mlpackage/Manifest.json", "stage_a.mlpackage/Data/weights/weight.bin"],
            ["stage_b.mlpackage/Manifest.json", "README.md"],
        ),
    ],
)
def test_the_files_of_a_graph(manifest_of, graphs, files, rest):
    manifest = manifest_of(graphs, *files, *rest)
    assert sorted(graph_files(manifest, next(iter(graphs)))) == sorted(files)
    for name in files:
        assert engine_reads(manifest, name) == (name.endswith("config.json") is False)
    planted = replace(manifest, files={})
    assert all(could_be_read(planted, name) for name in files)


def test_a_graph_at_the_top_is_verified(manifest_of, tmp_path):
    """It has no folder whose files could be looked through."""
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "model.onnx.data").write_bytes(b"x")
    bundle = Bundle(tmp_path, manifest_of({"stage_a": "model.onnx"}, "model.onnx"))
    with pytest.raises(RunError, match=r"model\.onnx is not the file the manifest names"):
        bundle.verify("stage_a")
    right = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"
    files = {"model.onnx": File(1, right), "model.onnx.data": File(1, "")}
    bundle = Bundle(tmp_path, replace(bundle.manifest, files=files))
    with pytest.raises(RunError, match=r"model\.onnx\.data is not the file"):
        bundle.verify("stage_a")
    whole = Bundle(tmp_path, replace(bundle.manifest, files=dict.fromkeys(files, File(1, right))))
    whole.verify("stage_a")
    assert whole.digest("stage_a") != bundle.digest("stage_a")
    card = {**whole.manifest.files, "README.md": File(3, "")}
    assert Bundle(tmp_path, replace(whole.manifest, files=card)).digest("stage_a") == whole.digest(
        "stage_a"
    )


LEFT_ALONE = (
    "picture.png", ".git/HEAD", ".DS_Store", "stage_a/.DS_Store", "stage_a/._model.onnx",
    "notes/model.onnx", "other.onnx",
)  # fmt: skip


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_no_engine_takes_for_its_own(manifest_of, name):
    assert not could_be_read(manifest_of({"stage_a": "stage_a/model.onnx"}), name)


@pytest.mark.parametrize("name", ["other.onnx", "model.onnx.data", "x.bin", "x.data"])
def test_data_beside_a_graph_at_the_top_could_be_its(manifest_of, name):
    manifest = manifest_of({"stage_a": "model.onnx"}, "model.onnx")
    assert could_be_read(manifest, name) and not could_be_read(manifest, "picture.png")
