"""Fetch a checkpoint from the hub: first what says what it is, then the weights that are needed."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from exporter.checkpoint.weight_files import files_of, stem_of
from runtimes.errors import UsageError

# Configs, tokenizer, model card; the weights are added by name. No pickles.
_CONFIGS = ["*.json", "*/*.json", "*/*.txt", "README.md"]


def fetch(
    name: str,
    revision: str | None,
    variant: str | None,
    flag: str,
    check: Callable[[Path], object] | None,
) -> Path:
    """The folder of a hub model in the local cache, fetched as far as the hub can be reached.

    `check` sees the configs before any weights are fetched; None: no weights are. Raises
    UsageError when there is no such model.
    """
    folder = _snapshot(name, revision, _CONFIGS, flag)
    if check is None:
        return folder
    check(folder)
    names = _listing(name, folder.name)
    patterns = ["*/*.safetensors"] if names is None else needed(names, variant)
    return _snapshot(name, folder.name, patterns, flag) if patterns else folder


def needed(names: list[str], variant: str | None) -> list[str]:
    """The weight files of a repository's list of files that an export reads."""
    components: dict[str, list[str]] = defaultdict(list)
    for name in names:
        component, slash, file = name.rpartition("/")
        if slash:
            components[component].append(file)
    return [
        f"{component}/{file}"
        for component, files in sorted(components.items())
        for file in files_of(files, stem_of(component), variant)
    ]


def _listing(name: str, commit: str) -> list[str] | None:
    """A repository's files at a commit; None where the hub cannot be asked."""
    import huggingface_hub  # slow to import, and needed for hub ids only

    try:
        return list(huggingface_hub.list_repo_files(name, revision=commit))
    except Exception:  # offline in one of many ways; the cache may hold all of it
        return None


def _snapshot(name: str, revision: str | None, patterns: list[str], flag: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"{flag} {name} (revision {revision or 'main'}): no such folder here, and the hub has "
            f"no such model, cannot be reached, or has it not in the local cache ({reason})"
        ) from None
    return Path(folder)
