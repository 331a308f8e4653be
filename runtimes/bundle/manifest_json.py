"""The manifest as JSON, and what its values have to be beside their types."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from runtimes.bundle.graph_files import GRAPH_SUFFIXES
from runtimes.bundle.manifest import (
    FORMAT,
    MANIFEST_NAME,
    READABLE_VERSIONS,
    Denoiser,
    Manifest,
    Tensor,
)
from runtimes.bundle.ranges import shown
from runtimes.bundle.typed_json import decode
from runtimes.bundle.untrusted import parse_json, read_regular
from runtimes.errors import RunError

# Of bundle.json: the demo's has 0.1 MB, of which the plans' lists of weights are most; the largest
# that the ranges of its fields allow would take hundreds.
MOST_BYTES = 16_000_000
MOST_VALUES = 1_000_000
Fault = tuple[str, str]  # where in the manifest, and what is wrong there


def to_json(manifest: Manifest) -> str:
    """The manifest as indented JSON text, its own hash in it."""
    value = dataclasses.asdict(dataclasses.replace(manifest, sha256=_BLANK))
    if manifest.mobile is None:  # most bundles are for any machine
        del value["mobile"]
    before, blank, after = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").rpartition(
        _BLANK
    )
    digest = hashlib.sha256((before + blank + after).encode()).hexdigest()
    return before + digest + after


_BLANK = "0" * 64  # in the place of a manifest's own hash while it is computed
_MAKE = "make one with 'python -m exporter'"


def read_manifest(folder: Path) -> Manifest:
    """Parse `folder/bundle.json`; RunError names what is missing, unknown or mistyped."""
    path = folder / MANIFEST_NAME
    try:
        content = read_regular(path, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST_NAME}"))
        advice = f"did you mean {folder / inside[0]}?" if inside else _MAKE
        raise RunError(f"{folder} is no bundle: it has no {MANIFEST_NAME}; {advice}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{path} cannot be read ({reason})") from None
    try:
        value = parse_json(content, MOST_VALUES)
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); export the bundle again") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise RunError(f"{path} is not a {FORMAT} manifest")
    version = value.get("format_version")
    if type(version) is not int or version not in READABLE_VERSIONS:
        raise RunError(
            f"{path} has format version {shown(version)}, this program reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; export the bundle again with a matching "
            "version"
        )
    _check_unchanged(path, content, value.get("sha256"))
    manifest = decode(Manifest, value, str(path))
    check_manifest(manifest, str(path))
    return manifest


def _check_unchanged(path: Path, content: bytes, claimed: object) -> None:
    """RunError when a manifest is not as it was written; what is no hash is for `decode`."""
    if not isinstance(claimed, str) or not claimed.isascii() or len(claimed) != len(_BLANK):
        return
    for text in (content, content.replace(b"\r\n", b"\n")):  # version control may rewrite these
        if hashlib.sha256(text.replace(claimed.encode(), _BLANK.encode())).hexdigest() == claimed:
            return
    raise RunError(
        f"{path} is not as it was written (SHA-256 differs); export the bundle again, or remove "
        'its "sha256" where you changed it yourself'
    )


def check_manifest(manifest: Manifest, where: str) -> None:
    """RunError naming the first value that cannot be meant."""
    for place, fault in _faults(manifest):
        raise RunError(f"{where}.{place}: {fault}")


def _faults(manifest: Manifest) -> Iterator[Fault]:
    """What no range of one field can say: how fields agree with each other."""
    suffixes = GRAPH_SUFFIXES[manifest.backend]
    for name, graph in manifest.graphs.items():
        if not graph.file.endswith(suffixes):
            ends = " or ".join(suffixes)
            yield f"graphs.{name}.file", f"graphs of an {manifest.backend} bundle end in {ends}"
    for name in ("stage_c", "stage_b"):
        yield from _denoiser(manifest, name)
    for name, tokenizer in manifest.tokenizers.items():
        if name in manifest.graphs:
            ids = manifest.graphs[name].inputs[0]
            yield from _axis(f"graphs.{name}", ids, 1, tokenizer.max_length, "max_length")
    if manifest.format_version > 1:
        yield from _host(manifest)


def _denoiser(manifest: Manifest, name: str) -> Iterator[Fault]:
    denoiser: Denoiser = getattr(manifest.sampling, name)
    where, times = f"sampling.{name}", denoiser.timesteps
    steps = len(times) - 1
    if any(later >= earlier for earlier, later in itertools.pairwise(times)):
        yield f"{where}.timesteps", "each has to be below the one before it"
    for field, rows in (("schedule", denoiser.schedule), ("embeddings", denoiser.embeddings)):
        if len(rows) != steps:
            yield f"{where}.{field}", f"expected {steps} rows, one a step, found {len(rows)}"
    width = 2 * len(denoiser.timestep_frequencies) + denoiser.timestep_padding
    for index, row in enumerate(denoiser.embeddings):
        if len(row) != width:
            yield f"{where}.embeddings[{index}]", f"expected {width} values, found {len(row)}"
    for tensor in manifest.graphs[name].inputs if name in manifest.graphs else ():
        if tensor.name == "latents":
            yield from _axis(f"graphs.{name}", tensor, 1, denoiser.channels, "channels")
        if tensor.name == "timestep_embedding":
            yield from _axis(f"graphs.{name}", tensor, 1, width, "width of the embeddings")


def _axis(where: str, tensor: Tensor, axis: int, size: int, what: str) -> Iterator[Fault]:
    """A tensor's axis that is not the size which another field has."""
    found = tensor.shape[axis] if axis < len(tensor.shape) else None
    if found != size:
        yield f"{where}: '{tensor.name}'", f"axis {axis} is {found}, the {what} is {size}"


def _host(manifest: Manifest) -> Iterator[Fault]:
    """What format version 2 says in addition must be there, and speak of this bundle."""
    for name, graph in manifest.graphs.items():
        if not graph.compute:
            yield f"graphs.{name}.compute", f"{_MISSING} {manifest.format_version}"
        for data in graph.data:
            if data.file not in manifest.files:
                yield f"graphs.{name}.data", f"'{data.file}' is none of the bundle's files"
    for name, tokenizer in manifest.tokenizers.items():
        if tokenizer.rules is None:
            yield f"tokenizers.{name}.rules", f"{_MISSING} {manifest.format_version}"
    if manifest.host is None:
        yield "host", f"{_MISSING} {manifest.format_version}"
        return
    for call in manifest.host.run:
        if call.graph not in manifest.graphs:
            yield "host.run", f"there is no graph '{call.graph}'"
    if not manifest.host.sizes:
        yield "host.sizes", "expected the default size at least"


_MISSING = "it is missing, in a manifest of format version"
