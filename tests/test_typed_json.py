"""Plain dataclasses from JSON: the types that are declared, and nothing near them."""

import typing
from dataclasses import dataclass

import pytest

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
