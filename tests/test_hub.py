"""Hub ids, from a local cache laid out as huggingface_hub lays one out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import checkpoints_found as make
import pytest

COMMIT = make.COMMITS


@pytest.fixture
def cache(folders, tmp_path) -> Path:
    """Both halves in a hub cache, the decoder's with a model card that names the prior."""
    root = make.hub_cache(folders("one_level"), tmp_path / "hub")
    card = "---\nlicense: mit\nprior:\n- owner/wuerstchen-prior\n---\n# A model\n"
    snapshot = root / "models--owner--wuerstchen/snapshots" / COMMIT["wuerstchen"]
    (snapshot / "README.md").write_text(card)
    return root


def export(cache: Path, output: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "exporter", str(output), "--modules", "stage_a", "--quiet"]
    return subprocess.run(
        [*command, *words], env=environment, capture_output=True, text=True, check=False
    )


def test_ids_resolve_to_commits_and_the_card_names_the_prior(cache, tmp_path):
    found = export(cache, tmp_path / "b", "-m", "owner/wuerstchen", "--revision", "v1")
    assert found.returncode == 0, found.stderr
    model = json.loads((tmp_path / "b/bundle.json").read_text())["model"]
    assert model == {
        "id": "owner/wuerstchen",
        "revision": COMMIT["wuerstchen"],
        "prior_id": "owner/wuerstchen-prior",
        "prior_revision": COMMIT["wuerstchen-prior"],
        "license": "mit",
        "variant": "",
    }


def test_a_snapshot_folder_knows_its_id(cache, tmp_path):
    folder = cache / "models--owner--wuerstchen/snapshots" / COMMIT["wuerstchen"]
    found = export(cache, tmp_path / "b", "-m", str(folder))
    assert found.returncode == 0, found.stderr
    model = json.loads((tmp_path / "b/bundle.json").read_text())["model"]
    assert (model["id"], model["revision"]) == ("owner/wuerstchen", COMMIT["wuerstchen"])


def test_a_revision_that_is_not_there(cache, tmp_path):
    found = export(cache, tmp_path / "b", "-m", "owner/wuerstchen", "--revision", "v9")
    assert found.returncode == 2
    assert "owner/wuerstchen (revision v9)" in found.stderr
    assert not (tmp_path / "b").exists()
