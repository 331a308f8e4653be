"""Find a checkpoint: a diffusers folder pair, a combined folder, or hub ids with revisions.

Of a hub model, what says what it is is fetched first, then the weights that are needed.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporter.checkpoint.files import cached_model, files_of, stem_of
from exporter.checkpoint.folders import Role, hub_id, locate, not_a_folder, roles, subfolders
from exporter.checkpoint.picture_names import PICTURE_FILES
from exporter.checkpoint.reading import CONFIG_BYTES
from runtimes.bundle.manifest import DEMO_REVISION
from runtimes.bundle.untrusted import read_regular
from runtimes.errors import UsageError

# Configs, tokenizer, model card; the weights are added by name. No pickles.
_CONFIGS = ["*.json", "*/*.json", "*/*.txt", "README.md"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """One diffusers folder on disk; `revision` is a commit hash for hub models, else 'local'.

    `notes`: lines on what was taken where something else was given.
    """

    id: str
    revision: str
    folder: Path
    notes: tuple[str, ...] = ()

    @property
    def front_matter(self) -> dict[str, str]:
        """The model card's one-line YAML fields; a list's first entry stands for the list."""
        text = _card(self.folder / "README.md")
        match = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        pairs = re.findall(r"^(\w+):[ \t]*(?:\n- *)?(.*)$", match[1] if match else "", re.MULTILINE)
        return {key: _plain(value) for key, value in pairs}


def _card(path: Path) -> str:
    """A model card's text; '' where there is none that can be read: people write it for people."""
    try:
        return read_regular(path, CONFIG_BYTES).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def _plain(value: str) -> str:
    """A field's value as it can be shown and stored: without quotes, on one line."""
    return "".join(filter(str.isprintable, value)).strip().strip("'\"")[:500]


# The checkpoint that ships with this package: the default model.
DEMO = Path(__file__).parents[1] / "demo_checkpoint"


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

    `weights=False` fetches configs alone from the hub. A folder that holds the prior too, saved by
    WuerstchenCombinedPipeline or with both as folders in it, is both. Raises UsageError saying what
    was looked for, and for a model of another kind.
    """
    _check_swapped(model, prior, flag)
    source = find_source(model, revisions[0], variant, flag, "decoder", weights=weights)
    if prior:
        return source, find_source(
            prior, revisions[1], variant, "--prior", "prior", weights=weights
        )
    if (source.folder / "prior_prior").is_dir():
        return source, source
    siblings = subfolders(source.folder.parent, "prior")
    if source.notes and siblings:  # both were in the folder that was given
        return source, find_source(model, revisions[0], variant, flag, "prior", weights=weights)
    named = source.front_matter.get("prior")
    if not named:
        such = f", such as {siblings[0]}" if len(siblings) == 1 else ""
        raise UsageError(
            f"{flag} {model} holds no prior and its model card names none: give --prior{such}"
        )
    return source, find_source(named, revisions[1], variant, "--prior", "prior", weights=weights)


def find_source(
    name: str,
    revision: str | None,
    variant: str | None,
    flag: str,
    role: Role,
    *,
    weights: bool = True,
) -> Source:
    """The folder of a local path, hub id or address on the hub that has a role of the pair.

    Raises UsageError saying what was looked for.
    """
    path = _on_disk(name)
    if path is not None and not path.is_dir():
        raise UsageError(not_a_folder(path, name, flag))
    if path is not None:
        if revision is not None:
            raise UsageError(f"{flag} {name} is a local folder: revisions are for hub ids")
        return _local(*locate(path.resolve(), role, flag))
    name, revision = _address(name, revision, flag)
    if not _HUB_ID.fullmatch(name):
        raise UsageError(f"{flag} {name}: no such folder, and no hub id (owner/name)")

    def check(folder: Path) -> None:
        locate(folder, role, flag)

    snapshot = _fetch(name, revision, variant, flag, check if weights else None)
    folder, notes = locate(snapshot, role, flag)
    return Source(name, snapshot.name, folder, notes)


def _on_disk(name: str) -> Path | None:
    """The file or folder of a name, '~' expanded where a shell left it; None for none."""
    paths = (Path(name), Path(os.path.expanduser(name)))
    return next((path for path in paths if path.exists()), None)


def _check_swapped(model: str, prior: str | None, flag: str) -> None:
    paths = [_on_disk(name) for name in (model, prior) if name is not None]
    kinds = [roles(path) for path in paths if path is not None and path.is_dir()]
    if kinds == [("prior",), ("decoder",)]:
        raise UsageError(
            f"{flag} is the prior and --prior the decoder: give {flag} {prior} --prior {model}"
        )


def _address(name: str, revision: str | None, flag: str) -> tuple[str, str | None]:
    """A hub id and revision; the address of a model's page holds both."""
    page = hub_id(name)
    if page is None:
        return name.rstrip("/"), revision
    if None not in (page[1], revision) and page[1] != revision:
        raise UsageError(f"{flag} {name} names revision {page[1]}, another flag {revision}")
    return page[0], page[1] or revision


def _local(folder: Path, notes: tuple[str, ...]) -> Source:
    model = cached_model(folder)  # given by its place in the hub's cache
    if model is not None:
        return Source(model, folder.name, folder, notes)
    return Source(folder.name, "local", folder, notes)


def _fetch(
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
    unlisted = ["*/*.safetensors", *PICTURE_FILES]
    patterns = unlisted if names is None else _needed(names, variant)
    return _snapshot(name, folder.name, patterns, flag) if patterns else folder


def _needed(names: list[str], variant: str | None) -> list[str]:
    """The weight files of a repository's list of files that an export reads.

    The picture side's, which lie beside the components' folders, are among them.
    """
    components: dict[str, list[str]] = defaultdict(list)
    for name in names:
        component, slash, file = name.rpartition("/")
        if slash:
            components[component].append(file)
    beside = [name for name in names if name.rpartition("/")[2] in PICTURE_FILES]
    return [
        *beside,
        *(
            f"{component}/{file}"
            for component, files in sorted(components.items())
            for file in files_of(files, stem_of(component), variant)
        ),
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
