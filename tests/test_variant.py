"""Weight files of a variant: exported, remembered, and compared with themselves."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from exporter.cli import main as export
from runtimes.bundle.read import open_bundle
from validation.cli import main as validate


@pytest.mark.slow
def test_an_fp16_variant_is_exported_and_validated(folders, tmp_path, capsys):
    """The plain files are gone: only the variant can have been read."""
    pair = []
    for folder in folders("one_level"):
        copy = Path(shutil.copytree(folder, tmp_path / folder.name))
        for path in list(copy.rglob("*.safetensors")):
            weights = {name: tensor.half() for name, tensor in load_file(path).items()}
            save_file(weights, path.with_suffix(".fp16.safetensors"), {"format": "pt"})
            path.unlink()
        pair.append(str(copy))
    words = ["-m", pair[0], "--prior", pair[1], "--quiet"]
    # With no plain file beside it the variant is taken unasked; asking for another is refused.
    assert export([str(tmp_path / "other"), *words, "--variant", "bf16"]) == 2
    assert "holds weights of the variants fp16 only" in capsys.readouterr().err
    assert export([str(tmp_path / "b"), *words]) == 0
    assert open_bundle(tmp_path / "b").manifest.model.variant == "fp16"
    steps = ["--steps", "2", "--decoder-steps", "2"]
    assert validate([str(tmp_path / "b"), "--reference", pair[0], "--prior", pair[1], *steps]) == 0
