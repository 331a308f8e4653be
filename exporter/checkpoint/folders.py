"""What a folder on disk is: a Wuerstchen decoder, a prior, both, or something else."""

import re
from pathlib import Path
from typing import Any, Literal

from exporter.checkpoint.files import PICKLES
from exporter.checkpoint.reading import read_json
from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.errors import UsageError

Role = Literal["decoder", "prior"]
ROLES: dict[Role, str] = {
    "decoder": "decoder, vqgan, text_encoder, tokenizer and scheduler",
    "prior": "prior, text_encoder, tokenizer and scheduler",
}
_INDEX = "model_index.json"
_PIPELINES: dict[str, tuple[Role, ...]] = {
    "WuerstchenDecoderPipeline": ("decoder",),
    "WuerstchenPriorPipeline": ("prior",),
    "WuerstchenCombinedPipeline": ("decoder", "prior"),
}
_NETWORKS = {"WuerstchenDiffNeXt", "PaellaVQModel", "WuerstchenPrior"}
# Folders by which a pipeline of another name is recognised: someone's own class, or none named.
_PARTS: dict[str, Role] = {"decoder": "decoder", "vqgan": "decoder", "prior": "prior"}
_CHECKPOINTS = (".safetensors", *PICKLES, ".gguf")


def roles(folder: Path) -> tuple[Role, ...]:
    """What a folder can be given as; () where it is no pipeline of Wuerstchen's kind.

    Raises UsageError for another kind of model, named by its model_index.json.
    """
    index = _peek(folder / _INDEX)
    name, classes = _class_name(index), _component_classes(index)
    if "StableCascade" in " ".join([name, *classes]):
        raise UsageError(
            f"{folder} is a {name}: Stable Cascade, Wuerstchen's successor, has other networks and "
            "is not supported; give a Wuerstchen checkpoint such as warp-ai/wuerstchen"
        )
    if name in _PIPELINES:
        return _PIPELINES[name]
    if (folder / "prior_prior").is_dir():
        return ("decoder", "prior")
    parts = tuple(dict.fromkeys(r for part, r in _PARTS.items() if (folder / part).is_dir()))
    if name and (not parts or (classes and not _NETWORKS & set(classes))):
        raise UsageError(
            f"{folder} is a {name}, not Wuerstchen: give a Wuerstchen checkpoint such as "
            "warp-ai/wuerstchen"
        )
    return parts


def subfolders(folder: Path, role: Role) -> list[Path]:
    """The folders in a folder that are pipelines of one role alone, by their model_index.json."""
    candidates = sorted(path.parent for path in folder.glob(f"*/{_INDEX}"))
    classes = {name for name, kinds in _PIPELINES.items() if kinds == (role,)}
    return [path for path in candidates if _class_name(_peek(path / _INDEX)) in classes]


def locate(folder: Path, role: Role, flag: str) -> tuple[Path, tuple[str, ...]]:
    """The folder of a role, where it is or holds one, with a line on what was taken instead.

    Raises UsageError saying what to give for a bundle, a component, a folder of the other role, a
    folder with several of the role, or another kind of model.
    """
    if (folder / MANIFEST_NAME).is_file():
        raise UsageError(_bundle(folder, flag))
    kinds = roles(folder)
    if role in kinds:
        return folder, ()
    if kinds:
        raise UsageError(_other_role(folder, role, flag))
    inside = subfolders(folder, role)
    if len(inside) == 1:
        return inside[0], (f"{flag} {folder}: its {inside[0].name} is taken as the {role}",)
    if inside:
        names = ", ".join(path.name for path in inside)
        raise UsageError(f"{flag} {folder} holds several: give one of its folders {names}")
    if (folder / "config.json").is_file() and (folder.parent / _INDEX).is_file():
        raise UsageError(f"{flag} {folder} is one component of a checkpoint: give {folder.parent}")
    return folder, ()  # what it lacks is said component by component


def not_a_folder(path: Path, name: str, flag: str) -> str:
    """What to give instead of a file."""
    if path.name == MANIFEST_NAME:
        return _bundle(path.parent, flag)
    if path.name == _INDEX:
        return f"{flag} {name} is a file: give its folder, {path.parent}"
    if path.suffix in _CHECKPOINTS:
        return (
            f"{flag} {name} is a single weights file: a diffusers folder is needed, with "
            f"{_INDEX}, {ROLES['decoder']} (and a second one for the prior)"
        )
    return f"{flag} {name} is a file; give a diffusers folder or a hub id"


def hub_id(name: str) -> tuple[str, str | None] | None:
    """A model's id and revision from the address of its page on the hub; None for other text.

    Raises UsageError for another address.
    """
    host = r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/"
    page = rf"{host}([\w.-]+/[\w.-]+?)/*(?:/(?:tree|blob|resolve)/([^/?#]+)[^?#]*)?(?:[?#].*)?"
    match = re.fullmatch(page, name)
    if match and match[1].split("/")[0] not in ("datasets", "spaces", "models"):
        return match[1], match[2] and match[2].replace("%2F", "/")
    if re.match(rf"{host}|\w+://", name):
        raise UsageError(f"{name} is no model's page on the hub: give a folder or a hub id")
    return None


def _other_role(folder: Path, role: Role, flag: str) -> str:
    other: Role = "prior" if role == "decoder" else "decoder"
    sibling = next(iter(subfolders(folder.parent, role)), None)
    counterpart = str(sibling) if sibling else f"the folder or id that holds {ROLES[role]}"
    model, prior = (counterpart, folder) if role == "decoder" else (folder, counterpart)
    first = flag if role == "decoder" else "--model"
    return f"{flag} {folder} is a {other} alone: give {first} {model} and --prior {prior}"


def _bundle(folder: Path, flag: str) -> str:
    model = _peek(folder / MANIFEST_NAME).get("model")
    name = model.get("id") if isinstance(model, dict) else None
    of = f" ({name})" if name else ""
    return (
        f"{flag} {folder} is an exported bundle: give the checkpoint it was made from{of}; "
        f"'python -m runtimes {folder} ...' runs a bundle"
    )


def _class_name(index: dict[str, Any]) -> str:
    """The pipeline's class; a custom one is named with its module."""
    name = index.get("_class_name")
    return str(name[-1] if isinstance(name, list) and name else name or "")


def _component_classes(index: dict[str, Any]) -> list[str]:
    pairs = (v for k, v in index.items() if not k.startswith("_") and isinstance(v, list))
    return [str(pair[1]) for pair in pairs if len(pair) == 2]


def _peek(path: Path) -> dict[str, Any]:
    """A JSON object to recognise a folder by; {} where there is none to read."""
    try:
        return read_json(path)
    except UsageError:
        return {}
