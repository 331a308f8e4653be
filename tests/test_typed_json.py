"""Plain dataclasses from JSON: the types that are declared, and nothing near them."""

import math
import typing
from dataclasses import dataclass
from typing import Annotated

import jsonschema
import pytest

from runtimes.bundle.ranges import Entries, Items, OneOf, Range, Text
from runtimes.bundle.schema import _kind
from runtimes.bundle.typed_json import decode
from runtimes.errors import RunError


@dataclass(frozen=True)
class Point:
    x: int
    label: str | None = None


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (tuple[int, ...], [], ()),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (tuple[int, int], [512, 256], (512, 256)),
        (tuple[str, float], ["a", 1], ("a", 1.0)),
        (tuple[tuple[int, int], ...], [[1, 2], [3, 4]], ((1, 2), (3, 4))),
        (dict[str, tuple[int, str]], {"a": [1, "b"]}, {"a": (1, "b")}),
        (int | str, "height", "height"),
        (typing.Optional[int], None, None),  # noqa: UP045 — the older spelling is read, too
        (typing.Union[int, str], 5, 5),  # noqa: UP007
        (float | None, 3, 3.0),
        (bool, True, True),
        (Point, {"x": 1, "label": None}, Point(1)),
    ],
)
def test_what_is_declared_is_read(kind, value, expected):
    found = decode(kind, value, "m")
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (tuple[int, int], [512], "m: expected 2 values, found 1"),
        (tuple[int, int], [], "m: expected 2 values, found 0"),
        (tuple[int, int], [1, 2, 3], "m: expected 2 values, found 3"),
        (tuple[tuple[int, int], ...], [[1, 2], [3]], r"m\[1\]: expected 2 values, found 1"),
        (tuple[str, float], ["a", "b"], r"m\[1\]: expected float, found str"),
        (tuple[int, ...], {"0": 1}, "m: expected list, found dict"),
        (tuple[int, ...], "12", "m: expected list, found str"),
        (int, True, "m: expected int, found bool"),
        (float, True, "m: expected float, found bool"),
        (bool, 1, "m: expected bool, found int"),
        (int, 1.0, "m: expected int, found float"),
        (int | str, None, "m: expected int or str, found NoneType"),
        (int | str, True, "m: expected int or str, found bool"),
        (str | None, 1, "m: expected str, found int"),
        (Point | None, {"y": 1}, "m: 'x' is missing"),
        (dict[str, int], {"a": "b"}, r"m\.a: expected int, found str"),
        (dict[str, int], [["a", 1]], "m: expected dict, found list"),
        (float, 10**400, "m: the number is too large"),
    ],
)
def test_what_is_near_it_is_refused(kind, value, message):
    with pytest.raises(RunError, match=message):
        decode(kind, value, "m")


def test_a_kind_that_json_cannot_hold_is_a_fault_of_the_program():
    with pytest.raises(TypeError, match="JSON cannot be read as"):
        decode(list[int], [1], "m")


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Annotated[int, Range(1, 64)], [1, 64], [0, 65, -1, 10**18]),
        (Annotated[float, Range(0, 1)], [0, 1.0, 0.5], [-1e-9, 1.1, 10**30]),
        (Annotated[float, Range(0, 9, above=True)], [1e-9, 9], [0, -1, 9.5]),
        (Annotated[str, Text(1, 3, "[a-z]*")], ["a", "abc"], ["", "abcd", "A"]),
        (Annotated[str, OneOf(("fp32", "fp16"))], ["fp32"], ["fp64", ""]),
        (Annotated[tuple[int, ...], Items(1, 2)], [[1], [1, 2]], [[], [1, 2, 3]]),
        (Annotated[tuple[int, ...], Items(0, 3, only=(0, 3))], [[], [1, 2, 3]], [[1], [1, 2]]),
        (Annotated[dict[str, int], Entries(1, 1)], [{"a": 1}], [{}, {"a": 1, "b": 2}]),
        (dict[Annotated[str, OneOf(("a",))], int], [{"a": 1}], [{"b": 1}]),
        (Annotated[int, Range(1, 8)] | Annotated[str, Text(1, 9, "x")], [8, "x"], [9, "y", 0]),
    ],
)
def test_ranges_hold_to_their_edges_and_the_schema_says_the_same(kind, inside, outside):
    validator = jsonschema.Draft202012Validator(_kind(kind, {}))
    for value in inside:
        decode(kind, value, "m")
        assert validator.is_valid(value), value
    for value in outside:
        with pytest.raises(RunError, match=r"^m"):
            decode(kind, value, "m")
        assert not validator.is_valid(value), value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_range_holds_what_is_not_finite(value):
    with pytest.raises(RunError, match=r"m: .* is (above|below)"):
        decode(Annotated[float, Range(-1e9, 1e9)], value, "m")
