"""What pictures are made of: a file's prompts, or the demo's held-out scenes."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from runtimes.bundle.manifest import Model
from runtimes.errors import UsageError
from runtimes.prompts import read_prompts
from validation.demo.scenes import Scene, caption, held_out_scenes

DEMO_COUNT = 200


@dataclass(frozen=True)
class Prompts:
    """Prompts in order and where they come from; `scenes` is what the judge looks for."""

    source: str
    texts: tuple[str, ...]
    scenes: tuple[Scene, ...] | None = None

    @property
    def sha256(self) -> str:
        """Of all prompts, in order."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()


def prompts_for(
    model: Model, path: Path | None, count: int | None, option: str = "--count"
) -> Prompts:
    """The first `count` prompts of a file, or of the demo's held-out scenes when there is none.

    UsageError for a file that holds none, holds one twice, or fewer than `count`.
    """
    if count is not None and count < 1:
        raise UsageError(f"{option} is {count}; it must be at least 1")
    if path is not None:
        texts = read_prompts(path, "--prompts", distinct=True)
        if count is not None and count > len(texts):
            raise UsageError(f"{option} {count}: {path} has {len(texts)} prompts")
        return Prompts(path.name, tuple(texts[:count]))
    if not model.is_demo:
        raise UsageError(f"give --prompts FILE, one prompt a line: {model.id} has no list here")
    scenes = tuple(held_out_scenes(count or DEMO_COUNT))
    return Prompts("held-out scenes", tuple(caption(scene) for scene in scenes), scenes)
