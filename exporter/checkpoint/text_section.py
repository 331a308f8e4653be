"""The text encoder's config, whichever of CLIP's classes a folder was saved by."""

from pathlib import Path
from typing import Any

from runtimes.errors import UsageError

# All of them compute the same hidden states; the latter two hold more, which is not exported.
TEXT_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel")
_TYPES = {"clip_text_model": "CLIPTextModel", "clip": "CLIPModel"}


def class_of(config: dict[str, Any]) -> str | None:
    """The class that a config.json is of, by its name, else by transformers' model type."""
    named = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    return named or _TYPES.get(str(config.get("model_type")))


def text_section(config: dict[str, Any], path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A text encoder's config and a line on it; CLIPModel's has the text encoder's in it.

    As CLIPTextModel.from_pretrained does, the section is taken by itself. Raises UsageError where
    an older version's second section says something else.
    """
    if class_of(config) != "CLIPModel":
        return config, ()
    section = config.get("text_config")
    if not isinstance(section, dict):
        raise UsageError(f"{path} is a config of CLIPModel without a 'text_config'")
    older = config.get("text_config_dict")
    for key, value in (older if isinstance(older, dict) else {}).items():
        if section.get(key, value) != value:
            raise UsageError(
                f"{path}: 'text_config' and 'text_config_dict' differ in '{key}'; save it again "
                "with transformers, as CLIPTextModel"
            )
    return section, (f"{path} is a whole CLIPModel's: its text encoder alone is taken",)
