"""Ranges of JSON values, beside their types: `Annotated[int, Range(1, 64)]`.

Each says what is wrong with a value (`fault`, '' for nothing) and how JSON Schema writes it
(`schema`), so that the reader and the schema cannot differ.
"""

import re
from dataclasses import dataclass
from typing import Any, Protocol

_SHOWN = 60  # characters of a stranger's value in a message


class Limit(Protocol):
    """What a value of a type has to be in addition."""

    def fault(self, value: Any) -> str:
        """What is wrong with a value of the right type; '' where nothing is."""
        ...

    def schema(self) -> dict[str, Any]:
        """The same as keywords of JSON Schema."""
        ...


@dataclass(frozen=True)
class Range:
    """A number from `least` to `most`, both included; `above` leaves `least` itself out."""

    least: float
    most: float
    above: bool = False

    def fault(self, value: float) -> str:
        if self.above and value <= self.least:
            return f"it must be above {self.least:g}, found {shown(value)}"
        if value < self.least:
            return f"{shown(value)} is below {self.least:g}"
        if not value <= self.most:  # so that NaN is refused
            return f"{shown(value)} is above {self.most:g}"
        return ""

    def schema(self) -> dict[str, Any]:
        return {"exclusiveMinimum" if self.above else "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Items:
    """A list or object of `least` to `most` entries; `only`: of one of these numbers of them."""

    least: int
    most: int
    only: tuple[int, ...] = ()

    def fault(self, value: Any) -> str:
        count = len(value)
        if self.only and count not in self.only:
            return f"expected {' or '.join(map(str, self.only))} values, found {count}"
        if not self.least <= count <= self.most:
            return f"expected {self.least} to {self.most} values, found {count}"
        return ""

    def schema(self) -> dict[str, Any]:
        if self.only:
            return {"anyOf": [{"minItems": count, "maxItems": count} for count in self.only]}
        return {"minItems": self.least, "maxItems": self.most}


@dataclass(frozen=True)
class Entries(Items):
    """The same of an object, for which JSON Schema has other words."""

    def schema(self) -> dict[str, Any]:
        return {"minProperties": self.least, "maxProperties": self.most}


@dataclass(frozen=True)
class Text:
    """A string of `least` to `most` characters, which matches all of `pattern`.

    The pattern is one that Python and ECMAScript read alike. Half a surrogate pair, which JSON can
    spell and no file name or message can hold, is always refused.
    """

    least: int
    most: int
    pattern: str = ""

    def fault(self, value: str) -> str:
        if not self.least <= len(value) <= self.most:
            return f"expected {self.least} to {self.most} characters, found {len(value)}"
        if any("\ud800" <= character <= "\udfff" for character in value):
            return f"{shown(value)} holds half a character"
        if self.pattern and not re.fullmatch(self.pattern, value):
            return f"{shown(value)} does not match {self.pattern}"
        return ""

    def schema(self) -> dict[str, Any]:
        pattern = {"pattern": f"^(?:{self.pattern})$"} if self.pattern else {}
        return {"minLength": self.least, "maxLength": self.most, **pattern}


@dataclass(frozen=True)
class OneOf:
    """One of the strings there are."""

    values: tuple[str, ...]

    def fault(self, value: str) -> str:
        if value in self.values:
            return ""
        return f"expected {' or '.join(map(repr, self.values))}, found {shown(value)}"

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}


def shown(value: object) -> str:
    """A stranger's value in a message: ASCII, on one line, cut where it is long.

    Python writes no whole number of thousands of digits, so that those are said to be long only.
    """
    if isinstance(value, int) and value.bit_length() > 4 * _SHOWN:
        return "a number of more than 60 digits"
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
