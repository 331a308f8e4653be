"""Which file an adapter is: a path with its weight, from the command line."""

import math
from dataclasses import dataclass
from pathlib import Path

from exporter.checkpoint.files import PICKLES
from exporter.checkpoint.ranges import MOST_STRENGTH
from runtimes.errors import UsageError

FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


@dataclass(frozen=True)
class LoraFile:
    """An adapter as asked for: a safetensors file, or the folder that holds it, and its weight."""

    path: Path
    scale: float = 1.0


def parse_lora(text: str) -> LoraFile:
    """PATH or PATH:SCALE. UsageError for a path that is not there or a scale that is no number."""
    head, colon, tail = text.rpartition(":")
    if Path(text).exists() or not (colon and Path(head).exists()):
        return LoraFile(_safetensors(Path(text), text))
    try:
        scale = float(tail)
    except ValueError:
        scale = math.nan
    if not abs(scale) <= MOST_STRENGTH:  # so that NaN is refused
        raise UsageError(f"--lora {text}: the scale '{tail}' is no number such as 0.8")
    return LoraFile(_safetensors(Path(head), text), scale)


def _safetensors(path: Path, text: str) -> Path:
    """The one safetensors file that a path stands for."""
    if not path.exists():
        raise UsageError(f"--lora {text}: no such file or folder")
    if path.is_dir():
        names = [name for name in FILES if (path / name).is_file()]
        if len(names) == 1:
            return path / names[0]
        if names:
            raise UsageError(f"--lora {path} holds {' and '.join(names)}; give one of the files")
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
        if not pickles:
            raise UsageError(f"--lora {path} holds none of {', '.join(FILES)}; give the file")
        path = path / pickles[0]
    if path.suffix in PICKLES:
        raise UsageError(
            f"--lora {path} is a pickle, which runs code when it is read; save the adapter with "
            "safe_serialization=True"
        )
    return path
