"""Token ids equal transformers' CLIP tokenizers, fast and slow."""

import json
from pathlib import Path

import ftfy
import pytest
import tiny
from transformers import CLIPTokenizer, CLIPTokenizerFast

from exporter.checkpoint.vocabulary import read_vocabulary
from exporter.formats.tokenizer import check_tokenizer, write_tokenizer
from runtimes.errors import UsageError
from runtimes.tokenizer import PromptTokenizer

PROMPTS = [
    "",
    " ",
    "a red circle",
    "A Large RED   circle,\tand\na blue square!",
    "naïve café über Ångström — “quoted” … 1234 ½",
    "résumé vs re\u0301sume\u0301",  # composed and decomposed accents
    "🙂🚀 an astronaut 👩‍🚀 riding a horse",
    "日本語のテキスト 中文 한국어 العربية עברית",
    "it's they're we've i'll don't 'quoted' a'b",
    "#hash @at $5.00 50% C++ foo_bar x=1;y=2",
    "<|startoftext|>inside<|endoftext|> the text <|ENDOFTEXT|>",
    "word " * 200,
    "🙂" * 100,
    "a" * 300,
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> PromptTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer") / "t"
    return PromptTokenizer(
        folder, write_tokenizer(read_vocabulary(tiny.TOKENIZER), folder, "t", 77)
    )


@pytest.mark.parametrize("cls", [CLIPTokenizer, CLIPTokenizerFast])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_ids_and_mask_equal_transformers(tokenizer, cls, prompt):
    """The slow tokenizer cleans text with ftfy first (it straightens typographic quotes)."""
    reference = cls.from_pretrained(str(tiny.TOKENIZER))
    expected = reference([prompt], padding="max_length", max_length=77, truncation=True)
    found = tokenizer([ftfy.fix_text(prompt) if cls is CLIPTokenizer else prompt])
    assert found.input_ids.tolist() == expected["input_ids"]
    assert found.attention_mask.tolist() == expected["attention_mask"]


def test_truncation_is_reported(tokenizer):
    kept, cut = tokenizer(["a red circle", "a red circle " * 40]).truncated
    assert kept == ""
    assert cut.startswith("a red circle a red")
    assert len(cut.split()) == 3 * 40 - 75


def test_padding_token_is_the_checkpoints(tmp_path):
    """Stable Diffusion 2's CLIP pads with '!': the id comes from the tokenizer's own config."""
    source = tmp_path / "source"
    source.mkdir()
    for file in tiny.TOKENIZER.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        value = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps(value | {"pad_token": "!"}))
    spec = write_tokenizer(read_vocabulary(source), tmp_path / "t", "t", 77)
    tokenizer = PromptTokenizer(tmp_path / "t", spec)
    found = tokenizer(["red"]).input_ids
    for prompt in ("a ring! red", "!!", "red!"):
        reference = CLIPTokenizerFast.from_pretrained(str(source))
        expected = reference([prompt], padding="max_length", max_length=77, truncation=True)
        assert tokenizer([prompt]).input_ids.tolist() == expected["input_ids"]
    vocab = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    assert found[0, -1] == vocab["!"]
    assert read_vocabulary(source) != read_vocabulary(tiny.TOKENIZER)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("vocab.json", "{", "not valid JSON"),
        ("vocab.json", "{}", "not in vocab.json"),
        ("merges.txt", "#version\na b c\n", "no pair of symbols"),
        ("tokenizer_config.json", '{"model_max_length": 64}', "model_max_length 64"),
    ],
)
def test_broken_tokenizers_are_refused(tmp_path: Path, file, text, message):
    source = tmp_path / "source"
    source.mkdir()
    for each in tiny.TOKENIZER.iterdir():
        (source / each.name).write_bytes(each.read_bytes())
    (source / file).write_text(text)
    with pytest.raises(UsageError, match=message):
        check_tokenizer(source, 77, 616)
