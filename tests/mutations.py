"""Valid files made wrong, as Hypothesis strategies: values of a JSON, bytes, offsets changed."""

import functools
import json
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

_TWICE = "\0twice"  # stands for a key that is there already, until the text is made
# Values that some reader somewhere took for what they are not.
NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 1 << 31, 1 << 32, 1 << 63, 1 << 64, -(1 << 63), 10**18,
    10**400, 0.0, -0.0, 0.5, -1.5, 1e-320, 1e300, -1e300, float("nan"), float("inf"), "", "0",
    "a", "a\nb", "\0", "\ud800", "\u2028", "..", "../a", "/dev/zero", "C:\\a", "a" * 10_000,
    "(a+)+$", "%s{}", [], {}, [[]], [[[[]]]], [None], [0] * 1_000, {"a": {}}, {"": None},
]  # fmt: skip
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.sampled_from(NASTY) | st.recursive(
    _SCALARS,
    lambda inside: (
        st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4)
    ),
    max_leaves=8,
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    pairs = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else pairs:
        yield (*place, key)
        yield from _places(item, (*place, key))


def _by_shape(value: Any) -> list[list[tuple[Any, ...]]]:
    """Paths in groups that differ in numbers alone: a table of 10,000 is no likelier than a field.

    Of a group, some.
    """
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for place in _places(value):
        shape = tuple(key if isinstance(key, str) else 0 for key in place)
        groups.setdefault(shape[:6], []).append(place)
    return [places[:3] + places[-2:] for places in groups.values()]


@functools.cache
def changed(text: str | bytes) -> st.SearchStrategy[bytes]:
    """A JSON text with one to three values replaced, left out, or there twice."""
    places = _by_shape(json.loads(text)) or [[("new",)]]
    groups = st.sampled_from(places).flatmap(st.sampled_from)
    actions = st.sampled_from(["replace", "replace", "replace", "drop", "twice", "add"])
    steps = st.lists(st.tuples(groups, actions, VALUES), min_size=1, max_size=3)
    return steps.map(lambda drawn: _text(json.loads(text), drawn).encode())


def _text(value: Any, steps: list[tuple[tuple[Any, ...], str, Any]]) -> str:
    twice: list[str] = []
    for place, action, other in steps:
        inside = value
        try:
            for key in place[:-1]:
                inside = inside[key]
            last = place[-1]
            if action == "drop":
                del inside[last]
            elif action == "replace" or not isinstance(inside, dict):
                inside[last] = other
            elif action == "add":
                inside[f"{last}_"] = other
            else:
                inside[_TWICE] = other
                twice.append(last)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier step took it away
    text = json.dumps(value)
    return text.replace(json.dumps(_TWICE), json.dumps(twice[0])) if twice else text


@functools.cache
def damaged(data: bytes, most: int = 3) -> st.SearchStrategy[bytes]:
    """A file with bits turned over, bytes replaced or put in, or its end cut off."""
    place = st.integers(0, max(len(data) - 1, 0)) | st.integers(0, min(len(data), 64))
    kinds = st.sampled_from(["flip", "flip", "byte", "cut", "insert", "repeat"])
    steps = st.lists(st.tuples(kinds, place, st.integers(0, 255)), min_size=1, max_size=most)
    return steps.map(lambda drawn: _damage(data, drawn))


@functools.cache
def misled(data: bytes) -> st.SearchStrategy[bytes]:
    """A file of offsets and counts, whole numbers of 2 or 4 bytes, with one to three changed."""
    place = st.integers(0, len(data) // 2 - 2).map(lambda half: 2 * half)
    number = st.integers(0, 2 * len(data)) | st.sampled_from([0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    steps = st.lists(st.tuples(place, number, st.booleans()), min_size=1, max_size=3)
    return steps.map(lambda drawn: _mislead(data, drawn))


def _mislead(data: bytes, steps: list[tuple[int, int, bool]]) -> bytes:
    changed = bytearray(data)
    for place, number, short in steps:
        kind, most = ("<H", 0xFFFF) if short else ("<I", 0xFFFFFFFF)
        struct.pack_into(kind, changed, place, number & most)
    return bytes(changed)


def _damage(data: bytes, steps: list[tuple[str, int, int]]) -> bytes:
    for kind, drawn, byte in steps:
        place = min(drawn, max(len(data) - 1, 0))
        before, after = data[:place], data[place + 1 :]
        if kind == "cut":
            data = before
        elif kind == "insert":
            data = before + bytes([byte]) + data[place:]
        elif kind == "repeat":
            data = before + data[place : place + byte] * 2 + data[place + byte :]
        elif kind == "byte":
            data = before + bytes([byte]) + after
        elif data:
            data = before + bytes([data[place] ^ (1 << byte % 8)]) + after
    return data
