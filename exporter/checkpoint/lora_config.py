"""How strongly an adapter is meant to act: rank and alpha from its PEFT configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from exporter.checkpoint.lora_names import DOTTED
from exporter.checkpoint.lora_patterns import Patterns, compiled
from exporter.checkpoint.ranges import Rank, Ranks, Strength, Strengths, checked
from exporter.checkpoint.reading import CONFIG_BYTES
from runtimes.bundle.ranges import shown
from runtimes.bundle.tokenizer_file import MOST_VALUES
from runtimes.bundle.untrusted import parse_json, read_regular
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
    """PEFT's LoraConfig as far as it matters once trained; None where a file has none."""

    r: Rank | None = None
    lora_alpha: Strength | None = None
    rank_pattern: Ranks | None = None
    alpha_pattern: Strengths | None = None
    use_rslora: bool | None = None


@dataclass(frozen=True)
class Scaling:
    """How each module's rank and alpha are meant: a configuration with its patterns compiled."""

    config: LoraConfig
    ranks: Patterns
    alphas: Patterns

    def factor(self, file: Path, module: str, rank: int, alpha: float | None) -> float:
        """alpha / rank of a module, alpha / sqrt(rank) under rsLoRA; 1 where no alpha is given.

        `alpha` is the one in the file's tensors. Raises UsageError when the rank is another than
        the configuration's.
        """
        expected = self.ranks.value(module, self.config.r)
        if expected is not None and expected != rank:
            raise UsageError(
                f"--lora {file}: '{module}' has rank {rank}, its configuration says {expected:g}"
            )
        if alpha is None:
            alpha = self.alphas.value(module, self.config.lora_alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.config.use_rslora else rank)


def read_config(file: Path, header: Mapping[str, str], part: str) -> Scaling:
    """One part's configuration in a file's header or beside it, an empty one without either.

    Raises UsageError for one that cannot be read, or that asks for what is no plain LoRA.
    """
    beside = file.with_name(_BESIDE)
    if _HEADER in header:
        where, text = f"{file}, {_HEADER}", header[_HEADER].encode("utf-8", errors="replace")
    elif file.name == "adapter_model.safetensors" and beside.exists():
        where, text = str(beside), _text(beside)
    elif file.name == "adapter_model.safetensors":
        raise UsageError(f"--lora {file}: {_BESIDE} is missing beside it, which has its alpha")
    else:
        return Scaling(LoraConfig(), Patterns(), Patterns())
    return _scaling(_of_part(_object(text, where), part), where)


def _scaling(value: Mapping[str, Any], where: str) -> Scaling:
    for key, harmless in _REFUSED.items():
        if value.get(key) not in harmless:
            raise UsageError(f"--lora {where}: {key} {shown(value[key])} cannot be fused")
    kinds = get_type_hints(LoraConfig, include_extras=True)
    known = {k: checked(kinds[k], value[k], f"--lora {where}: {k}") for k in kinds if k in value}
    config = LoraConfig(**known)
    patterns = []
    for name in ("rank_pattern", "alpha_pattern"):
        try:
            patterns.append(compiled(getattr(config, name) or {}))
        except ValueError as error:
            raise UsageError(f"--lora {where}: {name} {error}") from None
    return Scaling(config, *patterns)


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = parse_json(text, MOST_VALUES)
    except ValueError as error:
        raise UsageError(f"--lora {where} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"--lora {where} holds no JSON object")
    return value


def _of_part(value: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A pipeline's header says 'unet.r' and 'text_encoder.r' where a model's says 'r'."""
    prefixes = {prefix: owner for owner, names in DOTTED.items() for prefix in names}
    settings = {}
    for key, setting in value.items():
        prefix = next((p for p in prefixes if key.startswith(p)), "")
        if prefixes.get(prefix, part) == part:
            settings[key.removeprefix(prefix)] = setting
    return settings


def _text(file: Path) -> bytes:
    try:
        return read_regular(file, CONFIG_BYTES)
    except OSError as error:
        raise UsageError(f"--lora {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"--lora {file} cannot be read: {error}") from None
