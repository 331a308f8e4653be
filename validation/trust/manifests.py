"""Values of a manifest that no bundle can have."""

import json
import random
from collections.abc import Generator, Iterator
from typing import Any

from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.manifest_json import read_manifest
from runtimes.plan import Options, make_plan
from validation.trust.attempt import Attempt, Copy, refused, survived

# In the place of any value: what no field may be, and what some may.
NEVER: tuple[Any, ...] = (
    1 << 80, -(10**400), 1e308, "x" * 100_000, "\ud800", [0] * 20_000, [[[]]], {"": {"": 0}},
)  # fmt: skip
# Written as they are, for they are no JSON.
TEXTS = ("NaN", "Infinity", "-Infinity", "1e999", "[" * 50_000 + "]" * 50_000, "{} {}", "'a'")
SOMETIMES: tuple[Any, ...] = (
    None, True, "", "a\nb", "../../x", "/etc/passwd", -1, 0, -1e-320, 0.1, [], {},
)  # fmt: skip
Place = tuple[str | int, ...]


def values(copy: Copy, chance: random.Random, tries: int) -> Generator[Attempt]:
    """One value of the manifest is another one, or no JSON; its own hash is left out."""
    manifest = json.loads((copy.folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    manifest.pop("sha256", None)
    found = list(_places(manifest))
    for _ in range(tries):
        place = chance.choice(found)
        value = chance.choice((*NEVER, *TEXTS, *SOMETIMES))
        text = _changed(manifest, place, value)
        what = f"{'.'.join(map(str, place))} = {ascii(value)[:40]}"
        with copy.kept():
            (copy.folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
            yield _sometimes(copy, what) if value in SOMETIMES else _never(copy, what)


def _never(copy: Copy, what: str) -> Attempt:
    return refused(what, lambda: read_manifest(copy.folder), MANIFEST_NAME)


def _sometimes(copy: Copy, what: str) -> Attempt:
    """Refused, or such that a run can be laid out with it."""

    def use() -> None:
        make_plan(read_manifest(copy.folder).sampling, Options(), 1, None)

    attempt = survived(what, use)
    return attempt if attempt.verdict == "survived" else refused(what, use, "")


def _places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Where the values of a manifest are; of a list, its first two items."""
    if above:
        yield above
    if isinstance(value, list):
        value = dict(enumerate(value[:2]))
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from _places(item, (*above, key))


def _changed(manifest: dict[str, Any], place: Place, value: Any) -> str:
    """The manifest's text with another value in one place; some of `TEXTS` are no JSON."""
    mark = "@@@"
    new = _put(manifest, place, mark if value in TEXTS else value)
    return json.dumps(new).replace(f'"{mark}"', str(value))


def _put(inside: Any, place: Place, value: Any) -> Any:
    """A copy with another value in one place."""
    if not place:
        return value
    new: Any = dict(inside) if isinstance(inside, dict) else list(inside)
    new[place[0]] = _put(inside[place[0]], place[1:], value)
    return new
