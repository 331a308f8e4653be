"""Every step on the disk fails once: one line says so, what was there stays, nothing is left."""

import errno

import pytest
from bundle_places import littered, write_bundle

from exporter.partial import PartialExport
from runtimes.bundle.atomic_file import atomic_file
from runtimes.bundle.manifest import Graph
from runtimes.bundle.write import atomic_folder, check_output
from runtimes.errors import RunError, UsageError
from validation.trust.disk import Disk, failing, listing

ERRORS = {
    "full": {"number": errno.ENOSPC, "stays": True},
    "full for a moment": {"number": errno.ENOSPC},
    "broken": {"number": errno.EIO},
}
OLD = {"stage_a/model.onnx": "old a", "stage_b/model.onnx": "old b", "README.md": "old"}
NEW = {"stage_a/model.onnx": "new a", "stage_c/model.onnx": "new c", "README.md": "new"}


def new_folder(home):
    with atomic_folder(home / "deep/er/bundle", overwrite=False) as part:
        write_bundle(part, NEW)


def replaced_bundle(home):
    check_output(home / "old", overwrite=True)
    with atomic_folder(home / "old", overwrite=True) as part:
        write_bundle(part, NEW)


def replaced_file(home):
    with atomic_file(home / "file") as file:
        file.write(b"new" * 10_000)
        file.write(b"end")


def partial_export(home):
    """Two graphs into the partial export, and both of them into the bundle."""
    output = home / "old"
    partial = PartialExport(output)
    with partial.locked(), partial.open(keep=False), atomic_folder(output, overwrite=True) as part:
        records = []
        for name in ("stage_a", "stage_c"):
            (partial.folder / name).mkdir()
            (partial.folder / name / "model.onnx").write_text(f"new {name}")
            graph = Graph(f"{name}/model.onnx", "fp32", (), ())
            records.append(partial.finish(name, graph))
        for record in records:
            partial.place(record, part)
        write_bundle(part, {"README.md": "new"})
    partial.remove()


WORKS = {work.__name__: work for work in (
    new_folder, replaced_bundle, replaced_file, partial_export)}  # fmt: skip


def prepared(home):
    littered(write_bundle(home / "old", OLD))
    (home / "file").write_text("old")
    return listing(home)


def outcome(work, home, disk):
    """What a work says on a disk, one line or nothing, and what is there then."""
    before, said = prepared(home), ""
    with failing(disk):
        try:
            WORKS[work](home)
        except (RunError, UsageError) as error:
            said = str(error)
    return before, said, listing(home)


@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.parametrize("work", list(WORKS))
def test_each_step_fails_once(tmp_path, work, error):
    whole = Disk(0, errno.EIO)
    _, said, new = outcome(work, tmp_path / "0", whole)
    assert not said and whole.done > 4
    for step in range(1, whole.done + 1):
        disk = Disk(step, **ERRORS[error])
        before, said, after = outcome(work, tmp_path / str(step), disk)
        assert disk.failed and "\n" not in said
        assert after == (before if said else new), f"{disk.failed}: {said}"
        # A folder that is there already need not be made, and what is not linked is copied.
        assert said or disk.failed.startswith(("mkdir", "link")), disk.failed
