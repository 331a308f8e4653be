"""A CLIP-style byte-level BPE tokenizer over the demo's captions."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from validation.demo import scenes

START, END = "<|startoftext|>", "<|endoftext|>"
PLAIN_WORDS = "a an and on at the in background picture of with , ."


def words() -> list[str]:
    """Every word a caption can hold."""
    groups = (scenes.SHAPES, scenes.COLOURS, scenes.SIZES, scenes.BACKGROUNDS, scenes.PLACES)
    return sorted(
        {word for group in groups for text in group for word in text.split()}
        | set(PLAIN_WORDS.split())
    )


def learn_merges(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Plain BPE (Sennrich et al. 2016): merge the commonest pair until each word is one token."""
    spellings = [[*word[:-1], word[-1] + "</w>"] for word in vocabulary]
    merges = []
    while counts := Counter(pair for spelling in spellings for pair in pairwise(spelling)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spellings = [_merge(spelling, best) for spelling in spellings]
    return merges


def _merge(spelling: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in spelling:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write vocab.json, merges.txt and the config files of a CLIPTokenizer; return it loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(ByteLevel.alphabet())
    merges = learn_merges(words())
    symbols = alphabet + [symbol + "</w>" for symbol in alphabet]
    symbols += dict.fromkeys(first + second for first, second in merges)
    symbols = [*dict.fromkeys(symbols), START, END]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )
    tokenizer.save_pretrained(str(folder))
    return tokenizer
