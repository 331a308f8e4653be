"""The patterns of a PEFT configuration, which name the modules of other ranks and alphas.

They are regular expressions, and some take longer than the sun will shine for a name of forty
letters. What tools write are names, with a wildcard or a choice at most.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_MOST = 500  # characters of one
_MOST_CHOICES = 2  # wildcards and groups in one, of which none may be repeated
_MOST_ALTERNATIVES = 8
_MOST_COSTLY = 16  # patterns that are no plain name


@dataclass(frozen=True)
class Patterns:
    """Values by patterns, the first that fits a module's name holding."""

    pairs: tuple[tuple[re.Pattern[str], float], ...] = ()

    def value(self, module: str, default: float | None) -> float | None:
        """The value of a module: patterns fit the end of its name, after a dot or in full."""
        found = (value for pattern, value in self.pairs if pattern.match(module))
        return next(found, default)


def compiled(values: Mapping[str, float]) -> Patterns:
    """Patterns with their values; ValueError names one that is none, or may take too long."""
    costly = [pattern for pattern in values if _choices(pattern)]
    if len(costly) > _MOST_COSTLY:
        raise ValueError(f"has {len(costly)} patterns that are no names of modules")
    return Patterns(tuple((_compiled(pattern), value) for pattern, value in values.items()))


def _compiled(pattern: str) -> re.Pattern[str]:
    repeated = re.search(r"\)[*+?{]", pattern)
    alternatives = pattern.count("|")
    if len(pattern) > _MOST or repeated or alternatives > _MOST_ALTERNATIVES:
        raise ValueError(f"has a pattern that may take too long, '{pattern[:60]}'")
    if _choices(pattern) > _MOST_CHOICES:
        raise ValueError(f"has a pattern that may take too long, '{pattern[:60]}'")
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})$")
    except (re.error, OverflowError, RecursionError):
        raise ValueError(f"has no pattern '{pattern[:60]}'") from None


def _choices(pattern: str) -> int:
    return len(re.findall(r"[*+?{(]", pattern))
