"""Plain dataclasses from JSON: every field typed and within its range, as declared.

A field is there unless it has a default.
"""

import dataclasses
import functools
import types
import typing
from typing import Any

from runtimes.bundle.ranges import Limit, shown
from runtimes.errors import RunError

T = typing.TypeVar("T")
_SCALARS = (str, int, float, bool)
_JSON = {tuple: list, dict: dict}  # what JSON has for a container


def decode(kind: type[T], value: Any, where: str) -> T:
    """Build `kind` (a dataclass, container or scalar) from parsed JSON.

    Raises RunError naming the place for a missing, unknown or wrongly typed field, a value out of
    its range (`Annotated`, runtimes.bundle.ranges), and a tuple of another length than declared.
    """
    return typing.cast(T, _decode(kind, value, where))


def _decode(kind: Any, value: Any, where: str) -> Any:  # noqa: PLR0911 — one a kind
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _within(args[0], args[1:], value, where)
    if origin in (types.UnionType, typing.Union):
        return _union(args, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise RunError(
                f"{where}: expected {' or '.join(map(repr, args))}, found {shown(value)}"
            )
        return value
    if origin is tuple:
        return _tuple(args, value, where)
    if origin is dict:
        pairs = _expect(dict, value, where)
        return {
            _decode(args[0], key, where): _decode(args[1], item, f"{where}.{key}")
            for key, item in pairs.items()
        }
    if kind not in _SCALARS:  # a fault of this program
        raise TypeError(f"{where}: JSON cannot be read as {kind}")
    return _float(value, where) if kind is float else _expect(kind, value, where)


def _within(kind: Any, limits: tuple[Limit, ...], value: Any, where: str) -> Any:
    """A value and its range; how many entries there are is asked before they are looked at."""
    if _JSON.get(typing.get_origin(kind)) is type(value):
        _check(limits, value, where)
        return _decode(kind, value, where)
    found = _decode(kind, value, where)
    _check(limits, found, where)
    return found


def _check(limits: tuple[Limit, ...], value: Any, where: str) -> None:
    for limit in limits:
        if fault := limit.fault(value):
            raise RunError(f"{where}: {fault}")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _plain(kind: Any) -> Any:
    """The type without its range."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    fields = _hints(kind)
    pairs = _expect(dict, value, where)
    optional = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not field.default_factory  # both are MISSING where it has none
    }
    for name in fields.keys() - pairs.keys() - optional:
        raise RunError(f"{where}: '{name}' is missing")
    # An error: a host that ignored a field could run a graph in another way than it is meant.
    for name in pairs.keys() - fields.keys():
        raise RunError(f"{where}: {shown(name)} is not a known field")
    return kind(
        **{k: _decode(t, pairs[k], f"{where}.{k}") for k, t in fields.items() if k in pairs}
    )


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """`tuple[X, ...]` takes any number of items, every other tuple exactly as many as it names."""
    items = _expect(list, value, where)
    if kinds[-1:] == (...,):
        kinds = (kinds[0],) * len(items)
    if len(items) != len(kinds):
        raise RunError(f"{where}: expected {len(kinds)} values, found {len(items)}")
    pairs = zip(kinds, items, strict=True)
    return tuple(_decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(pairs))


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    wanted = [kind for kind in kinds if kind is not type(None)]
    if len(wanted) == 1:
        return _decode(wanted[0], value, where)
    for kind in wanted:
        if _plain(kind) is type(value):  # its range says what is wrong
            return _decode(kind, value, where)
    for kind in wanted:
        try:
            return _decode(kind, value, where)
        except RunError:
            continue
    names = " or ".join(getattr(_plain(kind), "__name__", str(kind)) for kind in wanted)
    raise RunError(f"{where}: expected {names}, found {type(value).__name__}")


def _float(value: Any, where: str) -> float:
    """A whole number is one, too."""
    if type(value) is not int:
        return float(_expect(float, value, where))
    try:
        return float(value)
    except OverflowError:
        raise RunError(f"{where}: the number is too large") from None


def _expect(kind: Any, value: Any, where: str) -> Any:
    if type(value) is not kind:  # not isinstance: True would pass for a whole number
        raise RunError(f"{where}: expected {kind.__name__}, found {type(value).__name__}")
    return value
