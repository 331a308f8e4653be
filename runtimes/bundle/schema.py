"""The JSON Schema of a manifest, made from its dataclasses: `python -m runtimes.bundle.schema`.

What it prints is bundle.schema.json beside this file, for hosts in other languages.
"""

import dataclasses
import inspect
import json
import types
import typing
from typing import Any

from runtimes.bundle.manifest import FORMAT, FORMAT_VERSION, Manifest

SCHEMA_NAME = "bundle.schema.json"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
Schema = dict[str, Any]


def schema() -> Schema:
    """The schema of manifests of the newest format version, as an object.

    Every field is there in what this version writes, the ones with defaults, too.
    """
    definitions: dict[str, Schema] = {}
    _kind(Manifest, definitions)
    root = definitions.pop(Manifest.__name__)
    root["properties"]["format"] = {"const": FORMAT}
    root["properties"]["format_version"] = {"const": FORMAT_VERSION}
    title = f"{FORMAT}, format version {FORMAT_VERSION}"
    return {"$schema": _DIALECT, "title": title, **root, "$defs": dict(sorted(definitions.items()))}


def schema_text() -> str:
    """The schema as indented JSON."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _kind(kind: Any, definitions: dict[str, Schema]) -> Schema:  # noqa: PLR0911 — one a kind
    """The schema of a type; dataclasses go into `definitions`, and are referred to."""
    if dataclasses.is_dataclass(kind):
        name = typing.cast(type, kind).__name__
        if name not in definitions:
            definitions[name] = {}  # it is being made
            definitions[name] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _ranged(args, definitions)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_kind(each, definitions) for each in args]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is dict:
        names = {key: word for key, word in _kind(args[0], definitions).items() if key != "type"}
        known = {"propertyNames": names} if names else {}
        return {"type": "object", "additionalProperties": _kind(args[1], definitions), **known}
    if origin is tuple:
        return _array(args, definitions)
    return {"type": _SCALARS[kind]}


def _ranged(parts: tuple[Any, ...], definitions: dict[str, Schema]) -> Schema:
    """The schema of a type with its ranges behind it (runtimes.bundle.ranges)."""
    schema = _kind(parts[0], definitions)
    for limit in parts[1:]:
        schema = schema | limit.schema()
    return schema


def _object(kind: Any, definitions: dict[str, Schema]) -> Schema:
    hints = typing.get_type_hints(kind, include_extras=True)
    properties = {
        field.name: _field(field, hints[field.name], definitions)
        for field in dataclasses.fields(kind)
    }
    return {
        "description": inspect.getdoc(kind),
        "type": "object",
        "properties": properties,
        "required": [
            field.name for field in dataclasses.fields(kind) if "optional" not in field.metadata
        ],
        "additionalProperties": False,
    }


def _field(field: "dataclasses.Field[Any]", kind: Any, definitions: dict[str, Schema]) -> Schema:
    """A field's schema, without what stands for its absence in manifests of older versions."""
    if "since" in field.metadata:
        if typing.get_origin(kind) is typing.Literal:
            return {"enum": [value for value in typing.get_args(kind) if value != field.default]}
        kinds = [each for each in typing.get_args(kind) if each is not type(None)]
        return _kind(kinds[0], definitions)
    return _kind(kind, definitions)


def _array(kinds: tuple[Any, ...], definitions: dict[str, Schema]) -> Schema:
    if kinds[-1:] == (...,):
        return {"type": "array", "items": _kind(kinds[0], definitions)}
    items = [_kind(kind, definitions) for kind in kinds]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


if __name__ == "__main__":
    print(schema_text(), end="")
