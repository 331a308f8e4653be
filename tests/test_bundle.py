"""Opening a bundle: every kind of damage has its own clear error."""

import math
import os
import shutil
from pathlib import Path

import pytest
from bundle_places import in_hub_cache, littered, with_crlf
from manifests import edit

from runtimes.bundle.graph_files import engine_reads
from runtimes.bundle.manifest import GRAPHS
from runtimes.bundle.manifest_json import to_json
from runtimes.bundle.read import open_bundle, sha256
from runtimes.cli import main
from runtimes.errors import RunError
from runtimes.recording import read_golden


@pytest.fixture
def folder(bundles, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))


def test_the_manifest_names_every_file_and_round_trips(bundles):
    bundle = bundles("one_level")
    on_disk = {
        p.relative_to(bundle.folder).as_posix() for p in bundle.folder.rglob("*") if p.is_file()
    }
    assert on_disk == {*bundle.manifest.files, "bundle.json"}
    assert (bundle.folder / "bundle.json").read_text(encoding="utf-8") == to_json(bundle.manifest)
    assert list(bundle.manifest.graphs) == list(GRAPHS)
    assert bundle.manifest.tools["torch"]


def test_no_manifest(tmp_path):
    with pytest.raises(RunError, match="is no bundle"):
        open_bundle(tmp_path)


def test_missing_file(folder):
    (folder / "stage_a/model.onnx").unlink()
    with pytest.raises(RunError, match=r"stage_a/model\.onnx is missing"):
        open_bundle(folder)


def test_truncated_file(folder):
    path = folder / "stage_a/model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"stage_a/model.onnx has \d+ bytes, the manifest says"):
        open_bundle(folder)


def test_exchanged_file(folder):
    """Files of different exports never mix: same size, other content."""
    path = folder / "stage_a/model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    open_bundle(folder, hashes="none")
    with pytest.raises(RunError, match="SHA-256 differs"):
        open_bundle(folder)


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The names of the files that are hashed from now on."""
    names: list[str] = []

    def counting(path: Path) -> str:
        names.append(path.name)
        return sha256(path)

    monkeypatch.setattr("runtimes.bundle.read.sha256", counting)
    return names


def test_a_file_is_hashed_once_and_again_after_a_change(folder, hashed):
    bundle = open_bundle(folder)
    every = [name for name in bundle.manifest.files if engine_reads(bundle.manifest, name)]
    assert len(hashed) == len(every)
    hashed.clear()
    open_bundle(folder)
    assert hashed == []
    path = folder / "stage_a/model.onnx"
    os.utime(path, ns=(0, 0))
    open_bundle(folder)
    assert hashed == ["model.onnx"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    for _ in range(2):  # a file that failed is not remembered
        with pytest.raises(RunError, match="SHA-256 differs"):
            open_bundle(folder)
    hashed.clear()
    open_bundle(folder, hashes="none")
    assert hashed == []


def test_a_manifest_that_names_another_hash_is_not_what_was_remembered(folder):
    open_bundle(folder)
    edit(folder, lambda m: m["files"]["stage_a/model.onnx"].update(sha256="0" * 64))
    with pytest.raises(RunError, match="SHA-256 differs"):
        open_bundle(folder)


@pytest.mark.parametrize("cache", ["a file", "nonsense", "a list"])
def test_a_cache_that_does_not_work_is_none(folder, tmp_path, monkeypatch, hashed, cache):
    place = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    if cache == "a file":
        place.write_text("")
        open_bundle(folder)
    else:
        open_bundle(folder)
        (file,) = [path for path in place.rglob("*") if path.is_file()]
        file.write_text("{" if cache == "nonsense" else "[]")
    hashed.clear()
    open_bundle(folder)
    assert hashed


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil", "..\\evil"])
def test_paths_out_of_the_bundle(folder, name):
    edit(folder, lambda m: m["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    with pytest.raises(RunError, match="outside the bundle"):
        open_bundle(folder)


@pytest.mark.parametrize(
    "name", ["stage_a/model.onnx.data", "stage_a/new/weights", "tokenizer/vocab2.json"]
)
def test_files_beside_a_graph_that_the_manifest_does_not_name(folder, name):
    """An engine would read a planted model.onnx.data without anybody having checked it."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"planted")
    with pytest.raises(RunError, match=rf"{name} is not in the manifest.*remove it"):
        open_bundle(folder)


def test_what_no_engine_reads_is_left_alone(folder):
    """Pictures, version control, a file manager's notes, an edited or missing text."""
    littered(folder)
    (folder / "README.md").write_text("my own words")
    (folder / "golden/run.safetensors").unlink()
    with_crlf(folder / "tokenizer/merges.txt")
    bundle = open_bundle(folder, hashes="fresh")
    assert bundle.strangers() == [
        ".DS_Store", ".cache/", ".git/", "golden/Thumbs.db", "notes/", "out.png", "picture.png",
        "stage_a/.DS_Store", "stage_a/._model.onnx",
    ]  # fmt: skip
    with pytest.raises(RunError, match=r"golden/run\.safetensors is missing"):
        read_golden(bundle)


@pytest.mark.parametrize(
    ("name", "message"),
    [("README.md", r"README\.md has \d+ bytes"), ("golden/run.safetensors", "SHA-256 differs")],
)
def test_the_rest_is_verified_when_asked_for(folder, name, message):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content + b"more" * (name == "README.md"))
    bundle = open_bundle(folder, hashes="fresh")
    with pytest.raises(RunError, match=message):
        open_bundle(folder, verify_rest=True)
    with pytest.raises(RunError, match=message):
        bundle.verified(name)


def test_changed_line_ends_are_said_to_be_that(folder):
    path = folder / "tokenizer/tokenizer.json"
    with_crlf(path)
    assert b"\r\n" in path.read_bytes()
    with pytest.raises(
        RunError, match=r"tokenizer\.json has .* ends of its lines .*autocrlf false"
    ):
        open_bundle(folder)


def test_the_readmes_own_command_can_be_given_twice(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = [".", "a circle", "--steps", "1", "--decoder-steps", "1"]
    for more in ([], ["-o", "picture.png"], []):
        assert main([*words, *more]) == 0, capsys.readouterr().err
    assert main([*words, "--verify"]) == 0
    assert "note: no part of the bundle: out.png, picture.png" in capsys.readouterr().err


def test_links_out_of_the_bundle(folder, tmp_path):
    target = tmp_path / "elsewhere.onnx"
    (folder / "stage_a/model.onnx").rename(target)
    (folder / "stage_a/model.onnx").symlink_to(target)
    with pytest.raises(RunError, match=r"links to .* outside the bundle"):
        open_bundle(folder)


def test_a_hub_caches_links_stay_valid(folder, tmp_path):
    """snapshots/<commit>/file -> ../../blobs/<hash>, as huggingface_hub lays a cache out."""
    open_bundle(in_hub_cache(folder, tmp_path), hashes="fresh", verify_rest=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("sampling"), "'sampling' is missing"),
        (lambda m: m.update(extra=1), "'extra' is not a known field"),
        (lambda m: m["sampling"].update(height="128"), "expected int, found str"),
        (lambda m: m["graphs"]["stage_a"].pop("file"), "'file' is missing"),
        (lambda m: m.update(text_graphs={}), "'text_graphs' must name"),
        (lambda m: m["text_graphs"].update(stage_b="other"), "'other' has no tokenizer"),
        (lambda m: m["tokenizers"]["text_encoder"].update(folder="/tmp"), r"no tokenizer\.json"),
        (lambda m: m.update(format_version=3), "format version 3, this program reads 1 and 2"),
        (lambda m: m.update(format_version=True), "format version True"),
        (lambda m: m.pop("host"), r"host: it is missing, .* format version 2"),
        (lambda m: m["graphs"]["stage_a"].pop("compute"), r"stage_a\.compute: it is missing"),
        (lambda m: m["graphs"]["stage_a"].update(compute="f8"), r"compute: expected .* found 'f8'"),
        (
            lambda m: m["graphs"]["stage_a"].update(data=[{"file": "a", "location": "a"}]),
            r"stage_a\.data: 'a' is none of the bundle's files",
        ),
        (lambda m: m["tokenizers"]["text_encoder"].pop("rules"), r"rules: it is missing"),
        (lambda m: m["host"]["run"][0].update(graph="gone"), "there is no graph 'gone'"),
        (lambda m: m["host"].update(sizes=[]), "sizes: expected 1 to 1000 values, found 0"),
        (lambda m: m.update(format="other"), "is not a wuerstchen-bundle manifest"),
        (lambda m: m["graphs"]["stage_a"].update(file="gone.onnx"), "no file for graph 'stage_a'"),
        (lambda m: m.update(sizes=[[512]]), r"\.sizes\[0\]: expected 2 values, found 1"),
        (lambda m: m.update(sizes=[[512, 512], []]), r"\.sizes\[1\]: expected 2 values, found 0"),
        (lambda m: m.update(sizes=[[1, 2, 3]]), r"\.sizes\[0\]: expected 2 values, found 3"),
        (lambda m: m.update(sizes=[[0, 512]]), r"\.sizes\[0\]\[0\]: 0 is below 1"),
        (
            lambda m: m["graphs"]["stage_a"].update(activations=[1.0, 2.0]),
            r"graphs\.stage_a\.activations: expected 0 or 3 values, found 2",
        ),
        (
            lambda m: m["graphs"]["stage_a"].update(inputs=[]),
            r"stage_a\.inputs: expected 1 to 1000 values, found 0",
        ),
        (
            lambda m: m["graphs"]["stage_a"]["inputs"][0].update(shape=[]),
            r"inputs\[0\]\.shape: expected 1 to 8 values, found 0",
        ),
        (
            lambda m: m["graphs"]["stage_a"]["inputs"][0].update(shape=[True]),
            r"shape\[0\]: expected int or str, found bool",
        ),
        (lambda m: m["sampling"].update(latent_mean=math.nan), r"not valid JSON.*NaN"),
        (lambda m: m["sampling"].update(latent_mean=10**400), r"latent_mean: .*too large"),
        (
            lambda m: m["sampling"]["stage_c"]["schedule"].pop(),
            r"stage_c\.schedule: expected \d+ rows, one a step",
        ),
        (
            lambda m: m["sampling"]["stage_b"]["embeddings"][0].pop(),
            r"stage_b\.embeddings\[0\]: expected \d+ values, found \d+",
        ),
    ],
)
def test_damaged_manifest(folder, change, message):
    edit(folder, change)
    with pytest.raises(RunError, match=message):
        open_bundle(folder)


def test_manifest_that_is_no_json(folder):
    (folder / "bundle.json").write_text("{")
    with pytest.raises(RunError, match="not valid JSON"):
        open_bundle(folder)


def test_a_manifest_that_is_not_as_it_was_written_is_refused(folder):
    """A digit of a constant, say, which is in its range all the same; by version control it may."""
    path = folder / "bundle.json"
    content = path.read_bytes()
    place = content.index(b'"guidance": 4.0') + len('"guidance": ')
    for changed in (content[:place] + b"5" + content[place + 1 :], content + b" "):
        path.write_bytes(changed)
        with pytest.raises(RunError, match=r'is not as it was written .* remove its "sha256"'):
            open_bundle(folder)
    path.write_bytes(content.replace(b"\n", b"\r\n"))
    open_bundle(folder)
    edit(folder, lambda m: m["sampling"]["stage_c"].update(guidance=5.0))  # on purpose
    assert open_bundle(folder).manifest.sampling.stage_c.guidance == 5


def test_a_copy_with_the_same_times_is_hashed_again(folder, tmp_path):
    """As reproducible archives set them for every file."""
    path = folder / "stage_a/model.onnx"
    os.utime(path, (0, 0))
    open_bundle(folder)
    changed = tmp_path / "changed"
    changed.write_bytes(path.read_bytes()[::-1])
    os.utime(changed, (0, 0))
    path.write_bytes(changed.read_bytes())
    shutil.copystat(changed, path)
    with pytest.raises(RunError, match="SHA-256 differs"):
        open_bundle(folder)


def test_who_has_no_home_hashes_every_time(folder, monkeypatch):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    open_bundle(folder)


def test_a_tokenizers_folder_hides_no_graph_from_the_hashes(folder):
    (folder / "stage_a/tokenizer.json").write_bytes(
        (folder / "tokenizer/tokenizer.json").read_bytes()
    )
    edit(
        folder,
        lambda m: (
            m["tokenizers"]["text_encoder"].update(folder="stage_a"),
            m["files"].update({"stage_a/tokenizer.json": m["files"]["tokenizer/tokenizer.json"]}),
        ),
    )
    path = folder / "stage_a/model.onnx"
    open_bundle(folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="SHA-256 differs"):
        open_bundle(folder)
