"""JSON objects of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from exporter.checkpoint.git_lfs import refuse_pointer
from runtimes.errors import UsageError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; UsageError when it is missing or is none."""
    refuse_pointer(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"{path} is missing: this is no complete Wuerstchen checkpoint") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no JSON object")
    return value
