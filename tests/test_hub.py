"""Hub ids, from a local cache laid out as huggingface_hub lays one out."""

from pathlib import Path

import checkpoints_found as make
import manifests
import pytest
from huggingface_hub import constants

from exporter.checkpoint.find import find_pair
from exporter.cli import main

COMMIT = make.COMMITS


@pytest.fixture
def cache(folders, tmp_path, monkeypatch) -> Path:
    """Both halves in a hub cache, the decoder's with a model card that names the prior."""
    root = make.hub_cache(folders("one_level"), tmp_path / "hub")
    card = "---\nlicense: mit\nprior:\n- owner/wuerstchen-prior\n---\n# A model\n"
    snapshot = root / "models--owner--wuerstchen/snapshots" / COMMIT["wuerstchen"]
    (snapshot / "README.md").write_text(card)
    # As HF_HUB_CACHE in the environment does, which a process reads once, at its start.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    return root


def test_ids_resolve_to_commits_and_the_card_names_the_prior(cache, tmp_path):
    words = ["-m", "owner/wuerstchen", "--revision", "v1", "--modules", "stage_a", "--quiet"]
    assert main([str(tmp_path / "b"), *words]) == 0
    model = manifests.read(tmp_path / "b")["model"]
    assert model == {
        "id": "owner/wuerstchen",
        "revision": COMMIT["wuerstchen"],
        "prior_id": "owner/wuerstchen-prior",
        "prior_revision": COMMIT["wuerstchen-prior"],
        "license": "mit",
        "variant": "",
    }


def test_a_snapshot_folder_knows_its_id(cache):
    folder = cache / "models--owner--wuerstchen/snapshots" / COMMIT["wuerstchen"]
    decoder, prior = find_pair(str(folder), None)
    assert (decoder.id, decoder.revision) == ("owner/wuerstchen", COMMIT["wuerstchen"])
    assert (prior.id, prior.revision) == ("owner/wuerstchen-prior", COMMIT["wuerstchen-prior"])


def test_a_revision_that_is_not_there(cache, tmp_path, capsys):
    assert main([str(tmp_path / "b"), "-m", "owner/wuerstchen", "--revision", "v9"]) == 2
    assert "owner/wuerstchen (revision v9)" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
