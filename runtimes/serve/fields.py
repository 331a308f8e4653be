"""The values of a request's fields: their types and ranges, and what is said of a wrong one."""

import math
import re
from collections.abc import Mapping
from typing import Any

from runtimes.bundle.ranges import shown
from runtimes.errors import UsageError
from runtimes.prompts import check_text
from runtimes.serve.limits import GUIDANCE, Limits
from runtimes.serve.refusal import bad

MOST_SEED = (1 << 53) - 1  # whole numbers that every reader of JSON has exactly
_SIZE = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})", re.ASCII)
# OpenAI's fields of which one value or two say what is done here anyway.
NEUTRAL: Mapping[str, tuple[str, ...]] = {
    "response_format": ("b64_json",),
    "output_format": ("png",),
    "quality": ("auto", "standard"),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "style": ("auto",),
}


def text(field: str, value: Any, limits: Limits) -> str:
    """A text that a tokenizer can read, within the limit of characters."""
    if not isinstance(value, str):
        raise bad(field, f"a text is wanted, not {_kind(value)}")
    if len(value) > limits.prompt_chars:
        raise bad(field, f"{len(value):,} characters; {limits.prompt_chars:,} are taken at most")
    try:
        check_text(value, field)
    except UsageError:  # half of a pair of surrogates, as "\ud800"
        raise bad(field, "it holds what is no Unicode") from None
    return value


def whole(field: str, value: Any, least: int, most: int) -> int:
    """A whole number within bounds; true and false are none, nor is 2.0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad(field, f"a whole number is wanted, not {_kind(value)}")
    if not least <= value <= most:
        raise bad(field, f"{shown(value)} is not within {least} to {most:,}")
    return value


def finite(field: str, value: Any, least: float, most: float) -> float:
    """A number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad(field, f"a number is wanted, not {_kind(value)}")
    if not (least <= value <= most and math.isfinite(value)):
        raise bad(field, f"it is not within {least:g} to {most:g}")
    return float(value)


def ranged(field: str, value: Any, limits: Limits) -> int | float:
    """A sampling option that a request or a preset gives."""
    if field in ("steps", "decoder_steps"):
        return whole(field, value, 1, limits.steps)
    return finite(field, value, 0, GUIDANCE)


def flag(field: str, value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise bad(field, f"true or false is wanted, not {_kind(value)}")
    return value


def size(field: str, value: Any) -> tuple[int, int] | None:
    """Height and width of "WIDTHxHEIGHT" in pixels; None for "auto"."""
    if value == "auto":
        return None
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise bad(field, 'a size such as "512x768" (width x height) is wanted, or "auto"')
    return int(found[2]), int(found[1])


def neutral(field: str, value: Any) -> None:
    """Refusal for a value of one of OpenAI's fields that would ask for something else."""
    if value not in NEUTRAL[field]:
        more = ": nothing is stored here" if (field, value) == ("response_format", "url") else ""
        wanted = " or ".join(f'"{each}"' for each in NEUTRAL[field])
        raise bad(field, f"only {wanted} is taken{more}")


def one_of(field: str, value: Any, known: Mapping[str, Any], what: str) -> Any:
    """What a name stands for."""
    if not isinstance(value, str) or value not in known:
        names = ", ".join(known) or "none"
        raise bad(field, f"there is no such {what}; there are: {names}")
    return known[value]


def _kind(value: Any) -> str:
    """What JSON calls the type of a value."""
    kinds = {type(None): "null", bool: "true or false", int: "a number", float: "a number"}
    kinds |= {str: "a text", list: "a list", dict: "an object"}
    return kinds[type(value)]
