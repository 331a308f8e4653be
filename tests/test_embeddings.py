"""Textual-inversion embeddings fused at export, against diffusers' loader and transformers."""

import json

import numpy as np
import pytest
import tiny
import tokenizers_found
import torch
from diffusers.loaders import TextualInversionLoaderMixin
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizerFast

from exporter.checkpoint.embeddings import EmbeddingFile, parse_embedding
from exporter.checkpoint.find import find_pair
from exporter.checkpoint.open import open_checkpoint
from exporter.cli import main
from exporter.formats.tokenizer import write_tokenizer
from exporter.job import Job, check_job
from exporter.options import ExportOptions
from runtimes.bundle.manifest import Tokenizer
from runtimes.bundle.read import open_bundle
from runtimes.errors import RunError, UsageError
from runtimes.tokenizer import PromptTokenizer
from runtimes.tolerances import LIMITS
from validation.parity.checkpoints import check_no_adapters
from validation.parity.metrics import difference

NAME = "odd_c_r"  # text encoders 32 and 48 wide
WIDTHS = {"text_encoder": 32, "decoder_text_encoder": 48}
LIMIT = LIMITS["fp32"].graph_error / 10
STYLE = "<my-style>"
PROMPTS = [
    STYLE, f"{STYLE} a red circle", f"a red {STYLE} circle", f"a{STYLE}circle",
    f"({STYLE}), {STYLE}!",
    f"{STYLE}{STYLE}", f"a red\n{STYLE}\t in {STYLE}", "a red circle", "", f"{STYLE}_9 {STYLE}-1",
    f"{STYLE} " * 40,
]  # fmt: skip


def vectors(count: int, width: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def job(folders):
    """The checked export of the tiny checkpoint with embeddings, by their files."""

    def get(*files: EmbeddingFile, pair=None, **options) -> Job:
        checkpoint = open_checkpoint(*find_pair(*map(str, pair or folders(NAME))), None)
        return check_job(checkpoint, ExportOptions(embeddings=files, **options))

    return get


def encode(job: Job, graph: str, prompts: list[str], folder) -> tuple[np.ndarray, torch.Tensor]:
    """Ids of the bundle's tokenizer, and the export form's hidden states."""
    spec: Tokenizer = write_tokenizer(job.vocabularies[graph], folder / graph, graph, 77)
    encoding = PromptTokenizer(folder / graph, spec)(prompts)
    (plan,) = (plan for plan in job.plans if plan.name == graph)
    with plan.module() as module:
        ids, mask = map(torch.from_numpy, (encoding.input_ids, encoding.attention_mask))
        return encoding.input_ids, module(ids, mask)


class Loader(TextualInversionLoaderMixin):
    """diffusers' mixin without a pipeline: Wuerstchen's has none."""

    hf_device_map = None
    components: dict = {}  # noqa: RUF012


def reference(encoder: CLIPTextModel, tokenizer, prompts: list[str], *files: EmbeddingFile):
    """The same by diffusers' loader, transformers' tokenizer and text encoder."""
    loader = Loader()
    for file in files:
        loader.load_textual_inversion(
            str(file.path.parent),
            weight_name=file.path.name,
            token=file.token,
            tokenizer=tokenizer,
            text_encoder=encoder,
        )
    found = tokenizer(
        loader.maybe_convert_prompt(prompts, tokenizer),
        padding="max_length",
        max_length=77,
        truncation=True,
        return_tensors="pt",
    )
    hidden = encoder(found.input_ids, attention_mask=found.attention_mask).last_hidden_state
    return found.input_ids.numpy(), hidden


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("key", [STYLE, "emb_params", "clip_g"])
@pytest.mark.parametrize("graph", WIDTHS)
def test_ids_and_hidden_states_equal_diffusers(job, tmp_path, graph, key, count):
    save_file({key: vectors(count, WIDTHS[graph])}, tmp_path / "style.safetensors")
    asked = EmbeddingFile(tmp_path / "style.safetensors", STYLE)
    found = job(asked)
    tokenizer = CLIPTokenizerFast.from_pretrained(str(tiny.TOKENIZER))
    encoder = getattr(tiny.reference(NAME), graph)
    ids, hidden = encode(found, graph, PROMPTS, tmp_path)
    expected, states = reference(encoder, tokenizer, PROMPTS, asked)
    assert ids.tolist() == expected.tolist()
    assert set(range(616, 616 + count)) <= set(ids.flat)
    assert difference(hidden.numpy(), states.numpy()).relative < LIMIT
    # The other text encoder, of another width, knows nothing of it.
    (other,) = WIDTHS.keys() - {graph}
    assert len(found.vocabularies[other].tokens) == 616


def test_both_text_encoders_of_one_width_get_it(folders, job, tmp_path):
    """Two files, one token of three vectors and one of a single one, with a token between them."""
    save_file({STYLE: vectors(3, 32)}, tmp_path / "a.safetensors")
    save_file({"emb_params": vectors(1, 32, seed=4)[0]}, tmp_path / "b.safetensors")
    files = [
        EmbeddingFile(tmp_path / "a.safetensors"),
        EmbeddingFile(tmp_path / "b.safetensors", "other"),
    ]
    found = job(*files, pair=folders("public"))
    prompts = [f"a {STYLE} circle, other", f"anotherone {STYLE}{STYLE}"]
    for graph in WIDTHS:
        tokenizer = CLIPTokenizerFast.from_pretrained(str(tiny.TOKENIZER))
        encoder = getattr(tiny.reference("public"), graph)
        ids, hidden = encode(found, graph, prompts, tmp_path)
        named = [EmbeddingFile(files[0].path, STYLE), files[1]]
        expected, states = reference(encoder, tokenizer, prompts, *named)
        assert ids.tolist() == expected.tolist()
        assert difference(hidden.numpy(), states.numpy()).relative < LIMIT


def test_a_checkpoint_with_added_tokens_and_rows_to_spare(job, tmp_path):
    """A vector lies in the row of its token's id, not behind the table's end."""
    source = tokenizers_found.listed(tmp_path / "tokenizer", tokenizers_found.token("<old>"))
    torch.manual_seed(0)
    made = tiny.reference(NAME)
    encoder = made.text_encoder
    encoder.resize_token_embeddings(640, mean_resizing=False)
    encoder.get_input_embeddings().weight.normal_()
    pair = tiny.save(made, tmp_path / "checkpoint")
    for file in source.iterdir():
        (pair[1] / "tokenizer" / file.name).write_bytes(file.read_bytes())
    save_file({STYLE: vectors(2, 32)}, tmp_path / "a.safetensors")
    found = job(EmbeddingFile(tmp_path / "a.safetensors"), pair=pair)
    prompts = [f"an <old> circle {STYLE}", "<OLD>"]
    ids, hidden = encode(found, "text_encoder", prompts, tmp_path)
    assert {616, 617, 618} <= set(ids.flat)
    # diffusers cuts the rows to spare off; the others are the same.
    asked = EmbeddingFile(tmp_path / "a.safetensors", STYLE)
    tokenizer = CLIPTokenizerFast.from_pretrained(str(source))
    expected, states = reference(encoder, tokenizer, prompts, asked)
    assert ids.tolist() == expected.tolist()
    assert difference(hidden.numpy(), states.numpy()).relative < LIMIT
    (plan,) = (plan for plan in found.plans if plan.name == "text_encoder")
    assert plan.component.config.vocab_size == 640


def test_capitals_and_single_vectors(job, tmp_path):
    """As CLIPTokenizerFast reads added tokens; a vector's own token is left as it is."""
    save_file({"<My-Style>": vectors(3, 32)}, tmp_path / "a.safetensors")
    found = job(EmbeddingFile(tmp_path / "a.safetensors"))
    ids, _ = encode(found, "text_encoder", ["<MY-STYLE>", "<my-style>_1 <My-Style>_2"], tmp_path)
    assert ids[0, 1:4].tolist() == [616, 617, 618]
    assert ids[1, 1:4].tolist() == [617, 618, 615]


@pytest.mark.parametrize("count", [1, 3])
def test_the_openvino_tokenizer_gives_the_same_ids(job, tmp_path, count):
    ov = pytest.importorskip("openvino")
    pytest.importorskip("openvino_tokenizers")
    from exporter.formats.openvino_tokenizer import write_openvino_tokenizer

    save_file({"<My+Style>": vectors(count, 32)}, tmp_path / "a.safetensors")
    options = {"backend": "openvino", "openvino_tokenizer": True}
    found = job(EmbeddingFile(tmp_path / "a.safetensors"), **options)
    spec = write_tokenizer(found.vocabularies["text_encoder"], tmp_path / "t", "t", 77)
    write_openvino_tokenizer(tmp_path / "t", spec, tmp_path / "t")
    model = ov.Core().compile_model(tmp_path / "t/openvino_tokenizer.xml", "CPU")
    pieces = [
        "<my+style>",
        "<My+Style>",
        "_1",
        "_2",
        "_12",
        "_",
        "<my",
        "+style>",
        " ",
        "a",
        ",",
        "1",
    ]
    draw = np.random.default_rng(0)
    picked = draw.integers(len(pieces), size=(2000, 8))
    prompts = ["".join(pieces[i] for i in row[: draw.integers(1, 9)]) for row in picked]
    expected = PromptTokenizer(tmp_path / "t", spec)(prompts)
    assert (model({0: prompts})["input_ids"] == expected.input_ids).all()
    assert 615 + count in expected.input_ids
    if count > 1:
        save_file({"<$1>": vectors(count, 32)}, tmp_path / "b.safetensors")
        with pytest.raises(UsageError, match=r"'\$' .*: leave out --openvino-tokenizer"):
            job(EmbeddingFile(tmp_path / "b.safetensors"), **options)


def words(folders, output, *more) -> list[str]:
    decoder, prior = folders(NAME)
    return [str(word) for word in (output, "-m", decoder, "--prior", prior, *more)]


def test_the_bundle_has_it_and_resume_sees_a_change(folders, tmp_path, capsys, monkeypatch):
    file = tmp_path / "style.safetensors"
    save_file({"emb_params": vectors(2, 32)}, file)
    modules = ["--modules", "text_encoder", "decoder_text_encoder", "--embedding", file]
    assert main(words(folders, tmp_path / "b", *modules)) == 0
    bundle = open_bundle(tmp_path / "b", hashes="fresh")
    (adapter,) = bundle.manifest.adapters
    assert (adapter.id, adapter.scale) == ("style.safetensors:style", 1.0)
    specs = bundle.manifest.tokenizers
    assert specs["text_encoder"].folder != specs["decoder_text_encoder"].folder
    vocab = json.loads((tmp_path / "b/tokenizer/vocab.json").read_text(encoding="utf-8"))
    assert (vocab["style_0"], vocab["style_1"]) == (616, 617)
    config = json.loads((tmp_path / "b/text_encoder/config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == 618
    with pytest.raises(UsageError, match=r"style\.safetensors:style"):
        check_no_adapters(bundle)
    again = ["--resume", "--overwrite"]
    capsys.readouterr()
    assert main(words(folders, tmp_path / "b", *modules, *again)) == 0
    assert capsys.readouterr().err.count("kept") == 2
    save_file({"emb_params": vectors(2, 32, seed=9)}, file)

    def stop(plan, *_rest):
        raise RunError(f"{plan.name} is written anew")

    monkeypatch.setattr("exporter.export._write_graph", stop)
    assert main(words(folders, tmp_path / "b", *modules, *again)) == 1
    err = capsys.readouterr().err
    assert "kept" not in err and "text_encoder is written anew" in err


@pytest.mark.parametrize(
    ("tensors", "token", "message"),
    [
        ({STYLE: (1, 31)}, "", "are 31 wide and fit no text encoder of this export: text_encoder "
         "is 32 and decoder_text_encoder is 48 wide"),
        ({STYLE: (1, 1, 32)}, "", "of shape (1, 1, 32), no vectors"),
        ({STYLE: (0, 32)}, "", "of shape (0, 32), no vectors"),
        ({STYLE: (1, 32), "<b>": (1, 32)}, "", "holds 2 tensors (<b>, <my-style>)"),
        ({}, "", "holds 0 tensors"),
        ({"red</w>": (1, 32)}, "", "'red</w>' is a token of"),
        ({STYLE: (1, 32)}, "<|EndOfText|>", "is written like '<|endoftext|>', a token of"),
        ({STYLE: (1, 32)}, " ", "' ' begins or ends with white space"),
        ({STYLE: (2, 32)}, "text", "'text', a token of 2 vectors, is part of the token '<|"),
    ],
)  # fmt: skip
def test_what_does_not_fit(folders, tmp_path, capsys, tensors, token, message):
    file = tmp_path / "a.safetensors"
    save_file({key: torch.ones(shape) for key, shape in tensors.items()}, file)
    refused(capsys, folders, tmp_path, f"{file}:{token}" if token else file, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.safetensors", "no such file"),
        ("pickle.bin", "is a pickle"),
        ("pickle.pt:<token>", "is a pickle"),
        ("text.safetensors", "is truncated or no safetensors file"),
        ("text.safetensors:", "the token after ':' is empty"),
        ("", "is a folder; give the file"),
        ("nan.safetensors", "holds values that are not finite"),
        ("int.safetensors", "'a' is I64 of shape (32,), no vectors"),
    ],
)
def test_what_is_no_embedding(folders, tmp_path, capsys, name, message):
    for file in ("pickle.bin", "pickle.pt", "text.safetensors"):
        (tmp_path / file).write_text("text")
    save_file({"a": torch.full((1, 32), torch.nan)}, tmp_path / "nan.safetensors")
    save_file({"a": torch.ones(32, dtype=torch.int64)}, tmp_path / "int.safetensors")
    refused(capsys, folders, tmp_path, f"{tmp_path}/{name}", message)


def test_one_token_for_both_text_encoders_and_never_twice(job, tmp_path):
    """One file for each width; a second one of the same width would hide the first."""
    for name, width in (("a", 32), ("b", 48), ("c", 32)):
        save_file({STYLE: vectors(1, width)}, tmp_path / f"{name}.safetensors")
    a, b, c = (EmbeddingFile(tmp_path / f"{name}.safetensors") for name in "abc")
    found = job(a, b)
    assert all(vocabulary.tokens[STYLE] == 616 for vocabulary in found.vocabularies.values())
    with pytest.raises(UsageError, match=r"c\.safetensors: '<my-style>' is a token"):
        job(a, c)
    with pytest.raises(UsageError, match="fit no text encoder of this export: text_encoder is 32"):
        job(b, text=False)


def test_files_and_tokens_with_colons(tmp_path):
    plain, odd = tmp_path / "a.safetensors", tmp_path / "a.safetensors:b"
    plain.touch()
    assert parse_embedding(f"{plain}:b") == EmbeddingFile(plain, "b")
    assert parse_embedding(f"{plain}:b:c") == EmbeddingFile(plain, "b:c")
    odd.touch()
    assert parse_embedding(f"{plain}:b") == EmbeddingFile(odd)
    assert parse_embedding(f"{plain}:b:c") == EmbeddingFile(odd, "c")


def refused(capsys, folders, tmp_path, embedding, message) -> None:
    assert main(words(folders, tmp_path / "out", "--embedding", embedding)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --embedding") and err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "out").exists()
