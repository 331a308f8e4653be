"""Checkpoints as they are found: what is taken, what is ignored, what is said instead."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints_found as make
import numpy as np
import pytest
import torch
from diffusers import WuerstchenPriorPipeline, pipelines
from diffusers.pipelines.deprecated import wuerstchen
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from exporter.cli import main
from exporter.components import open_checkpoint
from exporter.configs import SchedulerConfig, StageAConfig, TextConfig, parse_config
from exporter.folders import hub_id
from exporter.harmless import CONFIG_KEYS
from exporter.job import checked
from exporter.options import ExportOptions, resolve
from exporter.sources import DEMO, find_pair
from runtimes.errors import UsageError
from runtimes.options import Options
from runtimes.pipeline import Pipeline
from validation.cli import main as validate
from validation.tolerances import SAME_SEED_LEVELS

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
    return checked(opened(pair), resolve(ExportOptions()))


def refused(capsys, tmp_path, *words):
    """The one line of an export that is refused before anything is written."""
    output = tmp_path / "out" / "bundle"
    assert main([str(word) for word in (output, *words)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
    return err


# Harmless extras


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
    assert second == (
        f"{pair[0] / 'decoder/config.json'}: ignored, it changes nothing here: config key sample_size"
    )


@pytest.mark.parametrize("found", [make.with_projection, make.as_whole_clip])
def test_text_encoders_of_other_classes(pair, found):
    """Hidden states equal those of transformers' CLIPTextModel, loaded from the same folder."""
    expected = CLIPTextModel.from_pretrained(pair[1] / "text_encoder")
    found(pair)
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


# Variants and shards

INDEXES = [
    (".safetensors.index.fp16.json", ".fp16{n}.safetensors", True),
    (".safetensors.fp16.index.json", "{n}.fp16.safetensors", True),  # diffusers before 0.32
    (".fp16.safetensors.index.json", ".fp16{n}.safetensors", False),  # other tools
]


@pytest.mark.parametrize(("index", "shard", "diffusers_reads_it"), INDEXES)
def test_every_name_of_an_index(pair, index, shard, diffusers_reads_it):
    expected = load_file(make.weights_of(pair[1] / "prior"))
    make.to_shards(pair[1] / "prior", index, shard)
    found = opened(pair, "fp16").stage_c
    tensors = {k: v for file in found.files for k, v in load_file(file).items()}
    assert (found.variant, len(found.files)) == ("fp16", 2)
    assert tensors.keys() == expected.keys()
    if diffusers_reads_it:
        module = wuerstchen.WuerstchenPrior.from_pretrained(pair[1] / "prior", variant="fp16")
        assert all(torch.equal(module.state_dict()[k], v) for k, v in tensors.items())


@pytest.mark.parametrize("names", [["prior", "text_encoder"], ["prior"], ["text_encoder"]])
def test_a_variant_falls_back_where_diffusers_does(pair, monkeypatch, names):
    """The values of the files taken are those that diffusers' pipeline loads."""
    monkeypatch.setattr(pipelines, "wuerstchen", wuerstchen, raising=False)
    for name in names:
        make.to_variant(pair[1] / name, keep=True)
    found = opened(pair, "fp16")
    kind = {"variant": "fp16", "torch_dtype": torch.float32}
    pipeline = WuerstchenPriorPipeline.from_pretrained(pair[1], **kind)
    for component, module in (
        (found.stage_c, pipeline.prior),
        (found.text_encoder, pipeline.text_encoder),
    ):
        state = module.state_dict()
        (file,) = component.files
        assert all(torch.equal(state[k], v.float()) for k, v in load_file(file).items())
    assert found.stage_b.variant == ""
    (note,) = found.notes
    assert "no fp16 weights, the plain ones are taken" in note
    assert all(str(pair[1] / name) not in note for name in names)


def test_a_single_variant_is_taken_unasked(pair):
    for folder in make.components(pair):
        make.to_variant(folder)
    found = opened(pair)
    assert {component.variant for component in found.components} == {"fp16"} == {found.variant}
    assert found.notes[0].startswith("no plain weights, the fp16 ones are taken: ")
    assert opened(pair, "fp16").notes == ()


def test_several_variants_are_named(pair):
    prior = pair[1] / "prior"
    make.to_variant(prior, "bf16", keep=True)
    shutil.copy(prior / "diffusion_pytorch_model.bf16.safetensors",
                prior / "diffusion_pytorch_model.fp16.safetensors")  # fmt: skip
    (prior / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UsageError, match="variants bf16, fp16 only: give --variant"):
        opened(pair)


def test_a_variant_that_no_component_has(pair):
    with pytest.raises(UsageError, match="--variant fp16: no component has such"):
        opened(pair, "fp16")


def test_missing_files_are_named(pair):
    prior = pair[1] / "prior"
    make.to_shards(prior, ".safetensors.index.json", "{n}.safetensors")
    (prior / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UsageError, match=r"00002-of-00002\.safetensors, which .* names, is mis"):
        opened(pair)
    (prior / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(UsageError, match=r"\.index\.json, the index of its shards, is missing"):
        opened(pair)
    (prior / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UsageError, match=r"holds no weights: diffusion_pytorch_model\.saf") as no:
        opened(pair)
    assert "pickle" not in str(no.value)


@pytest.mark.parametrize("link", ["gone", "dangling"])
def test_an_incomplete_cache_says_what_fetches_the_rest(pair, tmp_path, link):
    root = make.hub_cache(pair, tmp_path / "hub")
    snapshots = [root / f"models--owner--{f.name}/snapshots" / make.COMMITS[f.name] for f in pair]
    path = snapshots[1] / "prior/diffusion_pytorch_model.safetensors"
    (path if link == "gone" else path.resolve()).unlink()
    with pytest.raises(UsageError) as error:
        opened(snapshots)
    command = "hf download owner/wuerstchen-prior prior/diffusion_pytorch_model.safetensors"
    assert f"{command} --revision {'2' * 40}" in str(error.value)


@pytest.mark.parametrize(
    "file",
    [
        "wuerstchen/decoder/diffusion_pytorch_model.safetensors",
        "wuerstchen-prior/text_encoder/model.safetensors",
        "wuerstchen-prior/prior/config.json",
        "wuerstchen/tokenizer/vocab.json",
    ],
)
def test_git_lfs_pointers(capsys, tmp_path, pair, file):
    path = pair[0].parent / file
    make.to_pointer(path)
    err = refused(capsys, tmp_path, "-m", pair[0], "--prior", pair[1])
    assert f"{path} is a git-lfs pointer" in err and "git lfs pull" in err


def test_a_mixed_checkpoint_validates(pair, tmp_path, capsys):
    """Variants unasked in two components, shards by other tools' names in a third."""
    make.to_variant(pair[0] / "decoder")
    make.to_shards(pair[1] / "prior", ".fp16.safetensors.index.json", ".fp16{n}.safetensors")
    output = tmp_path / "bundle"
    assert main([str(w) for w in (output, "-m", pair[0], "--prior", pair[1], "--no-golden")]) == 0
    assert "no plain weights, the fp16 ones are taken" in capsys.readouterr().out
    assert json.loads((output / "bundle.json").read_text())["model"]["variant"] == ""
    words = [output, "--reference", pair[0], "--prior", pair[1]]
    assert validate([str(word) for word in words]) == 0


# The hub


@pytest.fixture
def hub(pair, tmp_path):
    """A hub that serves the pair as owner/wuerstchen and owner/wuerstchen-prior."""
    with make.Hub(pair) as server:
        yield server


def fetched(hub, tmp_path, *words):
    """Weight files that an inspection of weights asks a hub for, and what was said."""
    code = (
        "import sys; from exporter.components import open_checkpoint as o;"
        "from exporter.sources import find_pair as f; v = sys.argv[2] or None;"
        "print(*o(*f(sys.argv[1], 'owner/wuerstchen-prior', variant=v), v).notes, sep='\\n')"
    )
    cache = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": hub.address}
    environment = os.environ | cache | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {path for path in hub.fetched if path.endswith(".safetensors")}, done.stdout


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_what_is_needed_is_fetched(hub, pair, tmp_path, variant):
    """One component has both kinds of files, one a variant alone, one it alone in shards."""
    make.to_variant(pair[1] / "prior", keep=True)
    make.to_variant(pair[0] / "decoder")
    make.to_shards(pair[0] / "vqgan", ".safetensors.index.fp16.json", ".fp16{n}.safetensors")
    (pair[0] / "vqgan/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    middle = f".{variant}" if variant else ""
    shards = {
        f"owner/wuerstchen/vqgan/diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors"
        for n in (1, 2)
    }
    paths, notes = fetched(hub, tmp_path, "owner/wuerstchen", variant)
    assert paths == shards | {
        f"owner/wuerstchen-prior/prior/diffusion_pytorch_model{middle}.safetensors",
        "owner/wuerstchen-prior/text_encoder/model.safetensors",
        "owner/wuerstchen/decoder/diffusion_pytorch_model.fp16.safetensors",
        "owner/wuerstchen/text_encoder/model.safetensors",
    }
    assert "ones are taken" in notes


def test_the_address_of_a_models_page(hub, tmp_path):
    page = "https://huggingface.co/owner/wuerstchen/tree/main"
    paths, _ = fetched(hub, tmp_path, page, "")
    assert "owner/wuerstchen/vqgan/diffusion_pytorch_model.safetensors" in paths


def test_another_model_is_told_before_its_weights_are_fetched(hub, pair, tmp_path):
    shutil.rmtree(pair[0])
    make.stable_cascade(pair[0])
    (pair[0] / "decoder/diffusion_pytorch_model.safetensors").write_bytes(b"gigabytes")
    with pytest.raises(AssertionError, match="Stable Cascade"):
        fetched(hub, tmp_path, "owner/wuerstchen", "")
    assert not any(path.endswith(".safetensors") for path in hub.fetched)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("https://huggingface.co/warp-ai/wuerstchen", ("warp-ai/wuerstchen", None)),
        ("huggingface.co/warp-ai/wuerstchen/", ("warp-ai/wuerstchen", None)),
        ("https://hf.co/a/b/tree/v1.0?x=1", ("a/b", "v1.0")),
        ("https://huggingface.co/a/b/blob/refs%2Fpr%2F3/README.md", ("a/b", "refs/pr/3")),
        ("warp-ai/wuerstchen", None),
        ("folder/of/mine", None),
    ],
)
def test_addresses(name, expected):
    assert hub_id(name) == expected


@pytest.mark.parametrize("name", ["https://huggingface.co/datasets/a/b", "https://example.org/a/b",
                                  "https://huggingface.co/warp-ai", "file:///models/w"])  # fmt: skip
def test_other_addresses_are_refused(name):
    with pytest.raises(UsageError, match="is no model's page on the hub"):
        hub_id(name)


# Folders


def test_the_folder_that_holds_both(pair):
    source, prior = find_pair(str(pair[0].parent), None)
    assert (source.folder, prior.folder) == pair
    assert (source.id, source.revision) == ("wuerstchen", "local")
    notes = open_checkpoint(source, prior, None).notes
    assert "wuerstchen is taken as the decoder" in notes[0]
    assert "wuerstchen-prior is taken as the prior" in notes[1]
    assert find_pair(str(DEMO), None)[1].folder == DEMO / "wuerstchen-prior"


def test_a_home_folder_that_no_shell_expanded(pair, monkeypatch):
    monkeypatch.setenv("HOME", str(pair[0].parent))
    assert find_pair("~/wuerstchen", "~/wuerstchen-prior")[0].folder == pair[0]


def test_roles_are_told(capsys, tmp_path, pair):
    decoder, prior = pair
    err = refused(capsys, tmp_path, "-m", prior)
    assert f"is a prior alone: give --model {decoder} and --prior {prior}" in err
    err = refused(capsys, tmp_path, "-m", prior, "--prior", decoder)
    assert f"give --model {decoder} --prior {prior}" in err
    err = refused(capsys, tmp_path, "-m", decoder, "--prior", decoder)
    assert f"is a decoder alone: give --model {decoder} and --prior {prior}" in err
    err = refused(capsys, tmp_path, "-m", decoder / "vqgan", "--prior", prior)
    assert f"is one component of a checkpoint: give {decoder}" in err
    err = refused(capsys, tmp_path, "-m", decoder)
    assert f"give --prior, such as {prior}" in err
    err = refused(capsys, tmp_path, "-m", decoder / "model_index.json", "--prior", prior)
    assert f"give its folder, {decoder}" in err
    weights = decoder / "decoder/diffusion_pytorch_model.safetensors"
    err = refused(capsys, tmp_path, "-m", weights)
    assert "a single weights file: a diffusers folder is needed" in err


@pytest.mark.parametrize("as_prior", [False, True])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (make.stable_cascade, "is a StableCascadeDecoderPipeline: Stable Cascade"),
        (make.stable_diffusion, "is a StableDiffusionPipeline, not Wuerstchen"),
        (make.kandinsky_prior, "is a KandinskyV22PriorPipeline, not Wuerstchen"),
    ],
)
def test_other_models_are_recognised(capsys, tmp_path, pair, model, message, as_prior):
    folder = model(tmp_path / "other")
    words = ["-m", pair[0], "--prior", folder] if as_prior else ["-m", folder]
    assert message in refused(capsys, tmp_path, *words)


@pytest.mark.parametrize("name", [".", "bundle.json"])
def test_a_bundle_is_no_checkpoint(capsys, tmp_path, bundles, name):
    folder = bundles("one_level").folder
    err = refused(capsys, tmp_path, "-m", folder / name)
    assert "is an exported bundle: give the checkpoint it was made from (wuerstchen)" in err


# inspect


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


# The demo's model card


def test_the_cards_lines_make_our_picture(tmp_path, bundles, monkeypatch):
    """The card's code, run as it stands: within 1 of 255 of ours from the same seed."""
    monkeypatch.setattr(pipelines, "wuerstchen", None, raising=False)
    monkeypatch.delattr(pipelines, "wuerstchen")
    for name in ("wuerstchen", "wuerstchen-prior"):
        (tmp_path / name).symlink_to(DEMO / name)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (DEMO / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    picture = np.asarray(Image.open("picture.png")).astype(int)
    with Pipeline.open(bundles("demo")) as pipeline:
        ours = pipeline(str(names["prompt"]), options=Options(seed=0)).pictures[0]
    assert np.abs(picture - ours.astype(int)).max() <= SAME_SEED_LEVELS
    assert picture.std() > 10
