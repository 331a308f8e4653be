"""Prompts files as people have them: what wrote them, their bytes, and the prompts meant."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Found:
    """The bytes of a file and its prompts, or part of the line that refuses it."""

    data: bytes
    prompts: tuple[str, ...] = ()
    refused: str = ""


PAIR = ("a red ring", "a réd star")
TEXT = "a red ring\na réd star\n"
FILES = {
    "unix": Found(TEXT.encode(), PAIR),
    "no newline at the end": Found(TEXT.rstrip().encode(), PAIR),
    "windows notepad": Found(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(), PAIR),
    "old mac": Found(TEXT.replace("\n", "\r").encode(), PAIR),
    "blank lines and blanks": Found(b"\n  a red ring \t\n\n   \na r\xc3\xa9d star\n\n", PAIR),
    "comments": Found(b"# rings\na red ring\n  # stars\na r\xc3\xa9d star\n", PAIR),
    "a mark before a comment": Found(b"\xef\xbb\xbf# rings\na red ring\n", ("a red ring",)),
    "prompts that start with #": Found(b"\\#1 of a series\n\\\\#2\na # b\n\\a",
                                       ("#1 of a series", "\\#2", "a # b", "\\a")),
    # str.splitlines splits at each of these.
    "other line separators": Found("a\u2028b\nc\x0bd\x1ce\x85f\x0cg\n".encode(),
                                   ("a\u2028b", "c\x0bd\x1ce\x85f\x0cg")),
    "twice": Found(b"a\n\nb\na \n", ("a", "b", "a")),
    "powershell": Found(b"\xff\xfe" + TEXT.encode("utf-16-le"), refused="is in UTF-16; save it"),
    "utf-16 big": Found(b"\xfe\xff" + TEXT.encode("utf-16-be"), refused="is in UTF-16"),
    "utf-32": Found(b"\xff\xfe\0\0" + TEXT.encode("utf-32-le"), refused="is in UTF-32"),
    "utf-16 without a mark": Found(TEXT.encode("utf-16-le"), refused="line 1 holds a NUL"),
    "latin-1": Found(TEXT.encode("latin-1"), refused="line 2: byte 0xE9 is no UTF-8"),
    "latin-1 after a mark, windows": Found(b"\xef\xbb\xbfa\r\n\r\nr\xe9d", refused="line 3: byte"),
    "empty": Found(b"", refused="holds no prompts"),
    "only a mark and comments": Found(b"\xef\xbb\xbf\n# later\n", refused="holds no prompts"),
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """The file of that name in `folder`."""
    path = folder / "prompts.txt"
    path.write_bytes(FILES[name].data)
    return path
