"""A graph's files under their own names, for readers that refuse links.

A hub's cache keeps a snapshot as links into its `blobs`, under names without suffixes: OpenVINO
refuses the weights of such an ONNX graph, for they lie outside the graph's folder.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def real_files(graph: Path, files: tuple[str, ...]) -> Iterator[Path]:
    """The path of a graph beside whose file no other one of its `files` (names there) is a link.

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
