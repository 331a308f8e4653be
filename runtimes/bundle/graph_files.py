"""Which files of a bundle belong to which graph, and which of all files an engine could read.

The one answer for hashes, sizes, copies and guards.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from runtimes.bundle.manifest import File, Manifest

# What a graph's file, or Core ML's package, is called at its end, by the bundle's backend.
GRAPH_SUFFIXES = {
    "onnx": (".onnx", ".ort"),
    "openvino": (".xml",),
    "coreml": (".mlpackage",),
    "executorch": (".pte",),
    "litert": (".tflite",),
}
# Names under which ONNX and OpenVINO graphs and their weights are found.
_DATA = (".onnx", ".ort", ".onnx_data", ".data", ".xml", ".bin", ".weight", ".weights", ".pb")
# Files for people and other hosts, beside graphs and tokenizers.
_TEXT = (".json", ".txt", ".md")
# How whoever writes an ONNX graph parts it: with this much weight in all, weights lie in one file
# beside it, but for tensors so small that shapes may be computed from them, which stay inside.
EXTERNAL_DATA_BYTES = 1 << 20
SMALL_TENSOR_BYTES = 1 << 10
_LITTER = ("thumbs.db", "desktop.ini")  # what Windows leaves in folders; macOS's names are hidden


def graph_files(manifest: Manifest, name: str) -> dict[str, File]:
    """The files of one graph: all below its folder.

    In the bundle's top folder, or one it shares with other graphs: the graph (a Core ML package is
    a folder), what is called after it (`model.onnx.data`), and data that is called after no graph.
    """
    return {key: file for key, file in manifest.files.items() if _belongs(manifest, name, key)}


def engine_reads(manifest: Manifest, key: str) -> bool:
    """Whether an engine, or the tokenizer, reads a file that the manifest names."""
    path = PurePosixPath(key)
    if path.parent.as_posix() in _tokenizer_folders(manifest) and path.name == "tokenizer.json":
        return True
    owners = [name for name in manifest.graphs if _belongs(manifest, name, key)]
    packaged = any(_below(key, manifest.graphs[name].file) for name in owners)
    return bool(owners) and (packaged or path.suffix not in _TEXT)


def could_be_read(manifest: Manifest, key: str) -> bool:
    """Whether an engine could take a file for its own that the manifest does not name.

    What lies in the folder of a graph or tokenizer.
    """
    if is_litter(key):
        return False
    return any(_below(key, folder) for folder in _tokenizer_folders(manifest)) or any(
        _belongs(manifest, name, key) for name in manifest.graphs
    )


def is_litter(key: str) -> bool:
    """Whether file managers or version control leave files of this name: no graph has such data."""
    path = PurePosixPath(key)
    return any(part.startswith(".") for part in path.parts) or path.name.lower() in _LITTER


def guarded_folders(manifest: Manifest) -> Iterator[tuple[str, bool]]:
    """The folders where a stranger may be in the way, and whether also below them."""
    yield from ((folder, True) for folder in sorted(_tokenizer_folders(manifest)))
    for name, graph in manifest.graphs.items():
        folder = _folder(graph.file)
        yield (folder, not _is_shared(manifest, name))
        yield (graph.file, True)


@contextmanager
def real_files(graph: Path, files: tuple[str, ...]) -> Iterator[Path]:
    """The path of a graph beside whose file no other one of its `files` (names there) is a link.

    A hub's cache keeps a snapshot as links into its `blobs`, under names without suffixes: OpenVINO
    refuses the weights of such an ONNX graph, for they lie outside the graph's folder.

    Where some are, they get a second name in a temporary folder, which takes no space, or are
    copied there where the disk does not do that.
    """
    if not any((graph.parent / name).is_symlink() for name in files):
        yield graph
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in files:
            source, target = (graph.parent / name).resolve(), Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another disk, or one without links
                shutil.copyfile(source, target)
        yield Path(folder) / graph.name


def _belongs(manifest: Manifest, name: str, key: str) -> bool:
    graph = manifest.graphs[name]
    if key == graph.file or _below(key, graph.file):
        return True
    if not _is_shared(manifest, name):
        return _below(key, _folder(graph.file))
    if _folder(key) != _folder(graph.file):
        return False
    others = {other.file for other in manifest.graphs.values()}
    if key in others:
        return False
    nearest = max((stem for stem in map(_stem, others) if key.startswith(f"{stem}.")), default="")
    return nearest == _stem(graph.file) if nearest else key.endswith(_DATA)


def _is_shared(manifest: Manifest, name: str) -> bool:
    """Whether a graph's folder is not its own: the bundle's top, or another graph's, too."""
    folder = _folder(manifest.graphs[name].file)
    others = (graph.file for key, graph in manifest.graphs.items() if key != name)
    return not folder or any(_below(file, folder) for file in others)


def _tokenizer_folders(manifest: Manifest) -> set[str]:
    return {tokenizer.folder for tokenizer in manifest.tokenizers.values()}


def _below(key: str, folder: str) -> bool:
    return bool(folder) and key.startswith(f"{folder}/")


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


def _stem(file: str) -> str:
    """`stage_a/model` of `stage_a/model.onnx`."""
    return file.removesuffix(PurePosixPath(file).suffix)
