"""The exporter's command line: one clear line for bad input, and nothing half-written."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import manifests
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from exporter import export as export_module
from exporter.cli import main
from runtimes.errors import UsageError


@pytest.fixture
def pair(folders, tmp_path) -> tuple[Path, Path]:
    """A copy of a tiny checkpoint to damage."""
    copies = [shutil.copytree(folder, tmp_path / folder.name) for folder in folders("one_level")]
    return Path(copies[0]), Path(copies[1])


def run(capsys, *words) -> tuple[int, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.err


def refused(capsys, tmp_path, pair, *message: str, words=()) -> None:
    """Exit code 2, one line with every part of `message`, no output folder and no leftovers."""
    output = tmp_path / "out" / "bundle"
    code, err = run(capsys, output, "-m", pair[0], "--prior", pair[1], *words)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in message:
        assert part in err
    assert not output.exists()
    assert not output.parent.exists() or list(output.parent.iterdir()) == []


def edit(path: Path, **change) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (value | change).items() if v is not None}))


def test_no_such_model(capsys, tmp_path):
    code, err = run(capsys, tmp_path / "o", "-m", tmp_path / "nothing")
    assert (code, err.count("\n")) == (2, 1)
    assert "no such folder, and no hub id" in err


def test_model_that_is_not_in_the_hub_cache(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code, err = run(capsys, tmp_path / "o", "-m", "nobody/nothing")
    assert (code, err.count("\n")) == (2, 1)
    assert "nobody/nothing" in err and "hub" in err


def test_prior_is_not_named(capsys, tmp_path, pair):
    code, err = run(capsys, tmp_path / "o", "-m", pair[0])
    assert code == 2 and "give --prior" in err


@pytest.mark.parametrize(
    "component", ["decoder", "vqgan", "text_encoder", "tokenizer", "scheduler"]
)
def test_missing_component(capsys, tmp_path, pair, component):
    shutil.rmtree(pair[0] / component)
    refused(capsys, tmp_path, pair, f"{component} is missing")


@pytest.mark.parametrize("component", ["prior", "text_encoder", "tokenizer", "scheduler"])
def test_missing_component_of_the_prior(capsys, tmp_path, pair, component):
    shutil.rmtree(pair[1] / component)
    refused(capsys, tmp_path, pair, f"{component} is missing")


@pytest.mark.parametrize("pickle", ["diffusion_pytorch_model.bin", "model.ckpt"])
def test_pickled_weights(capsys, tmp_path, pair, pickle):
    folder = pair[0] / "decoder"
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / pickle)
    refused(capsys, tmp_path, pair, pickle, "a pickle", "safe_serialization=True")


def test_truncated_weights(capsys, tmp_path, pair):
    path = pair[0] / "vqgan/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(capsys, tmp_path, pair, str(path), "truncated")


def test_config_of_another_class(capsys, tmp_path, pair):
    shutil.copy(pair[1] / "prior/config.json", pair[0] / "decoder/config.json")
    refused(capsys, tmp_path, pair, "WuerstchenPrior", "expected WuerstchenDiffNeXt")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("decoder/config.json", {"c_mystery": 3}, "unknown key 'c_mystery'"),
        ("decoder/config.json", {"level_config": ["CXA"]}, "'CXA' does not match [CTA]*"),
        ("decoder/config.json", {"blocks": [1, 1]}, "'blocks' has 2 entries for 1 levels"),
        ("decoder/config.json", {"kernel_size": 4}, "kernel_size 4 is even"),
        ("decoder/config.json", {"c_r": "64"}, "'c_r': expected int, found str"),
        ("decoder/config.json", {"nhead": [5]}, "does not divide the width"),
        ("text_encoder/config.json", {"hidden_act": "silu"}, "expected 'gelu' or 'quick_gelu'"),
        ("text_encoder/config.json", {"hidden_size": 64}, "do not belong together"),
        (
            "decoder/config.json",
            {"patch_size": 0},
            "'patch_size': 0 is below 1",
        ),
        ("decoder/config.json", {"c_hidden": []}, "'c_hidden': expected 1 to 8 values, found 0"),
        ("vqgan/config.json", {"levels": 0}, "'levels': 0 is below 1"),
        ("vqgan/config.json", {"latent_channels": 5}, "do not belong together"),
        ("scheduler/scheduler_config.json", {"s": 0.0}, "'s': it must be above 0"),
        ("model_index.json", {"latent_dim_scale": -1}, "'latent_dim_scale': -1.0 is below 0.01"),
    ],
)
def test_config_values(capsys, tmp_path, pair, file, change, message):
    edit(pair[0] / file, **change)
    refused(capsys, tmp_path, pair, message, str(pair[0]))


@pytest.mark.parametrize("how", ["missing", "unexpected", "shape", "dtype"])
def test_weights_must_be_the_configs(capsys, tmp_path, pair, how):
    path = pair[1] / "prior/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = "blocks.0.channelwise.0.weight"
    if how == "missing":
        del weights[name]
    elif how == "unexpected":
        weights["blocks.99.extra"] = torch.zeros(1)
        name = "blocks.99.extra"
    elif how == "shape":
        weights[name] = weights[name][:-1].contiguous()
    else:
        weights[name] = weights[name].to(torch.int8)
    save_file(weights, path)
    refused(capsys, tmp_path, pair, f"'{name}'", str(pair[1] / "prior"))


def test_sizes_that_do_not_close(capsys, tmp_path, folders):
    words = ["--height", "1100"]
    nearest = "nearest valid heights are 1024 and 1152"
    refused(capsys, tmp_path, folders("public"), "--height 1100", nearest, words=words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--height", "0"], "--height is 0"),
        (["--batch-size", "0", "--static"], "--batch-size is 0"),
        (["--modules", "stage_d"], "unknown graph 'stage_d'"),
        (["--batch-size", "2"], "give --static too"),
        (["--modules", "decoder_text_encoder", "--stage-b-text", "drop"], "has no such graph"),
        (["--revision", "main"], "revisions are for hub ids"),
    ],
)
def test_options(capsys, tmp_path, pair, words, message):
    refused(capsys, tmp_path, pair, message, words=words)


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_missing_tokenizer_files(capsys, tmp_path, pair, file):
    (pair[0] / "tokenizer" / file).unlink()
    refused(capsys, tmp_path, pair, f"{file} is missing")


def test_output_exists(capsys, tmp_path, pair, bundles):
    output = shutil.copytree(bundles("one_level").folder, tmp_path / "bundle")
    code, err = run(capsys, output, "-m", pair[0], "--prior", pair[1])
    assert code == 2 and "--overwrite" in err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious")
    code, err = run(capsys, tmp_path / "mine", "-m", pair[0], "--prior", pair[1], "--overwrite")
    assert code == 2 and "is no bundle" in err
    assert (tmp_path / "mine/thesis.txt").read_text() == "precious"


def test_a_failed_overwrite_keeps_the_old_bundle(capsys, tmp_path, pair, bundles, monkeypatch):
    output = Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    def full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export_module, "_write_graph", full_disk)
    code, err = run(capsys, output, "-m", pair[0], "--prior", pair[1], "--overwrite", "--quiet")
    assert code == 1 and "the disk is full" in err
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_too_little_space_is_seen_before_the_first_byte(capsys, tmp_path, pair, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    refused(capsys, tmp_path, pair, "MB free")


@pytest.fixture
def largest_file():
    """Limit the size of any file this process writes, as a full disk would; then lift it."""
    import resource  # which Windows lacks: only these tests need it

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an OSError instead of the signal
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [1000, 40000, pytest.param(600000, marks=pytest.mark.slow)])
def test_a_really_full_disk(capsys, tmp_path, pair, largest_file, limit):
    """The tokenizer, a graph and the golden run fail to write."""
    words = [
        tmp_path / "bundle",
        "-m",
        pair[0],
        "--prior",
        pair[1],
        "--quiet",
        "--golden-steps",
        "full",
    ]
    largest_file(limit)
    code, err = run(capsys, *words)
    assert code == 1, err
    assert err.strip().splitlines()[-1].startswith("error: cannot write")
    assert not (tmp_path / "bundle").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_modules_exports_some_graphs(capsys, tmp_path, pair):
    output = tmp_path / "part"
    code, _ = run(
        capsys, output, "-m", pair[0], "--prior", pair[1], "--modules", "stage_a", "--quiet"
    )
    assert code == 0
    assert {path.name for path in output.iterdir()} == {
        "bundle.json", "README.md", "stage_a", "tokenizer", "golden",
    }  # fmt: skip


def test_json_output(capsys, tmp_path, pair):
    words = [tmp_path / "b", "-m", pair[0], "--prior", pair[1], "--modules", "stage_a", "--json"]
    assert main([str(word) for word in words]) == 0
    assert json.loads(capsys.readouterr().out)["graphs"] == ["stage_a"]


def test_combined_folder_equals_the_pair(capsys, tmp_path, bundles, folders):
    """A folder as WuerstchenCombinedPipeline saves it; its constants are diffusers' defaults."""
    decoder, prior = folders("public")
    combined = Path(shutil.copytree(decoder, tmp_path / "combined"))
    for component in ("prior", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(prior / component, combined / f"prior_{component}")
    words = [tmp_path / "b", "-m", combined, "--modules", "stage_c", "--quiet", "--height", "1024"]
    assert main([str(w) for w in words]) == 0
    made = (tmp_path / "b/stage_c/model.onnx").read_bytes()
    assert made == bundles("public").path("stage_c/model.onnx").read_bytes()
    manifest = manifests.read(tmp_path / "b")
    assert manifest["sampling"]["latent_mean"] == 42.0


def test_check_output_refuses_a_file(tmp_path):
    from runtimes.bundle.write import check_output

    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        check_output(tmp_path / "file", overwrite=True)


def test_tiny_checkpoints_are_what_diffusers_saves(folders):
    assert (folders("public")[0] / "decoder/diffusion_pytorch_model.safetensors").is_file()
    assert set(tiny.TINY) == {"public", "odd_c_r", "no_effnet", "one_level"}
