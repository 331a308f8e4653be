"""The parity gate finds faults, names the first, and says it by its exit code."""

import json
import shutil
from pathlib import Path

import manifests
import numpy as np
import onnx
import pytest

from runtimes.bundle.read import sha256
from runtimes.decibels import EXACT_DB
from runtimes.similarity import psnr_db
from validation.cli import main
from validation.parity.metrics import difference


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_against_a_reference_folder(capsys, bundles, folders):
    decoder, prior = folders("one_level")
    words = ["--reference", decoder, "--prior", prior, "--steps", "3", "--decoder-steps", "2"]
    code, out, _ = run(capsys, bundles("one_level").folder, *words, "--verbose")
    assert code == 0
    assert "compared with: diffusers" in out and "FAILED" not in out
    assert "stage_c latents after step 3" in out and "picture: PSNR" in out


def test_a_spoilt_weight_fails_and_is_named(capsys, bundles, tmp_path):
    folder = Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))
    path = folder / "stage_c/model.onnx"
    model = onnx.load(path)
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.ndim == 2:
            spoilt = onnx.numpy_helper.from_array((values * 1.01).astype(np.float32), weight.name)
            weight.CopyFrom(spoilt)
    onnx.save(model, path)
    manifest = manifests.read(folder)
    manifest["files"]["stage_c/model.onnx"] = {"size": path.stat().st_size, "sha256": sha256(path)}
    manifests.write(folder, manifest)
    code, out, err = run(capsys, folder, "--golden")
    assert code == 1
    assert "FAILED" in out
    last = err.splitlines()[-1]  # after what it says of its progress
    assert last.startswith("error: ") and "the first at stage_c " in last
    code, out, _ = run(capsys, folder, "--golden", "--json")
    failures = json.loads(out)["failures"]
    assert code == 1 and failures[0].startswith("stage_c (relative error")
    assert not any(name.startswith(("text_encoder", "stage_c_condition")) for name in failures)


def test_local_bundles_must_be_told_their_reference(capsys, bundles):
    code, _, err = run(capsys, bundles("one_level").folder)
    assert code == 2 and "give it as --reference" in err


def test_the_golden_run_takes_no_options_of_another_run(capsys, bundles):
    code, _, err = run(capsys, bundles("one_level").folder, "--golden", "--steps", "3")
    assert code == 2 and "--steps is for a run against diffusers" in err


def test_everything_is_checked_before_the_reference_runs(capsys, bundles, folders, monkeypatch):
    import validation.parity.reference

    monkeypatch.setattr(validation.parity.reference, "record_reference", None)
    decoder, prior = folders("one_level")
    words = [bundles("one_level").folder, "--reference", decoder, "--prior", prior]
    assert "--device tpu" in run(capsys, *words, "--device", "tpu")[2]
    assert "--steps is 0" in run(capsys, *words, "--steps", "0")[2]
    assert "--height is 0" in run(capsys, *words, "--height", "0")[2]


def test_golden_and_reference_exclude_each_other(capsys, bundles):
    code, _, err = run(capsys, bundles("one_level").folder, "--golden", "--reference", "x")
    assert code == 2 and "--golden excludes" in err


def test_exported_without_golden(capsys, bundles, tmp_path):
    folder = Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))
    shutil.rmtree(folder / "golden")
    manifest = manifests.read(folder)
    del manifest["files"]["golden/run.safetensors"]
    manifests.write(folder, manifest)
    code, _, err = run(capsys, folder, "--golden")
    assert code == 1 and "has no golden run" in err


def test_metrics():
    x = np.array([3.0, 4.0], np.float32)
    found = difference(np.array([3.0, 4.5]), x)
    assert (found.max_abs, found.relative) == (0.5, 0.1)
    assert found.sqnr_db == pytest.approx(20)
    assert difference(x, x).sqnr_db == EXACT_DB
    assert difference(np.array([np.nan, 4.0]), x).relative == np.inf
    assert psnr_db(np.full((2, 2), 0.6), np.full((2, 2), 0.5), peak=1) == pytest.approx(20)
    assert psnr_db(x, x, peak=1) == EXACT_DB
