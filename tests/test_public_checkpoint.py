"""The public architecture on disk: laid out as its repositories are, read back by a hub id."""

import dataclasses
from pathlib import Path

import pytest
import torch

from exporter.checkpoint.configs import StageAConfig, StageBConfig, StageCConfig, TextConfig
from exporter.checkpoint.find import find_pair
from exporter.checkpoint.open import Component, open_checkpoint
from exporter.checkpoint.weights import Weights
from validation import public_checkpoint as public
from validation.bench.public import RandomWeights, public_checkpoint
from validation.cli import main

# Parameters of the public checkpoints; the encoder half of the VQGAN and buffers besides.
PARAMETERS = {
    ("wuerstchen-prior", "text_encoder"): 693_021_440,
    ("wuerstchen-prior", "prior"): 993_636_896,
    ("wuerstchen", "text_encoder"): 352_984_064,
    ("wuerstchen", "decoder"): 1_055_365_280,
}


def small():
    text = TextConfig(vocab_size=700, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                      num_attention_heads=2, hidden_act="gelu")  # fmt: skip
    stage_b = StageBConfig(c_hidden=(8, 16), nhead=(-1, 2), blocks=(1, 1), c_cond=12, clip_embd=32,
                           level_config=("CT", "CTA"), inject_effnet=(False, True))  # fmt: skip
    checkpoint = public_checkpoint(stage_b, StageCConfig(c=24, c_cond=32, depth=1, nhead=2))
    parts = {"text_encoder": text, "decoder_text_encoder": text,
             "stage_a": StageAConfig(bottleneck_blocks=1, embed_dim=12)}  # fmt: skip
    return dataclasses.replace(
        checkpoint, **{name: Component(Path("random"), part, ()) for name, part in parts.items()}
    )


def test_the_public_sizes_are_the_public_ones():
    checkpoint = public_checkpoint(public.STAGE_B, public.STAGE_C)
    counts = {
        (n.repository.split("/")[1], n.folder): sum(map(public._size, n.shapes.values()))
        for n in public.networks(checkpoint)
    }
    assert {key: counts[key] for key in PARAMETERS} == PARAMETERS


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_a_sharded_hub_cache_is_read_back(tmp_path, monkeypatch, variant):
    cache = tmp_path / "hub"
    folders = public.write_folders(tmp_path, small(), variant=variant, shard_bytes=4000)
    names = (public.DECODER, public.PRIOR)
    for folder, name in zip(folders, names, strict=True):
        public.to_hub_cache(folder, name, cache)
        assert not folder.exists()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pair = find_pair(names[0], None, variant=variant or None)  # the card names the prior
    checkpoint = open_checkpoint(*pair, variant or None)
    assert len(checkpoint.stage_b.files) > 3 and checkpoint.stage_b.files[0].is_symlink()
    assert checkpoint.constants.latent_dim_scale == 10.67
    own = next(n for n in public.networks(small()) if n.folder == "decoder")
    with Weights(checkpoint.stage_b.files, own.shapes, set()) as found:
        for name in own.shapes:
            drawn = RandomWeights(own.shapes)[name]
            expected = drawn.half().float() if variant else drawn
            assert torch.equal(found[name].float(), expected)


def test_a_used_folder_is_refused(tmp_path, capsys):
    for name in ("wuerstchen", "models--warp-ai--wuerstchen"):
        (tmp_path / name).mkdir()
        assert main(["public-checkpoint", str(tmp_path), "--hub-cache"]) == 2
        assert f"{tmp_path / name} exists; choose another folder" in capsys.readouterr().err
        (tmp_path / name).rmdir()
    assert main(["public-checkpoint", str(tmp_path), "--shard-bytes", "0"]) == 2
    assert "--shard-bytes is 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
