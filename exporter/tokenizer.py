"""A bundle's tokenizer folder from a checkpoint's: one tokenizer.json, and its two sources."""

import shutil
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from exporter.components import read_json
from runtimes.errors import UsageError
from runtimes.manifest import Tokenizer as TokenizerSpec

# CLIP's words: contractions, runs of letters, single digits, runs of other signs.
_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_END_OF_WORD = "</w>"


def write_tokenizer(source: Path, folder: Path, name: str, max_length: int) -> TokenizerSpec:
    """Write `folder` (named `name` in the bundle) from vocab.json and merges.txt of `source`.

    Raises UsageError when a file is missing or `max_length` is not the text encoder's.
    """
    check_tokenizer(source, max_length)
    vocab = read_json(source / "vocab.json")
    special = _special_tokens(source, vocab)
    folder.mkdir(parents=True)
    text = _build(vocab, _merges(source), special).to_str(pretty=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    for file in ("vocab.json", "merges.txt"):
        shutil.copyfile(source / file, folder / file)
    ids = {key: vocab[token] for key, token in special.items()}
    return TokenizerSpec(name, max_length, ids["bos_token"], ids["eos_token"], ids["pad_token"])


def check_tokenizer(source: Path, max_length: int) -> None:
    """UsageError when a checkpoint's tokenizer folder cannot be exported."""
    _special_tokens(source, read_json(source / "vocab.json"))
    _merges(source)
    length = read_json(source / "tokenizer_config.json").get("model_max_length", max_length)
    if length != max_length:
        raise UsageError(
            f"{source}/tokenizer_config.json: model_max_length {length} is not the text encoder's "
            f"max_position_embeddings {max_length}"
        )


def same_tokenizer(first: Path, second: Path) -> bool:
    """Whether two checkpoint tokenizers give the same ids."""
    files = ("vocab.json", "merges.txt")
    same = all((first / file).read_bytes() == (second / file).read_bytes() for file in files)
    vocab = read_json(first / "vocab.json")
    return same and _special_tokens(first, vocab) == _special_tokens(second, vocab)


def _special_tokens(source: Path, vocab: dict[str, int]) -> dict[str, str]:
    """Start, end and padding token, as CLIPTokenizer reads them."""
    given = read_json(source / "tokenizer_config.json")
    # As in transformers: the map counts only beside configs of before it wrote added tokens.
    if "added_tokens_decoder" not in given and (source / "special_tokens_map.json").is_file():
        given |= read_json(source / "special_tokens_map.json")
    defaults = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    defaults["pad_token"] = "<|endoftext|>"
    found = {}
    for key, default in defaults.items():
        value = given.get(key, default)
        token = value.get("content") if isinstance(value, dict) else value
        if token not in vocab:
            raise UsageError(f"{source}: {key} {token!r} is not in vocab.json")
        found[key] = str(token)
    return found


def _merges(source: Path) -> list[tuple[str, str]]:
    try:
        text = (source / "merges.txt").read_text(encoding="utf-8")
    except OSError:
        raise UsageError(f"{source}/merges.txt is missing") from None
    lines = [line for line in text.split("\n") if line and not line.startswith("#version")]
    pairs = [tuple(line.split()) for line in lines]
    bad = [line for line, pair in zip(lines, pairs, strict=True) if len(pair) != 2]
    if bad:
        raise UsageError(f"{source}/merges.txt: {bad[0]!r} is no pair of symbols")
    return [(first, second) for first, second in pairs]


def _build(
    vocab: dict[str, int], merges: list[tuple[str, str]], special: dict[str, str]
) -> Tokenizer:
    """CLIP's tokenizer: NFC, one space, lower case; byte-level BPE with an end-of-word mark."""
    tokenizer = Tokenizer(
        models.BPE(
            vocab,
            merges,
            unk_token=special["eos_token"],
            end_of_word_suffix=_END_OF_WORD,
            continuing_subword_prefix="",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_END_OF_WORD, " "), decoders.ByteLevel()]
    )
    start, end = ((special[key], vocab[special[key]]) for key in ("bos_token", "eos_token"))
    # Hosts that add special tokens get the frame; ours frames by itself, after truncation.
    # By position: tokenizers 0.23.3 renamed `cls` to `cls_token`.
    tokenizer.post_processor = processors.RobertaProcessing(
        end, start, add_prefix_space=False, trim_offsets=False
    )
    tokens = dict.fromkeys(special.values())
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in tokens])
    return tokenizer
