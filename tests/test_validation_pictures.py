"""The gate holds the picture side to its authors' modules, and pictures made from pictures."""

import json
import shutil
from pathlib import Path

import manifests
import numpy as np
import onnx
import picture_nets as nets
import pytest
import torch
from PIL import Image

from exporter.checkpoint.find import find_pair
from exporter.checkpoint.open import Component
from exporter.checkpoint.picture_files import compressor_config, preview_config
from exporter.checkpoint.picture_names import COMPRESSOR_FILE, PREVIEW_FILE
from exporter.export import export
from exporter.options import ExportOptions
from runtimes.bundle.manifest import PICTURE_GRAPHS
from runtimes.bundle.read import open_bundle, sha256
from runtimes.tolerances import LIMITS
from validation.cli import main
from validation.parity import picture_reference

C_LATENT = 8  # of the tiny configuration


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# The reference itself


@pytest.mark.parametrize(
    ("make", "strides"),
    [
        (lambda: nets.compressor(5), nets.ODD_STRIDES),
        (lambda: nets.compressor(6, affine=True), nets.ODD_STRIDES),
        pytest.param(nets.v2_s, None, marks=pytest.mark.slow),
    ],
)
def test_the_compressors_reference_is_torchvisions(tmp_path, make, strides):
    net = make()
    path = nets.save(net, tmp_path / "c.safetensors", strides and {"strides": strides})
    config = compressor_config(path, net.mapper[0].out_channels)
    picture = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    found = picture_reference.compress(Component(tmp_path, config, (path,)), picture)
    assert relative(found, net(picture)) <= 1e-6


def test_the_previewers_reference_is_its_authors(tmp_path):
    net = nets.previewer(7)
    path = nets.save(net, tmp_path / "p.safetensors")
    latents = torch.randn(2, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    component = Component(tmp_path, preview_config(path, 7), (path,))
    assert relative(picture_reference.preview(component, latents), net(latents)) <= 1e-6


# The gate


@pytest.fixture(scope="module")
def with_pictures(folders, tmp_path_factory):
    """A checkpoint's folders, whose prior has both files, and its bundle."""
    folder = tmp_path_factory.mktemp("pictures")
    decoder, prior = folders("one_level")
    prior = Path(shutil.copytree(prior, folder / "prior"))
    found = nets.files(folder, C_LATENT)
    shutil.copyfile(found.compressor, prior / COMPRESSOR_FILE)
    shutil.copyfile(found.preview, prior / PREVIEW_FILE)
    export(*find_pair(str(decoder), str(prior)), folder / "bundle", ExportOptions())
    return open_bundle(folder / "bundle"), ["--reference", decoder, "--prior", prior]


SHORT = ["--steps", "2", "--decoder-steps", "2"]


def test_every_graph_and_the_reconstruction_pass(capsys, with_pictures):
    bundle, reference = with_pictures
    code, out, err = run(capsys, bundle.folder, *reference, *SHORT, "--json")
    assert code == 0, err
    gate = json.loads(out)
    errors = {check["graph"]: check["relative"] for check in gate["graphs"]}
    assert all(errors[name] <= LIMITS["fp32"].graph_error for name in PICTURE_GRAPHS)
    assert gate["reconstruction_db"] >= LIMITS["fp32"].picture_db
    code, out, _ = run(capsys, bundle.folder, *reference, *SHORT)
    assert code == 0 and "compressed and decoded again: PSNR" in out


def test_the_golden_run_has_the_picture_side_and_no_reconstruction(capsys, with_pictures):
    code, out, _ = run(capsys, with_pictures[0].folder, "--golden", "--json")
    gate = json.loads(out)
    assert code == 0 and gate["reconstruction_db"] is None
    assert {*PICTURE_GRAPHS} <= {check["graph"] for check in gate["graphs"]}


def test_a_spoilt_compressor_fails_with_its_reconstruction(capsys, with_pictures, tmp_path):
    bundle, reference = with_pictures
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    path = folder / "compressor/model.onnx"
    model = onnx.load(path)
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.ndim == 4:
            weight.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.3), weight.name))
    onnx.save(model, path)
    manifest = manifests.read(folder)
    manifest["files"]["compressor/model.onnx"] = {
        "size": path.stat().st_size, "sha256": sha256(path),
    }  # fmt: skip
    manifests.write(folder, manifest)
    code, out, _ = run(capsys, folder, *reference, *SHORT, "--json")
    failures = json.loads(out)["failures"]
    assert code == 1
    assert failures[0].startswith("compressor (") and failures[-1].startswith("reconstruction (")


# Quality of pictures made from pictures


@pytest.fixture
def starts(tmp_path):
    """Two pictures of other sizes, and two prompts."""
    folder = tmp_path / "starts"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(folder / name)
    (tmp_path / "prompts.txt").write_text("a circle\na star\n")
    return ["--prompts", tmp_path / "prompts.txt", "--starts", folder]


def quality(capsys, bundle, out, *words):
    return run(capsys, "quality", bundle.folder, "-o", out, *words)


def test_pictures_from_pictures_are_measured_and_kept(capsys, with_pictures, tmp_path, starts):
    bundle, out = with_pictures[0], tmp_path / "out"
    words = [*starts, "--strength", "0.5", "--seed", "3"]
    code, _, err = quality(capsys, bundle, out, *words)
    assert code == 0, err
    value = json.loads((out / "quality.json").read_text())
    found = {metric["name"]: metric for metric in value["metrics"]}
    assert found["PSNR, start"]["value"] > 0 and 0 < found["SSIM, start"]["value"] < 1
    assert value["starts"]["strength"] == 0.5
    before = {path: path.stat().st_mtime_ns for path in (out / "pictures").iterdir()}
    assert quality(capsys, bundle, out, *words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "pictures").iterdir()} == before
    code, _, err = quality(capsys, bundle, out, *starts, "--strength", "0.6", "--seed", "3")
    assert code == 2 and "another run (starts" in err


def test_without_strength_nothing_starts_from_a_picture(capsys, with_pictures, tmp_path, starts):
    code, _, err = quality(capsys, with_pictures[0], tmp_path / "out", *starts)
    assert code == 2 and "--starts is of runs from pictures: give --strength" in err


def test_starts_that_are_refused(capsys, with_pictures, bundles, tmp_path, starts):
    out = tmp_path / "out"
    bundle = with_pictures[0]
    for words, said in (
        ([*starts, "--strength", "1.5"], "--strength is 1.5"),
        ([*starts[:2], "--strength", "0.5"], "give --starts DIR"),
        ([*starts[:3], tmp_path / "none", "--strength", "0.5"], "is no folder"),
        ([*starts[:3], tmp_path, "--strength", "0.5"], "holds 0 pictures for 2 prompts"),
    ):
        code, _, err = quality(capsys, bundle, out, *words)
        assert code == 2 and said in err and not out.exists()
    code, _, err = quality(capsys, bundles("one_level"), out, *starts, "--strength", "0.5")
    assert code == 2 and "this bundle has no compressor" in err and not out.exists()


@pytest.mark.slow
def test_the_demos_drawings_come_back(capsys, bundles, tmp_path):
    """The model card's figures are of 200; these are the first 20 of the same drawings."""
    words = ["--strength", "0", "--count", "20"]
    code, _, err = quality(capsys, bundles("demo"), tmp_path / "out", *words)
    assert code == 0, err
    value = json.loads((tmp_path / "out/quality.json").read_text())
    found = {metric["name"]: metric["value"] for metric in value["metrics"]}
    assert found["PSNR, start"] >= 25 and found["judge: pair"] >= 85
