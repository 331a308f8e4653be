"""How strongly an adapter is meant to act: rank and alpha from its PEFT configuration."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.checkpoint.lora_names import DOTTED
from runtimes.errors import UsageError

_BESIDE = "adapter_config.json"  # PEFT's, next to its adapter_model.safetensors
_HEADER = "lora_adapter_metadata"  # diffusers', in the file's own header
# What would change the result in ways that are not fused here, and the values that are harmless.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "peft_type": ("LORA", None),
    # Other ways to start from change the base weights, too.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "alora_invocation_tokens": (None, []),
}


@dataclass(frozen=True)
class LoraConfig:
    """PEFT's LoraConfig as far as it matters once trained; None where a file has none.

    Patterns are regular expressions that a module's name ends with, after a dot or in full.
    """

    r: int | None = None
    lora_alpha: float | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False

    def factor(self, file: Path, module: str, rank: int, alpha: float | None) -> float:
        """alpha / rank of a module, alpha / sqrt(rank) under rsLoRA; 1 where no alpha is given.

        `alpha` is the one in the file's tensors. Raises UsageError when the rank is another than
        the configuration's.
        """
        expected = _pattern(self.rank_pattern, module, self.r)
        if expected is not None and expected != rank:
            raise UsageError(
                f"--lora {file}: '{module}' has rank {rank}, its configuration says {expected}"
            )
        if alpha is None:
            alpha = _pattern(self.alpha_pattern, module, self.lora_alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_config(file: Path, header: Mapping[str, str], part: str) -> LoraConfig:
    """One part's configuration in a file's header or beside it, an empty one without either.

    Raises UsageError for one that cannot be read, or that asks for what is no plain LoRA.
    """
    beside = file.with_name(_BESIDE)
    if _HEADER in header:
        where, text = f"{file}, {_HEADER}", header[_HEADER]
    elif file.name == "adapter_model.safetensors" and beside.is_file():
        where, text = str(beside), _text(beside)
    elif file.name == "adapter_model.safetensors":
        raise UsageError(f"--lora {file}: {_BESIDE} is missing beside it, which has its alpha")
    else:
        return LoraConfig()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--lora {where} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"--lora {where} holds no JSON object")
    value = _of_part(value, part)
    for key, harmless in _REFUSED.items():
        if value.get(key) not in harmless:
            raise UsageError(f"--lora {where}: {key} {value[key]!r} cannot be fused")
    config = LoraConfig(
        r=value.get("r"),
        lora_alpha=value.get("lora_alpha"),
        rank_pattern=value.get("rank_pattern") or {},
        alpha_pattern=value.get("alpha_pattern") or {},
        use_rslora=value.get("use_rslora") or False,
    )
    _check(config, where)
    return config


def _of_part(value: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A pipeline's header says 'unet.r' and 'text_encoder.r' where a model's says 'r'."""
    prefixes = {prefix: owner for owner, names in DOTTED.items() for prefix in names}
    settings = {}
    for key, setting in value.items():
        prefix = next((p for p in prefixes if key.startswith(p)), "")
        if prefixes.get(prefix, part) == part:
            settings[key.removeprefix(prefix)] = setting
    return settings


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--lora {file} cannot be read: {error}") from None


def _check(config: LoraConfig, where: str) -> None:
    for name in ("rank_pattern", "alpha_pattern"):
        pairs = getattr(config, name)
        if not isinstance(pairs, dict) or not all(_is_number(n) for n in pairs.values()):
            raise UsageError(f"--lora {where}: {name} must map names to numbers")
        for pattern in pairs:
            try:
                re.compile(pattern)
            except re.error:
                raise UsageError(f"--lora {where}: {name} has no pattern '{pattern}'") from None
    for name in ("r", "lora_alpha"):
        value = getattr(config, name)
        if value is not None and not _is_number(value):
            raise UsageError(f"--lora {where}: {name} is {value!r}, no number")
    if type(config.use_rslora) is not bool:
        raise UsageError(f"--lora {where}: use_rslora is {config.use_rslora!r}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _pattern(pairs: Mapping[str, float], module: str, default: float | None) -> float | None:
    for pattern, value in pairs.items():
        if re.match(rf"(?:.*\.)?(?:{pattern})$", module):
            return value
    return default
