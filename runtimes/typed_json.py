"""Plain dataclasses from JSON: every field typed as declared, and there unless it has a default."""

import dataclasses
import types
import typing
from typing import Any

from runtimes.errors import RunError

T = typing.TypeVar("T")


def decode(kind: type[T], value: Any, where: str) -> T:
    """Build `kind` (a dataclass, container or scalar) from parsed JSON.

    Raises RunError naming the place for a missing, unknown or wrongly typed field.
    """
    return typing.cast(T, _decode(kind, value, where))


def _decode(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return _union(args, value, where)
    if origin is tuple:
        items = _expect(list, value, where)
        return tuple(_decode(args[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        pairs = _expect(dict, value, where)
        return {key: _decode(args[1], item, f"{where}.{key}") for key, item in pairs.items()}
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    fields = typing.get_type_hints(kind)
    pairs = _expect(dict, value, where)
    optional = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not field.default_factory  # both are MISSING where it has none
    }
    for name in fields.keys() - pairs.keys() - optional:
        raise RunError(f"{where}: '{name}' is missing")
    for name in pairs.keys() - fields.keys():
        raise RunError(f"{where}: '{name}' is not a known field of format version 1")
    return kind(
        **{k: _decode(t, pairs[k], f"{where}.{k}") for k, t in fields.items() if k in pairs}
    )


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in kinds:
        if kind is type(None):
            if value is None:
                return None
            continue
        try:
            return _decode(kind, value, where)
        except RunError as error:
            last = error
    raise last


def _expect(kind: Any, value: Any, where: str) -> Any:
    if type(value) is not kind:
        raise RunError(f"{where}: expected {kind.__name__}, found {type(value).__name__}")
    return value
