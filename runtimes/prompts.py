"""Prompts as text: the one rule for files of them, and what no tokenizer could read."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runtimes.errors import UsageError

RULE = (
    "a prompt a line, in UTF-8; blank lines and lines that start with # are skipped, and a prompt "
    "that starts with # is written \\#"
)
# Of files that editors on Windows write; their text would pass for Latin letters and NULs.
_OTHER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_MOST_BYTES, _MOST_PROMPTS = 16_000_000, 100_000  # runs of that many pictures take months
# str.splitlines would also split at U+2028, U+0085 and control characters inside a prompt.
_LINE_END = re.compile(r"\r\n|\n|\r")
_BYTE_LINE_END = re.compile(rb"\r\n|\n|\r")


def read_prompts(
    path: Path, option: str, *, distinct: bool = False, what: str = "prompts"
) -> list[str]:
    r"""The prompts of a text file, in order, without the blanks around them.

    One prompt a line (ended by \n, \r\n or \r) in UTF-8, with or without a byte-order mark. Blank
    lines and lines that start with '#' are skipped; '\#...' is the prompt '#...', '\\#...' is
    '\#...'. `option` is what messages call the file, `what` its lines. Raises UsageError
    naming the line that is wrong, for a file without prompts, and with `distinct` for a prompt that
    is there twice.
    """
    prompts, first = [], dict[str, int]()
    for number, prompt in _numbered(path, option):
        if distinct and prompt in first:
            raise UsageError(
                f"{option} {path}, line {number} is the same as line {first[prompt]}; remove it"
            )
        first.setdefault(prompt, number)
        prompts.append(prompt)
        if len(prompts) > _MOST_PROMPTS:
            raise UsageError(
                f"{option} {path} has more than {_MOST_PROMPTS:,} {what}; give it in parts"
            )
    if not prompts:
        raise UsageError(f"{option} {path} holds no {what}; give one a line")
    return prompts


def argument_text(text: str, what: str) -> str:
    """An argument of the command line as the text it is; UsageError where its bytes are no UTF-8.

    Where the terminal's locale is not UTF-8 but its bytes are, they are read all the same.
    """
    with suppress(UnicodeError):
        return os.fsencode(text).decode("utf-8")
    check_text(text, what)
    return text


def check_text(text: str, what: str) -> None:
    """UsageError for text that is no Unicode: a shell's bytes in another encoding than UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what} has bytes that are no UTF-8 at character {error.start + 1}: "
            f"{text[:40]!a}; set the terminal to UTF-8, or write a prompts file in UTF-8"
        ) from None


def _numbered(path: Path, option: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_lines(_text(path, option)), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, re.sub(r"^\\(?=\\*#)", "", stripped)


def _lines(text: str) -> Iterator[str]:
    """One after the other: a list of the shortest would take thirty times the text's memory."""
    start = 0
    for end in _LINE_END.finditer(text):
        yield text[start : end.start()]
        start = end.end()
    yield text[start:]


def _text(path: Path, option: str) -> str:
    try:
        with path.open("rb") as file:  # a pipe is one, too
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{option} {path} cannot be read: {reason}") from None
    if len(data) > _MOST_BYTES:
        raise UsageError(
            f"{option} {path} has more than {_MOST_BYTES // 1_000_000} MB; give it in parts"
        )
    for mark, encoding in _OTHER_MARKS.items():
        if data.startswith(mark):
            raise UsageError(f"{option} {path} is in {encoding}; save it as UTF-8")
    if b"\0" in data:  # UTF-16 without a mark
        line = _line_at(data, data.index(b"\0"))
        raise UsageError(f"{option} {path}, line {line} holds a NUL: save it as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line_at(error.object, error.start)  # without a mark: both count from behind it
        raise UsageError(
            f"{option} {path}, line {line}: byte 0x{error.object[error.start]:02X} is no UTF-8; "
            "save the file as UTF-8"
        ) from None


def _line_at(data: bytes, position: int) -> int:
    return len(_BYTE_LINE_END.findall(data[:position])) + 1
