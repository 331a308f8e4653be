"""Presets: names for sampling options, from the file that the server was started with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtimes.errors import UsageError, reason_of
from runtimes.serve.fields import ranged
from runtimes.serve.limits import Limits
from runtimes.serve.refusal import Refusal

Preset = Mapping[str, Any]
KEYS = ("steps", "decoder_steps", "guidance", "decoder_guidance")
_MOST_BYTES = 100_000


def read_presets(path: Path | None, limits: Limits) -> dict[str, Preset]:
    """The presets of a JSON file, {"fast": {"steps": 10, "guidance": 4.0}, ...}; {} without one.

    UsageError names what is wrong in it.
    """
    if path is None:
        return {}
    found = _json(path)
    if not isinstance(found, dict):
        raise UsageError(f'--presets {path} is no JSON object such as {{"fast": {{"steps": 10}}}}')
    return {name: _preset(path, name, given, limits) for name, given in found.items()}


def _preset(path: Path, name: str, given: object, limits: Limits) -> Preset:
    where = f"--presets {path}, {name!r}"
    if not isinstance(given, dict):
        raise UsageError(f"{where} is no JSON object")
    if unknown := sorted(given.keys() - set(KEYS)):
        raise UsageError(f"{where} has {unknown[0]!r}; a preset has {', '.join(KEYS)}")
    try:
        return {key: ranged(key, value, limits) for key, value in given.items()}
    except Refusal as error:
        raise UsageError(f"{where}, {error}") from None


def _json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--presets {path} cannot be read: {reason_of(error)}") from None
    if len(data) > _MOST_BYTES:
        raise UsageError(f"--presets {path} has more than {_MOST_BYTES:,} bytes")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--presets {path} is no JSON: {error}") from None
