"""Weight files as they are found: variants, shards, what is missing, what a hub is asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints_found as make
import manifests
import pytest
import torch
from diffusers import WuerstchenPriorPipeline, pipelines
from diffusers.pipelines.deprecated import wuerstchen
from safetensors.torch import load_file

from exporter.checkpoint.find import find_pair
from exporter.checkpoint.open import open_checkpoint
from exporter.cli import main
from runtimes.errors import UsageError
from validation.cli import main as validate


@pytest.fixture
def pair(folders, tmp_path):
    """A copy of a tiny checkpoint to change."""
    root = tmp_path / "pair"
    copies = [shutil.copytree(folder, root / folder.name) for folder in folders("one_level")]
    return Path(copies[0]), Path(copies[1])


def opened(pair, variant=None, **options):
    return open_checkpoint(*find_pair(str(pair[0]), str(pair[1])), variant, **options)


def refused(capsys, tmp_path, *words):
    """The one line of an export that is refused before anything is written."""
    output = tmp_path / "out" / "bundle"
    assert main([str(word) for word in (output, *words)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
    return err


INDEXES = [
    (".safetensors.index.fp16.json", ".fp16{n}.safetensors", True),
    (".safetensors.fp16.index.json", "{n}.fp16.safetensors", True),  # diffusers before 0.32
    (".fp16.safetensors.index.json", ".fp16{n}.safetensors", False),  # other tools
]


@pytest.mark.parametrize(("index", "shard", "diffusers_reads_it"), INDEXES)
def test_every_name_of_an_index(pair, index, shard, diffusers_reads_it):
    expected = load_file(make.weights_of(pair[1] / "prior"))
    make.to_shards(pair[1] / "prior", index, shard)
    found = opened(pair, "fp16").stage_c
    tensors = {k: v for file in found.files for k, v in load_file(file).items()}
    assert (found.variant, len(found.files)) == ("fp16", 2)
    assert tensors.keys() == expected.keys()
    if diffusers_reads_it:
        module = wuerstchen.WuerstchenPrior.from_pretrained(pair[1] / "prior", variant="fp16")
        assert all(torch.equal(module.state_dict()[k], v) for k, v in tensors.items())


@pytest.mark.parametrize("names", [["prior", "text_encoder"], ["prior"], ["text_encoder"]])
def test_a_variant_falls_back_where_diffusers_does(pair, monkeypatch, names):
    """The values of the files taken are those that diffusers' pipeline loads."""
    monkeypatch.setattr(pipelines, "wuerstchen", wuerstchen, raising=False)
    for name in names:
        make.to_variant(pair[1] / name, keep=True)
    found = opened(pair, "fp16")
    kind = {"variant": "fp16", "torch_dtype": torch.float32}
    pipeline = WuerstchenPriorPipeline.from_pretrained(pair[1], **kind)
    for component, module in (
        (found.stage_c, pipeline.prior),
        (found.text_encoder, pipeline.text_encoder),
    ):
        state = module.state_dict()
        (file,) = component.files
        assert all(torch.equal(state[k], v.float()) for k, v in load_file(file).items())
    assert found.stage_b.variant == ""
    (note,) = found.notes
    assert "no fp16 weights, the plain ones are taken" in note
    assert all(str(pair[1] / name) not in note for name in names)


def test_a_single_variant_is_taken_unasked(pair):
    for folder in make.components(pair):
        make.to_variant(folder)
    found = opened(pair)
    assert {component.variant for component in found.components} == {"fp16"} == {found.variant}
    assert found.notes[0].startswith("no plain weights, the fp16 ones are taken: ")
    assert opened(pair, "fp16").notes == ()


def test_several_variants_are_named(pair):
    prior = pair[1] / "prior"
    make.to_variant(prior, "bf16", keep=True)
    shutil.copy(prior / "diffusion_pytorch_model.bf16.safetensors",
                prior / "diffusion_pytorch_model.fp16.safetensors")  # fmt: skip
    (prior / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UsageError, match="variants bf16, fp16 only: give --variant"):
        opened(pair)


def test_a_variant_that_no_component_has(pair):
    with pytest.raises(UsageError, match="--variant fp16: no component has such"):
        opened(pair, "fp16")


def test_missing_files_are_named(pair):
    prior = pair[1] / "prior"
    make.to_shards(prior, ".safetensors.index.json", "{n}.safetensors")
    (prior / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UsageError, match=r"00002-of-00002\.safetensors, which .* names, is mis"):
        opened(pair)
    (prior / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(UsageError, match=r"\.index\.json, the index of its shards, is missing"):
        opened(pair)
    (prior / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UsageError, match=r"holds no weights: diffusion_pytorch_model\.saf") as no:
        opened(pair)
    assert "pickle" not in str(no.value)


@pytest.mark.parametrize("link", ["gone", "dangling"])
def test_an_incomplete_cache_says_what_fetches_the_rest(pair, tmp_path, link):
    root = make.hub_cache(pair, tmp_path / "hub")
    snapshots = [root / f"models--owner--{f.name}/snapshots" / make.COMMITS[f.name] for f in pair]
    path = snapshots[1] / "prior/diffusion_pytorch_model.safetensors"
    (path if link == "gone" else path.resolve()).unlink()
    with pytest.raises(UsageError) as error:
        opened(snapshots)
    command = "hf download owner/wuerstchen-prior prior/diffusion_pytorch_model.safetensors"
    assert f"{command} --revision {'2' * 40}" in str(error.value)


@pytest.mark.parametrize(
    "file",
    [
        "wuerstchen/decoder/diffusion_pytorch_model.safetensors",
        "wuerstchen-prior/text_encoder/model.safetensors",
        "wuerstchen-prior/prior/config.json",
        "wuerstchen/tokenizer/merges.txt",
    ],
)
def test_git_lfs_pointers(capsys, tmp_path, pair, file):
    path = pair[0].parent / file
    make.to_pointer(path)
    err = refused(capsys, tmp_path, "-m", pair[0], "--prior", pair[1])
    assert f"{path} is a git-lfs pointer" in err and "git lfs pull" in err


@pytest.mark.slow
def test_a_mixed_checkpoint_validates(pair, tmp_path, capsys):
    """Variants unasked in two components, shards by other tools' names in a third."""
    make.to_variant(pair[0] / "decoder")
    make.to_shards(pair[1] / "prior", ".fp16.safetensors.index.json", ".fp16{n}.safetensors")
    output = tmp_path / "bundle"
    assert main([str(w) for w in (output, "-m", pair[0], "--prior", pair[1], "--no-golden")]) == 0
    assert "no plain weights, the fp16 ones are taken" in capsys.readouterr().err
    assert manifests.read(output)["model"]["variant"] == ""
    words = [output, "--reference", pair[0], "--prior", pair[1]]
    assert validate([str(word) for word in words]) == 0


@pytest.fixture
def hub(pair, tmp_path):
    """A hub that serves the pair as owner/wuerstchen and owner/wuerstchen-prior."""
    with make.Hub(pair) as server:
        yield server


def fetched(hub, tmp_path, *words):
    """Weight files that an inspection of weights asks a hub for, and what was said."""
    code = (
        "import sys; from exporter.checkpoint.open import open_checkpoint as o;"
        "from exporter.checkpoint.find import find_pair as f; v = sys.argv[2] or None;"
        "print(*o(*f(sys.argv[1], 'owner/wuerstchen-prior', variant=v), v).notes, sep='\\n')"
    )
    cache = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": hub.address}
    environment = os.environ | cache | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {path for path in hub.fetched if path.endswith(".safetensors")}, done.stdout


@pytest.mark.parametrize("variant", [pytest.param("", marks=pytest.mark.slow), "fp16"])
def test_what_is_needed_is_fetched(hub, pair, tmp_path, variant):
    """One component has both kinds of files, one a variant alone, one it alone in shards."""
    make.to_variant(pair[1] / "prior", keep=True)
    make.to_variant(pair[0] / "decoder")
    make.to_shards(pair[0] / "vqgan", ".safetensors.index.fp16.json", ".fp16{n}.safetensors")
    (pair[0] / "vqgan/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    middle = f".{variant}" if variant else ""
    shards = {
        f"owner/wuerstchen/vqgan/diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors"
        for n in (1, 2)
    }
    paths, notes = fetched(hub, tmp_path, "owner/wuerstchen", variant)
    assert paths == shards | {
        f"owner/wuerstchen-prior/prior/diffusion_pytorch_model{middle}.safetensors",
        "owner/wuerstchen-prior/text_encoder/model.safetensors",
        "owner/wuerstchen/decoder/diffusion_pytorch_model.fp16.safetensors",
        "owner/wuerstchen/text_encoder/model.safetensors",
    }
    assert "ones are taken" in notes


@pytest.mark.slow
def test_the_address_of_a_models_page(hub, tmp_path):
    page = "https://huggingface.co/owner/wuerstchen/tree/main"
    paths, _ = fetched(hub, tmp_path, page, "")
    assert "owner/wuerstchen/vqgan/diffusion_pytorch_model.safetensors" in paths


@pytest.mark.slow
def test_another_model_is_told_before_its_weights_are_fetched(hub, pair, tmp_path):
    shutil.rmtree(pair[0])
    make.stable_cascade(pair[0])
    (pair[0] / "decoder/diffusion_pytorch_model.safetensors").write_bytes(b"gigabytes")
    with pytest.raises(AssertionError, match="Stable Cascade"):
        fetched(hub, tmp_path, "owner/wuerstchen", "")
    assert not any(path.endswith(".safetensors") for path in hub.fetched)
