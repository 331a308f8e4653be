"""`exporter inspect` counts from configs alone."""

import contextlib
import io
import json
import math

import pytest
import tiny
import torch
from diffusers.pipelines.deprecated.wuerstchen import WuerstchenPrior
from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import (
    WuerstchenDiffNeXt,
)
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from exporter.checkpoint.shapes import stage_b_shapes, stage_c_shapes, text_shapes
from exporter.cli import main
from exporter.graphs import stage_a_shapes

STAGE_C = {"c_in": 16, "c": 1536, "c_cond": 1280, "c_r": 64, "depth": 32, "nhead": 24}
TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "gelu"}
TABLE = {  # design: the components of the public checkpoints
    "text_encoder": 693_021_440,
    "stage_c": 993_636_896,
    "decoder_text_encoder": 352_984_064,
    "stage_b": 1_055_365_280,
    "stage_a": 15_704_526 + 2_316,
}


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """The public configs, without any weights."""
    root = tmp_path_factory.mktemp("public")
    decoder, prior = root / "wuerstchen", root / "wuerstchen-prior"

    def write(path, cls, **config):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"_class_name": cls} | config))

    write(decoder / "decoder/config.json", "WuerstchenDiffNeXt")
    write(decoder / "vqgan/config.json", "PaellaVQModel")
    write(prior / "prior/config.json", "WuerstchenPrior", **STAGE_C)
    for folder, width, layers, heads in ((decoder, 1024, 24, 16), (prior, 1280, 32, 20)):
        write(
            folder / "text_encoder/config.json",
            "CLIPTextModel",
            **TEXT,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
        )
        write(folder / "scheduler/scheduler_config.json", "DDPMWuerstchenScheduler")
        write(folder / "model_index.json", "Pipeline")
        (folder / "tokenizer").mkdir()
    return decoder, prior


def inspect(pair, *words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["inspect", "-m", str(pair[0]), "--prior", str(pair[1]), "--json", *words])
    assert code == 0
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def inspected(public):
    """What is printed without options, which takes seconds at these sizes."""
    return inspect(public)


@pytest.fixture(scope="module")
def graphs(inspected):
    return {graph["name"]: graph for graph in inspected["graphs"]}


def test_public_parameter_counts_equal_the_table(inspected):
    assert inspected["components"] == TABLE


def test_public_flops_are_torchs_less_what_the_rewrites_save(graphs, monkeypatch):
    """FLOPs per step, against torch's counter over the reference module on the meta device."""
    # Weights without values need none drawn, which the reference does once per enclosing module.
    monkeypatch.setattr(WuerstchenDiffNeXt, "_init_weights", lambda self, module: None)
    with torch.device("meta"):
        stage_b, stage_c = WuerstchenDiffNeXt(), WuerstchenPrior(**STAGE_C)
    with torch.device("meta"), FlopCounterMode(display=False) as flops:
        stage_b(
            torch.empty(1, 4, 256, 256), torch.empty(1), torch.empty(1, 16, 24, 24),
            torch.empty(1, 77, 1024),
        )  # fmt: skip
    reference_b = flops.get_total_flops()
    # Rewrites 1 and 5: 2.858 to 2.344 TFLOP, attention's products counted.
    assert 0.80 < graphs["stage_b"]["flops"] / reference_b < 0.83
    with torch.device("meta"), FlopCounterMode(display=False) as flops:
        stage_c(torch.empty(2, 16, 24, 24), torch.empty(2), torch.empty(2, 77, 1280))
    # The text's share moved into the condition graph, to the last multiplication (rewrite 5).
    both = graphs["stage_c"]["flops"] + graphs["stage_c_condition"]["flops"]
    assert both == flops.get_total_flops()
    assert (graphs["stage_c"]["runs"], graphs["stage_b"]["runs"]) == (29, 12)
    for graph in graphs.values():
        assert graph["peak_bytes"] > 4 * graph["parameters"]


def test_text_encoders_are_counted_with_the_negative_prompts(graphs, public):
    """Both encode prompts and negative prompts in one batch: transformers' module at batch 2."""
    for name, folder in (("text_encoder", public[1]), ("decoder_text_encoder", public[0])):
        value = json.loads((folder / "text_encoder/config.json").read_text())
        value.pop("_class_name")
        with torch.device("meta"), FlopCounterMode(display=False) as flops:
            module = CLIPTextModel(CLIPTextConfig(**value, attn_implementation="eager"))
            module(torch.zeros(2, 77, dtype=torch.int64), torch.ones(2, 77, dtype=torch.int64))
        assert graphs[name]["flops"] == flops.get_total_flops()


def test_dropping_stage_bs_text_drops_its_text_encoder(inspected, public):
    kept = inspected["disk_bytes"]["fp32"]
    dropped = inspect(public, "--stage-b-text", "drop")["disk_bytes"]["fp32"]
    assert kept - dropped > 4 * 352_984_064


def test_the_table_is_printed(capsys, public):
    assert main(["inspect", "-m", str(public[0]), "--prior", str(public[1])]) == 0
    out = capsys.readouterr().out
    assert "1,055,365,280" in out and "TFLOP a picture" in out


@pytest.mark.parametrize("name", list(tiny.TINY))
def test_shape_tables_equal_the_state_dicts(checkpoint, name):
    found, reference = checkpoint(name), tiny.reference(name)
    tables = {
        "stage_c": stage_c_shapes(found.stage_c.config),
        "stage_b": stage_b_shapes(found.stage_b.config),
        "stage_a": stage_a_shapes(found.stage_a.config),
        "text_encoder": text_shapes(found.text_encoder.config),
        "decoder_text_encoder": text_shapes(found.decoder_text_encoder.config),
    }
    for component, table in tables.items():
        state = getattr(reference, component).state_dict()
        assert table == {key: tuple(value.shape) for key, value in state.items()}
        assert sum(map(math.prod, table.values())) == sum(v.numel() for v in state.values())
