"""LoRA adapters fused into the prior, against diffusers with the adapter loaded by PEFT."""

import json

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from exporter.checkpoint.find import find_pair
from exporter.checkpoint.lora import open_lora
from exporter.checkpoint.lora_file import LoraFile, parse_lora
from exporter.checkpoint.open import open_checkpoint
from exporter.cli import main
from exporter.graphs import lora_shapes, plan_graphs
from runtimes.bundle.read import open_bundle
from runtimes.errors import UsageError
from runtimes.tolerances import LIMITS
from validation.parity.metrics import difference

NAME = "one_level"  # two blocks, 40 wide
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
LIMIT = LIMITS["fp32"].graph_error / 10
WEIGHTS = "pytorch_lora_weights.safetensors"


def adapted(seed=7, **config):
    """The reference prior with a random adapter, and the adapter's tensors by PEFT's names."""
    prior = tiny.reference(NAME).stage_c
    prior.add_adapter(LoraConfig(**({"r": 4, "target_modules": ATTENTION} | config)), "one")
    state = get_peft_model_state_dict(prior, adapter_name="one")
    generator = torch.Generator().manual_seed(seed)
    state = {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in state.items()}
    set_peft_model_state_dict(prior, state, adapter_name="one")
    return prior.eval(), state


def epsilon_of(folders, *loras) -> torch.Tensor:
    """What the exporter's two graphs of Stage C make of fixed inputs, adapters fused."""
    checkpoint = open_checkpoint(*find_pair(*map(str, folders(NAME))), None)
    opened = tuple(open_lora(lora, lora_shapes(checkpoint)) for lora in loras)
    plans = {p.name: p for p in plan_graphs(checkpoint, "nchw", text=True, loras=opened)}
    x, t, text = inputs()
    with plans["stage_c_condition"].module() as condition, plans["stage_c"].module() as stage_c:
        embedding = tiny.reference(NAME).stage_c.gen_r_embedding(t)
        return stage_c(x, embedding, condition(text))


def inputs():
    generator = torch.Generator().manual_seed(1)
    x, text = (torch.randn(s, generator=generator) for s in ((2, 8, 5, 7), (2, 77, 32)))
    return x, torch.tensor([0.9, 0.2]), text


def error(found, expected) -> float:
    return difference(found.numpy(), expected.numpy()).relative


@pytest.fixture
def saved(tmp_path):
    """A plain adapter of rank 4 as diffusers' LoRA training saves it."""
    prior, state = adapted()
    save_file({f"unet.{k}": v for k, v in state.items()}, tmp_path / WEIGHTS)
    return prior, state, tmp_path / WEIGHTS


def test_an_adapter_saved_by_diffusers_is_fused(folders, tmp_path):
    """Alpha, ranks and alphas of single layers, rsLoRA: all in the header of the file."""
    prior, _ = adapted(
        lora_alpha=6,
        use_rslora=True,
        rank_pattern={"to_out.0": 2, "blocks.2.attention.to_q": 3},
        alpha_pattern={"blocks.5.attention.to_v": 11},
    )
    prior.save_lora_adapter(tmp_path, adapter_name="one")
    expected = prior(*inputs())
    assert error(epsilon_of(folders, LoraFile(tmp_path / WEIGHTS)), expected) < LIMIT
    plain = tiny.reference(NAME).stage_c(*inputs())
    assert error(plain, expected) > 0.01  # it does matter
    # Loaded from the file again, diffusers agrees, at another weight too.
    loaded = tiny.reference(NAME).stage_c
    loaded.load_lora_adapter(
        str(tmp_path), prefix=None, adapter_name="again", weight_name=WEIGHTS, use_safetensors=True
    )
    loaded.set_adapters("again", weights=0.4)
    found = epsilon_of(folders, LoraFile(tmp_path / WEIGHTS, 0.4))
    assert error(found, loaded.eval()(*inputs())) < LIMIT


def test_a_peft_folder_is_fused(folders, tmp_path):
    """adapter_model.safetensors with adapter_config.json beside it; convolutions and Linears."""
    config = {"r": 5, "lora_alpha": 8, "rank_pattern": {"kv_mapper.1": 2}}
    targets = [*ATTENTION, "kv_mapper.1", "channelwise.0", "mapper", "projection", "cond_mapper.2"]
    prior, state = adapted(**config, target_modules=targets)
    file = tmp_path / "adapter_model.safetensors"
    save_file({f"base_model.model.{k}": v for k, v in state.items()}, file)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LORA"}))
    assert parse_lora(str(tmp_path)).path == file
    assert error(epsilon_of(folders, LoraFile(file)), prior(*inputs())) < LIMIT


def test_two_adapters_add_up(folders, tmp_path):
    prior, first = adapted()
    _, second = adapted(seed=8, r=2)
    prior.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=ATTENTION), "two")
    set_peft_model_state_dict(prior, second, adapter_name="two")
    prior.set_adapters(["one", "two"], weights=[0.5, -1.5])
    files = []
    for name, state in (("a", first), ("b", second)):
        files.append(tmp_path / f"{name}.safetensors")
        save_file({f"prior.{key}": value for key, value in state.items()}, files[-1])
    # LoraConfig's own alpha is 8: the file of the first says nothing, so it counts as its rank.
    loras = (LoraFile(files[0], 0.5 * 8 / 4), LoraFile(files[1], -1.5))
    assert error(epsilon_of(folders, *loras), prior.eval()(*inputs())) < LIMIT


@pytest.mark.parametrize(
    "spelling",
    [
        "unet.{0}.{1}.lora_{2}.weight",
        "prior.{0}.{1}.lora.{3}.weight",
        "{0}.processor.{4}_lora.{3}.weight",
        "base_model.model.{0}.{1}.lora_{2}.default.weight",
        "unet.{0}.{1}.lora_linear_layer.{3}.weight",
    ],
)
def test_every_spelling_is_the_same_adapter(folders, saved, tmp_path, spelling):
    _, state, file = saved
    renamed = {}
    for key, value in state.items():
        block, rest = key.split(".attention.")
        module, side = rest.removesuffix(".weight").split(".lora_")
        names = (f"{block}.attention", module, side, {"A": "down", "B": "up"}[side])
        renamed[spelling.format(*names, module.removesuffix(".0"))] = value
    save_file(renamed, tmp_path / "renamed.safetensors")
    found = epsilon_of(folders, LoraFile(tmp_path / "renamed.safetensors"))
    assert torch.equal(found, epsilon_of(folders, LoraFile(file)))


def test_alphas_in_the_file_count(folders, saved, tmp_path):
    """alpha / rank = 3 / 4 on every layer is a weight of 0.75."""
    _, state, file = saved
    alphas = {key.split(".lora_")[0] + ".alpha": torch.tensor(3.0) for key in state}
    save_file(state | alphas, tmp_path / "alphas.safetensors")
    found = epsilon_of(folders, LoraFile(tmp_path / "alphas.safetensors"))
    assert torch.equal(found, epsilon_of(folders, LoraFile(file, 0.75)))


def test_weights_are_rounded_once(folders, saved):
    _, state, file = saved
    checkpoint = open_checkpoint(*find_pair(*map(str, folders(NAME))), None)
    lora = open_lora(LoraFile(file, 0.3), lora_shapes(checkpoint))
    plan = next(
        p
        for p in plan_graphs(checkpoint, "nchw", text=True, loras=(lora,))
        if p.name == "stage_c_condition"
    )
    name = "blocks.2.attention.to_k"
    with plan.weights() as weights:
        found = weights[f"{name}.weight"]
    up, down = (state[f"{name}.lora_{side}.weight"].double() for side in "BA")
    own = tiny.reference(NAME).stage_c.state_dict()[f"{name}.weight"].double()
    assert torch.equal(found, (own + 0.3 * (up @ down)).float())


def test_the_bundle_says_what_was_fused(folders, saved, tmp_path, capsys):
    words = ["-m", folders(NAME)[0], "--prior", folders(NAME)[1], "--modules", "stage_c_condition"]
    lora = ["--lora", f"{saved[2]}:0.5"]
    assert main([str(w) for w in (tmp_path / "b", *words, *lora, "--quiet")]) == 0
    (adapter,) = open_bundle(tmp_path / "b").manifest.adapters
    assert (adapter.id, adapter.scale, len(adapter.sha256)) == (tmp_path.name, 0.5, 64)
    assert main([str(w) for w in (tmp_path / "plain", *words, "--quiet")]) == 0
    assert open_bundle(tmp_path / "plain").manifest.adapters == ()
    data = "stage_c_condition/model.onnx"
    assert (tmp_path / "b" / data).read_bytes() != (tmp_path / "plain" / data).read_bytes()


def refused(capsys, folders, tmp_path, lora, *message) -> None:
    words = [tmp_path / "out", "-m", folders(NAME)[0], "--prior", folders(NAME)[1], "--lora", lora]
    assert main([str(word) for word in words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --lora ") and err.count("\n") == 1
    for part in message:
        assert part in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ("nothing.safetensors", "no such file or folder"),
        (f"{WEIGHTS}:strong", "the scale 'strong' is no number"),
        (f"{WEIGHTS}:nan", "the scale 'nan' is no number"),
        (f"{WEIGHTS}:", "the scale '' is no number"),
        ("pickle.bin", "is a pickle"),
        ("pickles", "is a pickle"),
        ("empty", "holds none of adapter_model.safetensors"),
        ("both", "give one of the files"),
        ("text.safetensors", "is truncated or no safetensors file"),
    ],
)
def test_what_is_no_adapter(capsys, folders, saved, tmp_path, lora, message):
    for name in ("pickles", "empty", "both"):
        (tmp_path / name).mkdir()
    for name in ("pickle.bin", "pickles/pytorch_lora_weights.bin", "text.safetensors"):
        (tmp_path / name).write_text("text")
    for name in (WEIGHTS, "adapter_model.safetensors"):
        (tmp_path / "both" / name).write_bytes(saved[2].read_bytes())
    refused(capsys, folders, tmp_path, tmp_path / lora, message)


FIRST = "unet.blocks.2.attention.to_q.lora_"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unet.blocks.99.attention.to_q.lora_A.weight": (4, 40)}, "fits no weight of the prior"),
        ({"text_encoder_2.layers.0.q_proj.lora_A.weight": (4, 32)}, "'text_encoder_2.layers.0"),
        ({"unet.blocks.2.attention.to_q.lora_magnitude_vector": (40,)}, "belongs to DoRA"),
        ({f"{FIRST}A.weight": (3, 40)}, "has ranks 3 and 4"),
        ({f"{FIRST}B.weight": (41, 4)}, "is for a weight of 41 x 40, the prior's has shape"),
        ({f"{FIRST}A.weight": None}, "has no down projection"),
        ({f"{FIRST}A.weight": (4,)}, "is no matrix of floating point"),
        ({"unet.blocks.2.attention.to_q.alpha": (2,)}, "is no single number"),
        ({"unet.blocks.2.kv_mapper.1.alpha": ()}, "is for a weight it does not adapt"),
    ],
)
def test_tensors_that_do_not_fit(capsys, folders, saved, tmp_path, change, message):
    state = load_file(saved[2])
    state |= {key: torch.ones(shape) for key, shape in change.items() if shape is not None}
    state = {key: value for key, value in state.items() if change.get(key, ()) is not None}
    save_file(state, tmp_path / "changed.safetensors")
    refused(capsys, folders, tmp_path, tmp_path / "changed.safetensors", message)


def test_an_adapter_for_something_else(capsys, folders, tmp_path):
    other = {"text_encoder_2.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)}
    save_file(other, tmp_path / WEIGHTS)
    refused(capsys, folders, tmp_path, tmp_path, "has nothing for the prior", "text_encoder_2.")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 8}, "has rank 4, its configuration says 8"),
        ({"r": 4, "rank_pattern": {"blocks.5.attention.to_v": 2}}, "its configuration says 2"),
        ({"use_dora": True}, "use_dora True cannot be fused"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA' cannot be fused"),
        ({"bias": "all"}, "bias 'all' cannot be fused"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens [1, 2] cannot be fused"),
        ({"lora_alpha": "much"}, "lora_alpha: expected float, found str"),
        ({"alpha_pattern": {"(": 1}}, "has no pattern '('"),
        ({"rank_pattern": {"to_q": "4"}}, "rank_pattern.to_q: expected int, found str"),
        ([1], "holds no JSON object"),
    ],
)
def test_configurations(capsys, folders, saved, tmp_path, config, message):
    saved[2].rename(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    refused(capsys, folders, tmp_path, tmp_path, message)


def test_a_configuration_that_is_no_text(capsys, folders, saved, tmp_path):
    saved[2].rename(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes(b"\xff\xfe")
    refused(capsys, folders, tmp_path, tmp_path, "adapter_config.json is not valid JSON: 'utf-8'")


def test_a_path_with_a_colon(saved, tmp_path):
    odd = tmp_path / "0.5:0.25"
    odd.mkdir()
    (odd / WEIGHTS).write_bytes(saved[2].read_bytes())
    assert parse_lora(str(odd)) == LoraFile(odd / WEIGHTS)
    assert parse_lora(f"{odd}:2") == LoraFile(odd / WEIGHTS, 2.0)
    with pytest.raises(UsageError, match="no such file"):
        parse_lora(f"{odd}x:2")
