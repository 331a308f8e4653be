"""Hostile OpenVINO graphs: a constant or operation is added, or XML as OpenVINO never writes it."""

from collections.abc import Callable
from pathlib import Path

from validation.trust.hostile import FAR, Hostile

_DATA = {"element_type": "f32", "shape": "6, 4", "offset": "0", "size": "96"}
_BOMB = '<!DOCTYPE net [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
_FILE = '<!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
_NOWHERE = "does not say where"


def put(before: str, new: str) -> Callable[[Path, str], None]:
    """Put text in front of the first place of another."""

    def spoil(path: Path, data: str) -> None:
        text = path.read_text(encoding="utf-8")
        start, found, end = text.partition(before)
        path.write_text(start + new + found + end, encoding="utf-8")

    return spoil


def layer(
    kind: str = "Const", version: str = "opset1", inner: str = "", head: str = "<layer "
) -> Callable[[Path, str], None]:
    """Add a layer."""
    tag = f'{head}id="99999" name="more" type="{kind}" version="{version}">{inner}</layer>'
    return put("</layers>", tag)


def constant(**attributes: str | None) -> Callable[[Path, str], None]:
    """Add a constant of 96 bytes, but for these attributes of its data; None leaves one out."""
    return layer(inner=_tag({k: v for k, v in (_DATA | attributes).items() if v is not None}))


def _tag(attributes: dict[str, str]) -> str:
    pairs = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return f"<data {pairs} />"


def _weights(path: Path, data: str, change: Callable[[bytes], bytes]) -> None:
    (path.parent / data).write_bytes(change((path.parent / data).read_bytes()))


def _recoded(path: Path, data: str) -> None:
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-16")


HOSTILE = (
    Hostile("an entity bomb", put("<net ", _BOMB), "a declaration"),
    Hostile("an entity from a file", put("<net ", _FILE), "a declaration"),
    Hostile("a comment", put("<layers>", "<!-- <layer -->"), "a declaration or comment"),
    Hostile("an instruction", put("<layers>", "<?php ?>"), "an instruction"),
    Hostile("an offset beyond the end", constant(offset=str(FAR)), "ends at byte"),
    Hostile("a negative offset", constant(offset="-8"), _NOWHERE),
    Hostile("an offset of 5,000 digits", constant(offset="9" * 5000), _NOWHERE),
    Hostile("no offset", constant(offset=None), _NOWHERE),
    Hostile("too few bytes", constant(size="92"), "takes 96 bytes and asks for 92"),
    Hostile("too many bytes", constant(size="100"), "takes 96 bytes and asks for 100"),
    Hostile("more values than there are", constant(shape="6, 4000000000"), "and asks for 96"),
    Hostile("a negative size", constant(shape="-6, -4"), _NOWHERE),
    Hostile("digits of another script", constant(shape="1\u0660", size="40"), _NOWHERE),
    Hostile("an offset in such digits", constant(offset="\u0664"), _NOWHERE),
    Hostile("2,000 axes", constant(shape=", ".join(["9" * 4000] * 2000)), _NOWHERE),
    Hostile("strings", constant(element_type="string"), "not known"),
    Hostile("two places", layer(inner=_tag(_DATA) * 2), _NOWHERE),
    Hostile("no place", layer(), _NOWHERE),
    Hostile("a loop", layer("Loop"), "opset1:Loop"),
    Hostile("a kept state", layer("ReadValue", "opset6"), "opset6:ReadValue"),
    Hostile("an operation of an extension", layer("Add", "extension"), "not known"),
    Hostile("a layer that is written otherwise", layer(head="<layer\t"), "cannot be read"),
    Hostile(
        "cut weights",
        lambda path, data: _weights(path, data, lambda old: b""),
        "which has 0",
    ),
    Hostile("another encoding", _recoded, "cannot be read"),
    Hostile("nothing", lambda path, data: path.write_bytes(b""), "cannot be read"),
)
