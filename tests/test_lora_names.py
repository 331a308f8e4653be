"""Adapters by kohya's sd-scripts and OneTrainer, text encoders' too, against merged references."""

import json
import shutil

import adapters
import pytest
import tiny
import torch
from diffusers import DDPMWuerstchenScheduler
from diffusers.pipelines.deprecated.wuerstchen import WuerstchenPriorPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from exporter.checkpoint.find import find_pair
from exporter.checkpoint.lora import open_lora
from exporter.checkpoint.lora_file import LoraFile
from exporter.checkpoint.lora_names import Target, spellings
from exporter.checkpoint.open import open_checkpoint
from exporter.cli import main
from exporter.fingerprint import Fingerprints
from exporter.graphs import lora_shapes, plan_graphs
from exporter.job import check_job
from exporter.options import ExportOptions
from runtimes.bundle.read import open_bundle
from runtimes.errors import UsageError
from runtimes.tolerances import LIMITS
from validation.parity.metrics import difference

NAME = "one_level"
LIMIT = LIMITS["fp32"].graph_error / 10
TOKENS = torch.arange(3, 157).view(2, 77)
MASK = (torch.arange(77) < torch.tensor([[77], [30]])).long()
WEIGHTS = "pytorch_lora_weights.safetensors"


def checkpoint_of(folders):
    return open_checkpoint(*find_pair(*map(str, folders)), None)


def exported(folders, *loras):
    """Hidden states of both text encoders and epsilon, of the export form with adapters."""
    checkpoint = checkpoint_of(folders)
    opened = tuple(open_lora(lora, lora_shapes(checkpoint)) for lora in loras)
    plans = {p.name: p for p in plan_graphs(checkpoint, "nchw", text=True, loras=opened)}
    latents, t = noise()
    with (
        plans["text_encoder"].module() as text_encoder,
        plans["decoder_text_encoder"].module() as decoder_text,
        plans["stage_c_condition"].module() as condition,
        plans["stage_c"].module() as stage_c,
    ):
        hidden = text_encoder(TOKENS, MASK)
        embedding = tiny.reference(NAME).stage_c.gen_r_embedding(t)
        epsilon = stage_c(latents, embedding, condition(hidden))
        return hidden, decoder_text(TOKENS, MASK), epsilon


def expected(text_encoder, prior):
    latents, t = noise()
    with torch.no_grad():
        hidden = text_encoder(TOKENS, attention_mask=MASK).last_hidden_state
        return hidden, prior(latents, t, hidden)


def noise():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 8, 5, 7, generator=generator), torch.tensor([0.9, 0.2])


def assert_close(one, other) -> None:
    assert difference(one.numpy(), other.numpy()).relative < LIMIT


@pytest.fixture(scope="module")
def updates():
    """Updates of every layer of the prior and of its text encoder, of different ranks."""
    source = tiny.reference(NAME)
    prior = adapters.trained(source.stage_c)
    assert len(prior) == 1 + 2 + 2 * 8 + 1  # projection, cond_mapper, two levels, out
    return prior, adapters.trained(source.text_encoder, rank=2, alpha=3.0, seed=6)


SPELLINGS = {
    "kohya": (adapters.kohya, "lora_unet_", "lora_te_"),
    "kohya, two text encoders": (adapters.kohya, "lora_unet_", "lora_te1_"),
    "OneTrainer, underscores": (adapters.kohya, "lora_prior_unet_", "lora_prior_te_"),
    "OneTrainer, without unet": (adapters.kohya, "lora_prior_", "lora_te_"),
    "OneTrainer, dots": (adapters.dotted, "lora_prior_unet.", "lora_prior_te."),
    "OneTrainer for diffusers": (adapters.diffusers, "prior.", "text_encoder."),
    "OneTrainer for ComfyUI": (adapters.comfy, "diffusion_model.", "text_encoder."),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_both_parts_are_fused(folders, updates, tmp_path, spelling):
    """At weight 0.7; Stage B's text encoder stays as it is."""
    write, *prefixes = SPELLINGS[spelling]
    file = tmp_path / "style.safetensors"
    first, second = (write(u, p) for u, p in zip(updates, prefixes, strict=True))
    save_file(first | second, file)
    hidden, decoder_hidden, epsilon = exported(folders(NAME), LoraFile(file, 0.7))
    source = tiny.reference(NAME)
    text_encoder = adapters.merged(source.text_encoder, updates[1], 0.7)
    prior = adapters.merged(source.stage_c, updates[0], 0.7)
    for one, other in zip((hidden, epsilon), expected(text_encoder, prior), strict=True):
        assert_close(one, other)
    with torch.no_grad():
        plain = source.decoder_text_encoder(TOKENS, attention_mask=MASK).last_hidden_state
    assert_close(decoder_hidden, plain)
    assert (
        difference(hidden.numpy(), expected(source.text_encoder, prior)[0].numpy()).relative > 0.1
    )


def test_names_without_text_model(folders, updates, tmp_path):
    """transformers 5 has no such level in its CLIPTextModel."""
    plain = {name.removeprefix("text_model."): update for name, update in updates[1].items()}
    save_file(adapters.kohya(plain, "lora_te_"), tmp_path / "a.safetensors")
    save_file(adapters.dotted(plain, "text_encoder."), tmp_path / "b.safetensors")
    source = tiny.reference(NAME)
    wanted = expected(adapters.merged(source.text_encoder, updates[1]), source.stage_c)
    for name in ("a", "b"):
        hidden, _, epsilon = exported(folders(NAME), LoraFile(tmp_path / f"{name}.safetensors"))
        for one, other in zip((hidden, epsilon), wanted, strict=True):
            assert_close(one, other)


def test_a_missing_alpha_is_the_rank(folders, updates, tmp_path):
    """So kohya's loader reads its oldest files: of one layer or of all, whatever the ranks."""
    mixed = dict(updates[1])
    name = next(iter(mixed))
    mixed[name] = adapters.Update(mixed[name].down[:1], mixed[name].up[:, :1].contiguous(), 1.0)
    tensors = adapters.kohya(mixed, "lora_te_")
    del tensors[f"lora_te_{name.replace('.', '_')}.alpha"]
    save_file(tensors, tmp_path / "old.safetensors")
    source = tiny.reference(NAME)
    wanted = expected(adapters.merged(source.text_encoder, mixed), source.stage_c)
    assert_close(exported(folders(NAME), LoraFile(tmp_path / "old.safetensors"))[0], wanted[0])


def peft_updates(module, config, seed):
    module.add_adapter(config, "default")
    state = get_peft_model_state_dict(module, adapter_name="default")
    generator = torch.Generator().manual_seed(seed)
    return {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in state.items()}


def test_diffusers_own_pipeline(folders, tmp_path):
    """Saved with each part's configuration by diffusers, which loads it to the same result."""
    configs = {
        "prior": LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "to_out.0"]),
        "text_encoder": LoraConfig(
            r=2,
            lora_alpha=7,
            target_modules=["q_proj", "fc1"],
            rank_pattern={"mlp.fc1": 3},
            alpha_pattern={"layers.1.self_attn.q_proj": 1},
        ),
    }
    source = tiny.reference(NAME)
    states = {
        "prior": peft_updates(source.stage_c, configs["prior"], 1),
        "text_encoder": peft_updates(source.text_encoder, configs["text_encoder"], 2),
    }
    metadata = {part: config.to_dict() for part, config in configs.items()}
    WuerstchenPriorPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=states["prior"],
        text_encoder_lora_layers=states["text_encoder"],
        unet_lora_adapter_metadata=metadata["prior"],
        text_encoder_lora_adapter_metadata=metadata["text_encoder"],
    )
    fresh = tiny.reference(NAME)
    tokenizer = CLIPTokenizer.from_pretrained(tiny.TOKENIZER)
    pipeline = WuerstchenPriorPipeline(
        tokenizer, fresh.text_encoder, fresh.stage_c, DDPMWuerstchenScheduler()
    )
    pipeline.load_lora_weights(tmp_path, weight_name=WEIGHTS)
    assert pipeline.get_active_adapters()
    hidden, _, epsilon = exported(folders(NAME), LoraFile(tmp_path / WEIGHTS))
    wanted = expected(pipeline.text_encoder.eval(), pipeline.prior.eval())
    for one, other in zip((hidden, epsilon), wanted, strict=True):
        assert_close(one, other)


def test_a_peft_folder_of_a_text_encoder(folders, tmp_path):
    config = {"r": 3, "lora_alpha": 5, "target_modules": ["v_proj", "fc2"]}
    text_encoder = tiny.reference(NAME).text_encoder
    state = peft_updates(text_encoder, LoraConfig(**config), 3)
    text_encoder.load_state_dict(
        {k.replace(".weight", ".default.weight"): v for k, v in state.items()}, strict=False
    )
    file = tmp_path / "adapter_model.safetensors"
    save_file({f"base_model.model.{k}": v for k, v in state.items()}, file)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LORA"}))
    wanted = expected(text_encoder.eval(), tiny.reference(NAME).stage_c)
    assert_close(exported(folders(NAME), LoraFile(file))[0], wanted[0])


@pytest.fixture
def shared_folders(tmp_path):
    """The paper's layout: both pipelines have the same text encoder, file for file."""
    decoder, prior = tiny.save(tiny.reference(NAME), tmp_path / "checkpoint")
    shutil.rmtree(decoder / "text_encoder")
    shutil.copytree(prior / "text_encoder", decoder / "text_encoder")
    return decoder, prior


def job_of(folders, *loras):
    options = ExportOptions(loras=tuple(loras))
    return check_job(checkpoint_of(folders), options)


def test_a_shared_text_encoder_is_no_longer_shared(shared_folders, updates, tmp_path):
    """In diffusers an adapter changes the prior pipeline's object, not the decoder's."""
    text, prior = (tmp_path / f"{name}.safetensors" for name in ("text", "prior"))
    save_file(adapters.kohya(updates[1], "lora_te_"), text)
    save_file(adapters.kohya(updates[0], "lora_unet_"), prior)
    names = {
        file: [plan.name for plan in job_of(shared_folders, *map(LoraFile, file)).plans]
        for file in ((), (prior,), (text,))
    }
    assert names[()] == names[(prior,)] and "decoder_text_encoder" not in names[()]
    assert names[(text,)].count("decoder_text_encoder") == 1
    words = ["-m", shared_folders[0], "--prior", shared_folders[1], "--quiet", "--lora", text]
    words += ["--modules", "text_encoder", "decoder_text_encoder"]
    assert main([str(word) for word in (tmp_path / "bundle", *words)]) == 0
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.text_graphs == {
        "stage_c": "text_encoder",
        "stage_b": "decoder_text_encoder",
    }
    assert [adapter.id for adapter in bundle.manifest.adapters] == ["text.safetensors"]
    one, other = (
        (tmp_path / "bundle" / name / "model.onnx").read_bytes()
        for name in ("text_encoder", "decoder_text_encoder")
    )
    assert one != other


def test_origins_know_whose_adapter_it_is(folders, updates, tmp_path):
    file = tmp_path / "text.safetensors"
    save_file(adapters.kohya(updates[1], "lora_te_"), file)
    plain, adapted, weaker = (
        {plan.name: Fingerprints(job).of(plan) for plan in job.plans}
        for job in (
            job_of(folders(NAME), *loras)
            for loras in ((), (LoraFile(file),), (LoraFile(file, 0.5),))
        )
    )
    assert len({origins["text_encoder"] for origins in (plain, adapted, weaker)}) == 3
    assert {name for name in plain if plain[name] != adapted[name]} == {"text_encoder"}


METHODS = {
    "lora_unet_blocks_2_attention_to_q.dora_scale": "DoRA",
    "prior.blocks.2.attention.to_q.lora_magnitude_vector.weight": "DoRA",
    "lora_unet_blocks_2_attention_to_q.lokr_w1": "LoKr",
    "lora_unet_blocks_2_attention_to_q.lokr_w2_a": "LoKr",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": "LoHa",
    "lora_unet_blocks_0_channelwise_0.lora_mid.weight": "LoRA with a Tucker core (lora_mid)",
    "lora_prior_unet_blocks_2_attention_to_q.oft_R.weight": "OFT",
    "lora_unet_blocks_2_attention_to_q.diff": "an adapter with differences of whole weights",
    "text_model.embeddings.token_embedding.lora_embedding_A": "LoRA of an embedding table",
    "bundle_emb.my-style.clip_g": "LoRA with embeddings bundled into it",
}


@pytest.mark.parametrize("key", METHODS)
def test_other_methods_are_refused_by_name(capsys, folders, updates, tmp_path, key):
    """Even beside plain layers, which alone would give another picture than was trained."""
    tensors = adapters.kohya(updates[0], "lora_unet_") | {key: torch.ones(4, 40)}
    assert f"'{key}' belongs to {METHODS[key]}, which" in refusal(
        capsys, folders, tmp_path, tensors
    )


def refusal(capsys, folders, tmp_path, tensors) -> str:
    save_file(tensors, tmp_path / "odd.safetensors")
    decoder, prior = folders(NAME)
    words = [tmp_path / "out", "-m", decoder, "--prior", prior]
    assert main([str(w) for w in (*words, "--lora", tmp_path / "odd.safetensors")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --lora ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    return err


@pytest.mark.parametrize(
    "key",
    [
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "lora_unet_blocks_2_attention_to_x.lora_down.weight",
        "lora_unet_down_blocks_0_2_attention_to_q.lora_down.weight",  # Stable Cascade
        "lora_te_text_model_embeddings_token_embedding.lora_down.weight",
        "lora_decoder_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    ],
)
def test_unknown_names_are_refused(capsys, folders, updates, tmp_path, key):
    tensors = adapters.kohya(updates[0], "lora_unet_") | {key: torch.ones(4, 40)}
    assert f"'{key}' fits no weight" in refusal(capsys, folders, tmp_path, tensors)


def test_one_weight_in_two_spellings_is_refused(capsys, folders, updates, tmp_path):
    tensors = adapters.kohya(updates[0], "lora_unet_")
    tensors |= {key: value.clone() for key, value in adapters.dotted(updates[0], "prior.").items()}
    assert "are for one weight" in refusal(capsys, folders, tmp_path, tensors)


def test_alphas_of_some_layers_alone_are_refused(capsys, folders, updates, tmp_path):
    """diffusers takes the commonest alpha for the others, kohya's loader each one's rank."""
    tensors = adapters.comfy(updates[0], "prior.")
    del tensors["prior.out.1.alpha"]
    assert "'out.1' has no alpha and others have" in refusal(capsys, folders, tmp_path, tensors)


def test_ambiguous_names_are_refused(folders, tmp_path):
    """No Wuerstchen has such weights: two of them differ only in what is a dot."""
    shapes = {"prior": {"a.b_c.weight": (4, 4), "a_b.c.weight": (4, 4)}, "text_encoder": {}}
    assert spellings(shapes)["lora_unet_a_b_c"] == {
        Target("prior", "a.b_c"),
        Target("prior", "a_b.c"),
    }
    file = tmp_path / "a.safetensors"
    save_file({"lora_unet_a_b_c.lora_down.weight": torch.ones(2, 4)}, file)
    with pytest.raises(UsageError, match=r"may be for a.b_c or a_b.c; rename it with dots"):
        open_lora(LoraFile(file), shapes)


@pytest.mark.parametrize("name", tiny.TINY)
def test_no_name_of_a_checkpoint_is_ambiguous(folders, name):
    """And every layer that a trainer would find has one."""
    table = spellings(lora_shapes(checkpoint_of(folders(name))))
    assert {len(targets) for targets in table.values()} == {1}
    source = tiny.reference(name)
    for prefix, module in (("lora_unet_", source.stage_c), ("lora_te_", source.text_encoder)):
        for layer in adapters.trained(module):
            (target,) = table[prefix + layer.replace(".", "_")]
            assert target.module == layer
