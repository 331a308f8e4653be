"""Find a checkpoint: a diffusers folder pair, a combined folder, or hub ids with revisions."""

import re
from dataclasses import dataclass
from pathlib import Path

from runtimes.errors import UsageError
from runtimes.manifest import DEMO_REVISION

# What is fetched from a hub repository: configs, tokenizer, model card, safetensors. No pickles.
_HUB_PATTERNS = ["*.json", "*/*.json", "*/*.txt", "README.md"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """One diffusers folder on disk; `revision` is a commit hash for hub models, else 'local'."""

    id: str
    revision: str
    folder: Path

    @property
    def front_matter(self) -> dict[str, str]:
        """The model card's one-line YAML fields; a list's first entry stands for the list."""
        card = self.folder / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        match = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        pairs = re.findall(r"^(\w+):[ \t]*(?:\n- *)?(.*)$", match[1] if match else "", re.MULTILINE)
        return {key: value.strip().strip("'\"") for key, value in pairs}


# The checkpoint that ships with this package: the default model.
DEMO = Path(__file__).parent / "demo_checkpoint"


def demo_pair() -> tuple[Source, Source]:
    """Decoder and prior of the demo checkpoint."""
    names = ("wuerstchen", "wuerstchen-prior")
    decoder, prior = (Source(f"demo/{name}", DEMO_REVISION, DEMO / name) for name in names)
    return decoder, prior


def find_pair(
    model: str,
    prior: str | None,
    revisions: tuple[str | None, str | None] = (None, None),
    variant: str | None = None,
    flag: str = "--model",
    *,
    weights: bool = True,
) -> tuple[Source, Source]:
    """Decoder and prior folders; the prior's is the one given, or named by the model card.

    `weights=False` fetches configs alone from the hub.

    A folder that holds the prior too (saved by WuerstchenCombinedPipeline) is both.
    """
    source = find_source(model, revisions[0], variant, flag, weights=weights)
    if (source.folder / "prior_prior").is_dir():
        return source, source
    named = prior or source.front_matter.get("prior")
    if not named:
        raise UsageError(
            f"{flag} {model} holds no prior and its model card names none: give --prior"
        )
    return source, find_source(named, revisions[1], variant, "--prior", weights=weights)


def find_source(
    name: str, revision: str | None, variant: str | None, flag: str, *, weights: bool = True
) -> Source:
    """The folder of a local path or hub id. Raises UsageError saying what was looked for."""
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise UsageError(f"{flag} {name} is a local folder: revisions are for hub ids")
        return _local(name, folder.resolve())
    if folder.exists():
        raise UsageError(f"{flag} {name} is a file; give a diffusers folder or a hub id")
    if not _HUB_ID.fullmatch(name):
        raise UsageError(f"{flag} {name}: no such folder, and no hub id (owner/name)")
    return _from_hub(name, revision, variant, flag, weights)


def _local(name: str, folder: Path) -> Source:
    # A snapshot of a hub cache names its repository and commit in its path.
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        repository = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
        return Source(repository, folder.name, folder)
    return Source(folder.name, "local", folder)


def _from_hub(
    name: str, revision: str | None, variant: str | None, flag: str, weights: bool
) -> Source:
    import huggingface_hub  # slow to import, and needed for hub ids only
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = list(_HUB_PATTERNS)
    if weights:
        patterns.append(f"*/*.{variant}*.safetensors" if variant else "*/*.safetensors")
    # A repository's half-size twins are left out unless asked for.
    ignored = [] if variant else ["*/*.fp16.safetensors", "*/*.fp16-*.safetensors"]
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=ignored
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"{flag} {name} (revision {revision or 'main'}): no such folder here, and the hub has "
            f"no such model, cannot be reached, or has it not in the local cache ({reason})"
        ) from None
    return Source(name, Path(folder).name, Path(folder))
