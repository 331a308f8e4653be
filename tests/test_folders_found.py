"""What is given as --model and --prior: found, taken, or told what to give."""

import shutil
from pathlib import Path

import checkpoints_found as make
import pytest

from exporter.checkpoint.find import DEMO, find_pair
from exporter.checkpoint.folders import hub_id
from exporter.checkpoint.open import open_checkpoint
from exporter.cli import main
from runtimes.errors import UsageError


@pytest.fixture
def pair(folders, tmp_path):
    """A copy of a tiny checkpoint to change."""
    root = tmp_path / "pair"
    copies = [shutil.copytree(folder, root / folder.name) for folder in folders("one_level")]
    return Path(copies[0]), Path(copies[1])


def refused(capsys, tmp_path, *words):
    """The one line of an export that is refused before anything is written."""
    output = tmp_path / "out" / "bundle"
    assert main([str(word) for word in (output, *words)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
    return err


def test_the_folder_that_holds_both(pair):
    source, prior = find_pair(str(pair[0].parent), None)
    assert (source.folder, prior.folder) == pair
    assert (source.id, source.revision) == ("wuerstchen", "local")
    notes = open_checkpoint(source, prior, None).notes
    assert "wuerstchen is taken as the decoder" in notes[0]
    assert "wuerstchen-prior is taken as the prior" in notes[1]
    assert find_pair(str(DEMO), None)[1].folder == DEMO / "wuerstchen-prior"


def test_a_home_folder_that_no_shell_expanded(pair, monkeypatch):
    monkeypatch.setenv("HOME", str(pair[0].parent))
    assert find_pair("~/wuerstchen", "~/wuerstchen-prior")[0].folder == pair[0]


def test_roles_are_told(capsys, tmp_path, pair):
    decoder, prior = pair
    err = refused(capsys, tmp_path, "-m", prior)
    assert f"is a prior alone: give --model {decoder} and --prior {prior}" in err
    err = refused(capsys, tmp_path, "-m", prior, "--prior", decoder)
    assert f"give --model {decoder} --prior {prior}" in err
    err = refused(capsys, tmp_path, "-m", decoder, "--prior", decoder)
    assert f"is a decoder alone: give --model {decoder} and --prior {prior}" in err
    err = refused(capsys, tmp_path, "-m", decoder / "vqgan", "--prior", prior)
    assert f"is one component of a checkpoint: give {decoder}" in err
    err = refused(capsys, tmp_path, "-m", decoder)
    assert f"give --prior, such as {prior}" in err
    err = refused(capsys, tmp_path, "-m", decoder / "model_index.json", "--prior", prior)
    assert f"give its folder, {decoder}" in err
    weights = decoder / "decoder/diffusion_pytorch_model.safetensors"
    err = refused(capsys, tmp_path, "-m", weights)
    assert "a single weights file: a diffusers folder is needed" in err


@pytest.mark.parametrize("as_prior", [False, True])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (make.stable_cascade, "is a StableCascadeDecoderPipeline: Stable Cascade"),
        (make.stable_diffusion, "is a StableDiffusionPipeline, not Wuerstchen"),
        (make.kandinsky_prior, "is a KandinskyV22PriorPipeline, not Wuerstchen"),
    ],
)
def test_other_models_are_recognised(capsys, tmp_path, pair, model, message, as_prior):
    folder = model(tmp_path / "other")
    words = ["-m", pair[0], "--prior", folder] if as_prior else ["-m", folder]
    assert message in refused(capsys, tmp_path, *words)


@pytest.mark.parametrize("name", [".", "bundle.json"])
def test_a_bundle_is_no_checkpoint(capsys, tmp_path, bundles, name):
    folder = bundles("one_level").folder
    err = refused(capsys, tmp_path, "-m", folder / name)
    assert "is an exported bundle: give the checkpoint it was made from (wuerstchen)" in err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("https://huggingface.co/warp-ai/wuerstchen", ("warp-ai/wuerstchen", None)),
        ("huggingface.co/warp-ai/wuerstchen/", ("warp-ai/wuerstchen", None)),
        ("https://hf.co/a/b/tree/v1.0?x=1", ("a/b", "v1.0")),
        ("https://huggingface.co/a/b/blob/refs%2Fpr%2F3/README.md", ("a/b", "refs/pr/3")),
        ("warp-ai/wuerstchen", None),
        ("folder/of/mine", None),
    ],
)
def test_addresses(name, expected):
    assert hub_id(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "https://huggingface.co/datasets/a/b",
        "https://huggingface.co/warp-ai",
        "https://example.org/a/b",
        "file:///models/w",
    ],
)
def test_other_addresses_are_refused(name):
    with pytest.raises(UsageError, match="is no model's page on the hub"):
        hub_id(name)
