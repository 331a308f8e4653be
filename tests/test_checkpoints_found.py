"""Harmless extras of a checkpoint: ignored by name, and what could change a graph refused."""

import json
import re
import shutil
from pathlib import Path

import checkpoints_found as make
import pytest
import torch
from diffusers.pipelines.deprecated import wuerstchen
from transformers import CLIPTextConfig, CLIPTextModel

from exporter.checkpoint.configs import SchedulerConfig, StageAConfig, TextConfig, parse_config
from exporter.checkpoint.find import find_pair
from exporter.checkpoint.harmless import CONFIG_KEYS
from exporter.checkpoint.open import open_checkpoint
from exporter.cli import main
from exporter.job import check_job
from exporter.options import ExportOptions
from runtimes.errors import UsageError

SMALL = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "max_position_embeddings": 8}  # fmt: skip


@pytest.fixture
def pair(folders, tmp_path):
    """A copy of a tiny checkpoint to change."""
    root = tmp_path / "pair"
    copies = [shutil.copytree(folder, root / folder.name) for folder in folders("one_level")]
    return Path(copies[0]), Path(copies[1])


def opened(pair, variant=None, **options):
    return open_checkpoint(*find_pair(str(pair[0]), str(pair[1])), variant, **options)


def job_of(pair):
    return check_job(opened(pair), ExportOptions())


def _other(key, value):
    """Another value of a key of CLIPTextConfig."""
    special = {
        "problem_type": "regression",
        "id2label": {0: "a"},
        "label2id": {"a": 0},
        "attn_implementation": "eager",
        "attention_dropout": 0.5,
    }
    if key in special:
        return special[key]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else 3


def _hidden(config):
    """What a text encoder of one draw of weights makes of some ids."""
    torch.manual_seed(0)
    module = CLIPTextModel(config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    ids = torch.tensor([[48, 3, 7, 49, 49, 49, 49, 49]])
    return module(input_ids=ids, attention_mask=torch.ones_like(ids), return_dict=True)[0]


_STORED = ("dtype", "torch_dtype", "architectures", "model_type", "transformers_version")


@pytest.mark.parametrize(
    "key",
    [
        key
        for group in CONFIG_KEYS["TextConfig"]
        for key in group.keys
        if group.values is None and key not in _STORED
    ],
)
def test_what_is_ignored_changes_nothing_in_transformers(key):
    """Every ignored key of a text encoder, set to another value; attention differs by rounding."""
    value = _other(key, CLIPTextConfig().to_dict().get(key))
    config = CLIPTextConfig(**SMALL, **({} if key in SMALL else {key: value}))
    torch.testing.assert_close(_hidden(config), _hidden(CLIPTextConfig(**SMALL)))
    plain, changed = (
        parse_config(TextConfig, {k: v for k, v in found.items() if k in SMALL or k == key}, "x")
        for found in (CLIPTextConfig(**SMALL).to_dict(), config.to_dict() | {key: value})
    )
    assert plain == changed


def test_every_key_that_transformers_writes_is_known():
    value = CLIPTextConfig(**SMALL).to_dict()
    assert parse_config(TextConfig, value, "x").hidden_size == 16


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        (TextConfig, "pruned_heads", {"0": [1]}, "only None or {} is"),
        (TextConfig, "quantization_config", {"bits": 4}, "could change the graph"),
        (TextConfig, "rope_theta", 1e4, "unknown key 'rope_theta'"),
        (StageAConfig, "quantization_config", {"bits": 4}, "could change the graph"),
        (SchedulerConfig, "prediction_type", "v_prediction", "only 'epsilon' is"),
    ],
)
def test_what_could_change_a_graph_is_refused(kind, key, value, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_config(kind, {key: value}, "config.json")


def test_keys_that_took_defaults_are_read_as_diffusers_reads_them():
    value = {"levels": 3, "scale_factor": 5.0, "_use_default_values": ["scale_factor"]}
    module = wuerstchen.PaellaVQModel.from_config(value | {"embed_dim": 8})
    found = parse_config(StageAConfig, value, "config.json")
    assert found.scale_factor == module.config.scale_factor == 0.3764
    assert found.levels == module.config.levels == 3


def test_ignored_keys_are_named_once_with_their_file(pair):
    make.with_every_key(pair)
    make.edit(pair[0] / "decoder/config.json", sample_size=64)
    (first, second) = opened(pair).notes
    assert str(pair[1] / "text_encoder/config.json") in first and "and" in first
    where = pair[0] / "decoder/config.json"
    assert second == f"{where}: ignored, it changes nothing here: config key sample_size"


@pytest.mark.parametrize("change", [make.with_projection, make.as_whole_clip])
def test_text_encoders_of_other_classes(pair, change):
    """Hidden states equal those of transformers' CLIPTextModel, loaded from the same folder."""
    expected = CLIPTextModel.from_pretrained(pair[1] / "text_encoder")
    change(pair)
    reference = CLIPTextModel.from_pretrained(pair[1] / "text_encoder")
    ids = torch.arange(77)[None]
    mask = torch.ones_like(ids)
    job = job_of(pair)
    plan = next(plan for plan in job.plans if plan.name == "text_encoder")
    with plan.module() as module:
        made = module(ids, mask)
    for other in (expected, reference):
        hidden = other(input_ids=ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(made, hidden, rtol=0, atol=2e-5)
    assert any("text_projection.weight" in note for note in job.notes)


def test_other_weights_are_refused(pair):
    make.add_weights(pair[1] / "text_encoder", **{"text_model.extra.weight": torch.ones(1)})
    with pytest.raises(UsageError, match=r"unexpected weight 'text_model\.extra\.weight'"):
        job_of(pair)


def test_the_projection_of_another_component_is_refused(pair):
    make.add_weights(pair[1] / "prior", **{"text_projection.weight": torch.ones(1)})
    with pytest.raises(UsageError, match="unexpected weight"):
        job_of(pair)


def test_inspect_reads_configs_alone(capsys, folders, tmp_path):
    pair = tuple(shutil.copytree(folder, tmp_path / folder.name) for folder in folders("public"))
    words = ["inspect", "-m", str(pair[0]), "--prior", str(pair[1]), "--json"]
    words += ["--height", "1024", "--width", "1024"]
    assert main(words) == 0
    whole = capsys.readouterr().out
    make.configs_alone(pair)
    assert {path.name for root in pair for path in root.rglob("*.*")} == {"config.json"}
    assert main(words) == 0
    assert capsys.readouterr().out == whole


def test_inspect_says_what_it_ignored(capsys, pair):
    make.with_every_key(pair)
    assert main(["inspect", "-m", str(pair[0]), "--prior", str(pair[1]), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) and err.startswith("note: ") and "text_encoder/config.json" in err
