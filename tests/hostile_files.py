"""Files that nobody writes by accident, and how they have to be refused.

Each builder takes the path of a file, which may be there, and puts something else in its place.
"""

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peak
import pytest
import torch

from runtimes.errors import RunError, UsageError

# Seconds for any of them, on a busy machine; bytes above what the process has.
SOON, MEMORY = 10, 100 << 20
Make = Callable[[Path], object]
DEEP = 100_000
SLOW_PATTERN = "(a+)+$"  # for 'aaa...b' twice as long with each letter


def refused(call: Callable[[], object], *words: str) -> None:
    """An error of one line with every word, soon, and within little memory."""
    start = time.monotonic()
    with peak.measured() as taken, pytest.raises((UsageError, RunError)) as error:
        call()
    message = str(error.value)
    assert message.isprintable() and len(message) < 2_100
    for word in words:
        assert word in message
    assert time.monotonic() - start < SOON
    assert taken() < MEMORY


def text(content: str | bytes) -> Make:
    def make(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def edited(**change: Any) -> Make:
    """Keys of a JSON object set."""
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | change))


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def itself(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def gigabyte(path: Path) -> None:
    """A file that says it has a gigabyte, of which none is on the disk."""
    path.write_bytes(b'{"a": "')
    os.truncate(path, 1 << 30)


def pickled(path: Path) -> None:
    torch.save({"a": torch.ones(3)}, path)


def plainly_pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": [1.0] * 9}))


# What is no JSON object of a config's size, and a word of what is said of it.
JSON: dict[str, tuple[Make, str]] = {
    "nested": (text("[" * DEEP + "]" * DEEP), "nested too deeply"),
    "nested objects": (text('{"a":' * DEEP + "1" + "}" * DEEP), "nested too deeply"),
    "a key twice": (text('{"c": 1, "c": 2}'), "'c' is there twice"),
    "NaN": (text('{"c": NaN}'), "NaN is no number"),
    "infinite": (text('{"c": -Infinity}'), "-Infinity is no number"),
    "digits": (text('{"c": ' + "9" * 10_000 + "}"), "is not valid JSON"),
    "a list": (text("[1, 2]"), "holds no JSON object"),
    "no text": (text(b"\xff\xfe{}"), "is not valid JSON"),
    "nothing": (text(""), "is not valid JSON"),
    "a pipe": (pipe, "it is no regular file"),
    "a device": (device, "it is no regular file"),
    "a folder": (folder, "cannot be read"),
    "a link to itself": (itself, "cannot be read"),
    "a gigabyte": (gigabyte, "it has 1073.7 MB, more than"),
    "many values": (text('{"a": [' + "[]," * 250_000 + "[]]}"), "values"),
}


def safetensors(header: Any, size: int = 0, length: int | None = None) -> Make:
    """A file of this header, of `size` bytes behind it, that says its header has `length`."""

    def make(path: Path) -> None:
        data = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.unlink(missing_ok=True)
        path.write_bytes((len(data) if length is None else length).to_bytes(8, "little") + data)
        os.truncate(path, 8 + len(data) + size)

    return make


def stored(shape: list[Any], first: Any, last: Any, dtype: Any = "F32") -> dict[str, Any]:
    """A tensor as a header has it."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def _lying(*tensors: dict[str, Any], size: int = 16) -> Make:
    return safetensors({f"t{index}": tensor for index, tensor in enumerate(tensors)}, size)


# What is no safetensors file, and a word of what is said of it.
SAFETENSORS: dict[str, tuple[Make, str]] = {
    "a pickle": (pickled, "it is a pickle by another name"),
    "a plain pickle": (plainly_pickled, "it is a pickle by another name"),
    "nothing": (text(""), "it ends before its header does"),
    "four bytes": (text("abcd"), "it ends before its header does"),
    "a header longer than the file": (safetensors({}, length=1 << 40), "ends before its header"),
    "a header of 2^64": (safetensors({}, length=(1 << 64) - 1), "ends before its header"),
    "a header of 110 MB": (safetensors(b"{}", 1 << 27, 110_000_000), "header has 110.0 MB"),
    "a nested header": (safetensors(b'{"a":' * DEEP + b"1" + b"}" * DEEP), "nested too deeply"),
    "a name twice": (
        safetensors(b'{"a":%s,"a":%s}' % ((json.dumps(stored([1], 0, 4)).encode(),) * 2), 4),
        "'a' is there twice",
    ),
    "many tensors": (safetensors(b"{%s}" % b",".join(b'"%d":{}' % i for i in range(250_000))),
                     "more than 400,000 values"),
    "a list": (safetensors([1]), "holds no JSON object"),
    "no JSON": (safetensors(b"{'a'}"), "Expecting property name"),
    "NaN": (safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', 4), "NaN"),
    "overlapping": (_lying(stored([2], 0, 8), stored([2], 4, 12), size=12), "begins at byte 4"),
    "a gap": (_lying(stored([1], 0, 4), stored([1], 8, 12), size=12), "begins at byte 8"),
    "twice the same bytes": (_lying(stored([1], 0, 4), stored([1], 0, 4), size=4), "begins at"),
    "beyond the file": (_lying(stored([4], 0, 16), size=8), "take 16 bytes, it has 8"),
    "ten gigabytes": (_lying(stored([10 * 2**28], 0, 10 * 2**30)), "it has 16"),
    "cut": (_lying(stored([4], 0, 16), size=15), "take 16 bytes, it has 15"),
    "bytes left over": (_lying(stored([4], 0, 16), size=17), "take 16 bytes, it has 17"),
    "too few bytes": (_lying(stored([5], 0, 16)), "has bytes 0 to 16"),
    "too many bytes": (_lying(stored([3], 0, 16)), "has bytes 0 to 16"),
    "half a byte": (_lying(stored([3], 0, 2, "F4"), size=2), "has bytes 0 to 2"),
    "backwards": (_lying(stored([4], 16, 0)), "has bytes 16 to 0"),
    "negative": (_lying(stored([4], -16, 0)), "-16 is below 0"),
    "a negative size": (_lying(stored([-4], 0, 16)), "-4 is below 0"),
    "a size that wraps": (_lying(stored([1 << 32, 1 << 32, 4], 0, 16)), "has bytes 0 to 16"),
    "a huge size": (_lying(stored([10**30], 0, 16)), "is above"),
    "many axes": (_lying(stored([1] * 1000, 0, 4), size=4), "expected 0 to 8 values"),
    "no shape": (_lying({"dtype": "F32", "data_offsets": [0, 4]}, size=4), "'shape' is missing"),
    "three offsets": (_lying(stored([1], 0, 4) | {"data_offsets": [0, 2, 4]}), "expected 2 values"),
    "a text for a size": (_lying(stored(["4"], 0, 16)), "expected int, found str"),
    "an unknown type": (_lying(stored([4], 0, 16, "F128")), "expected 'BOOL' or"),
    "no type": (_lying(stored([4], 0, 16, ["F32"])), "expected str, found list"),
    "a field too many": (_lying(stored([4], 0, 16) | {"code": "x"}), "'code' is not a known field"),
    "notes that are none": (safetensors({"__metadata__": {"a": 1}}), "expected str, found int"),
    "a name of two lines": (safetensors({"a\nb": stored([4], 0, 16)}, 16), "does not match"),
    "a long name": (safetensors({"a" * 10**6: stored([4], 0, 16)}, 16), "expected 1 to 500"),
    "half a letter": (safetensors(b'{"\\ud800":{}}'), "half a character"),
    "a pipe": (pipe, "it is no regular file"),
    "a device": (device, "it is no regular file"),
    "a folder": (folder, "no regular file"),
}  # fmt: skip
