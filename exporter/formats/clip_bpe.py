"""CLIP's tokenizer as the tokenizers library builds it, from a vocabulary held as plain data."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

from runtimes.bundle.tokenizer_file import SPACES, WORDS

END_OF_WORD = "</w>"


@dataclass(frozen=True)
class Added:
    """A token that is looked for in the prompt before words are, with transformers' flags.

    `normalized` ones are looked for in lower-cased text, and so in capitals too. `id` is None where
    no file gives it one: it then gets the next.
    """

    content: str
    id: int | None
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """All that decides a prompt's ids.

    `vocab` are the words and pieces, `added` the tokens looked for before them. `expanded` are
    words that stand for several of these: (word, n) for word_0 to word_(n-1).
    """

    folder: Path = field(compare=False)
    vocab: dict[str, int]
    merges: tuple[tuple[str, str], ...]
    added: tuple[Added, ...]
    unk: str
    bos: str
    eos: str
    pad: str
    expanded: tuple[tuple[str, int], ...] = ()

    @property
    def tokens(self) -> dict[str, int]:
        """Every token and its id."""
        return self.vocab | {t.content: t.id for t in self.added if t.id is not None}


def normalizer(expanded: tuple[tuple[str, int], ...] = ()) -> Any:
    """CLIP's: NFC, one space, lower case; then each expanded word becomes all of its tokens."""
    steps = [normalizers.NFC(), normalizers.Replace(Regex(SPACES), " "), normalizers.Lowercase()]
    plain = normalizers.Sequence(steps)
    for word, count in expanded:
        spelled = plain.normalize_str(word)
        # The tokens themselves stay: their own spelling goes through this normalizer too, which
        # is why the word must not be one of them.
        numbers = "|".join(map(str, range(count)))
        pattern = rf"{re.escape(spelled)}(?!_(?:{numbers})(?![0-9]))"
        steps.append(normalizers.Replace(Regex(pattern), " ".join(numbered(spelled, count))))
    return normalizers.Sequence(steps)


def numbered(word: str, count: int) -> list[str]:
    """The tokens of an expanded word."""
    return [f"{word}_{i}" for i in range(count)]


def build(vocabulary: Vocabulary) -> Tokenizer:
    """Byte-level BPE with an end-of-word mark; added tokens in the order of their ids."""
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary.vocab,
            list(vocabulary.merges),
            unk_token=vocabulary.unk,
            end_of_word_suffix=END_OF_WORD,
            continuing_subword_prefix="",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizer(vocabulary.expanded)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(END_OF_WORD, " "), decoders.ByteLevel()]
    )
    start, end = ((t, vocabulary.tokens[t]) for t in (vocabulary.bos, vocabulary.eos))
    # Hosts that add special tokens get the frame; ours frames by itself, after truncation.
    tokenizer.post_processor = processors.RobertaProcessing(
        end, start, add_prefix_space=False, trim_offsets=False
    )
    tokenizer.add_tokens([_added(token) for token in vocabulary.added])
    return tokenizer


def state(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json as an object, its defaults filled in, its merges as pairs."""
    value: dict[str, Any] = json.loads(tokenizer.to_str())
    return value


def _added(token: Added) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )
