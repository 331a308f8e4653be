"""bundle/write: a folder appears whole or not at all, nothing is left beside it or lost."""

import os
import stat
import subprocess
import sys
import tempfile

import pytest
from bundle_places import LITTER, contents, littered, write_bundle

from runtimes.bundle import atomic_file as atomic_files
from runtimes.bundle import locks, replacing
from runtimes.bundle.atomic_file import atomic_file
from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.read import open_bundle
from runtimes.bundle.write import atomic_folder, check_new, check_output, check_space
from runtimes.errors import RunError, UsageError

OLD = {"stage_a/model.onnx": "old a", "stage_b/model.onnx": "old b", "README.md": "old"}
NEW = {"stage_a/model.onnx": "new a", "stage_c/model.onnx": "new c", "README.md": "new"}


def left(folder):
    """What a process that was killed a moment ago left; or anything of that name."""
    folder.mkdir()
    (folder / "weights").write_bytes(b"x" * 1000)
    return folder


def test_what_a_killed_process_left_is_removed(tmp_path):
    part = left(tmp_path / ".bundle.bundle.part")
    names = (".bundle2.bundle.part", ".bundle.partial", ".bundle.old", ".bundle.part", ".part")
    others = [left(tmp_path / name) for name in names]
    with atomic_folder(tmp_path / "bundle", overwrite=False) as folder:
        assert folder == part and not list(part.iterdir())
        (folder / "graph").write_text("whole")
    assert all(other.exists() for other in others)
    assert (tmp_path / "bundle/graph").read_text() == "whole"


def test_what_a_killed_process_left_inside_is_removed(tmp_path):
    output = write_bundle(tmp_path / "bundle", OLD)
    dead, mine = left(output / ".bundle.part"), left(output / ".download.part")
    check_output(output, overwrite=True)
    assert not dead.exists() and mine.exists()


def test_only_one_process_writes_an_output(tmp_path):
    output = tmp_path / "bundle"
    refused = pytest.raises(RunError, match=f"another process is writing {output}; wait for it$")
    for files in (OLD, NEW):  # beside its place and inside it
        with atomic_folder(output, overwrite=True) as first:
            write_bundle(first, files)
            with refused, atomic_folder(output, overwrite=True):
                pass
            with refused:
                check_output(output, overwrite=True)
            with atomic_folder(tmp_path / "other", overwrite=True):
                assert first.exists()
        assert contents(output) == files


def test_who_comes_late_replaces_nothing_unasked(tmp_path):
    """The other one was there between the check of the output and its end."""
    output = tmp_path / "bundle"
    with pytest.raises(RunError, match="is there by now"), atomic_folder(output, overwrite=False):
        write_bundle(output, OLD)
    write_bundle(output, OLD)
    with pytest.raises(RunError, match="is there by now"), atomic_folder(output, overwrite=False):
        pytest.fail("it begins to write")
    assert contents(output) == OLD and os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_where_nothing_can_be_locked_a_folder_is_nobodys_to_remove(tmp_path, monkeypatch, place):
    """As on Windows, and on network shares: whether its process lives cannot be told."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    output = tmp_path / "bundle"
    if place == "inside":
        write_bundle(output, OLD)
    with atomic_folder(output, overwrite=True) as part:
        write_bundle(part, NEW)
        named = pytest.raises(RunError, match=f"{part} is there: .* or remove that folder if none")
        with named, atomic_folder(output, overwrite=True):
            pass
    assert contents(output) == NEW and os.listdir(tmp_path) == ["bundle"]
    dead = left(output / ".bundle.part")
    with pytest.raises(RunError, match="is there"), atomic_folder(output, overwrite=True):
        pass
    assert dead.exists()


def test_an_error_leaves_what_was_there(tmp_path):
    output = write_bundle(tmp_path / "bundle", OLD)
    with pytest.raises(ZeroDivisionError), atomic_folder(output, overwrite=True) as part:
        write_bundle(part, NEW)
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert contents(output) == OLD


def test_a_replaced_bundle_keeps_its_folder_and_what_is_no_part_of_it(tmp_path, monkeypatch):
    """Pictures, version control, downloads' notes; a mounted volume or a shell stand in it."""
    output = littered(write_bundle(tmp_path / "bundle", OLD))
    inode = output.stat().st_ino
    monkeypatch.chdir(output / "stage_b")  # of the old bundle alone
    check_output(output, overwrite=True)
    with atomic_folder(output, overwrite=True) as part:
        write_bundle(part, NEW)
    assert contents(output) == NEW | LITTER
    assert output.stat().st_ino == inode
    assert not (output / "stage_b").exists() or os.name == "nt"


@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("error", [OSError(16, "Device or resource busy"), KeyboardInterrupt()])
def test_an_interrupted_replacement_puts_the_old_bundle_back(tmp_path, monkeypatch, at, error):
    output = littered(write_bundle(tmp_path / "bundle", OLD))
    before, rename, done = contents(output), os.rename, 0
    manifest = (output / MANIFEST_NAME).read_bytes()

    def failing(source, target):
        nonlocal done
        done += 1
        if done == at:
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with (
        pytest.raises((RunError, KeyboardInterrupt)),
        atomic_folder(output, overwrite=True) as part,
    ):
        write_bundle(part, NEW)
    assert contents(output) == before
    assert (output / MANIFEST_NAME).read_bytes() == manifest
    assert not (output / "stage_c").exists()
    assert not [p.name for p in output.iterdir() if p.name.endswith((".part", ".new", ".old"))]


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from bundle_places import write_bundle
from pathlib import Path
from runtimes.bundle.read import open_bundle
from runtimes.bundle.write import atomic_folder
import shutil
left = int(sys.argv[1])
def killing(call):
    def counted(*args, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
        return call(*args, **options)
    return counted
with atomic_folder(Path(sys.argv[2]), overwrite=True) as part:
    write_bundle(part, {new!r})
    os.rename = killing(os.rename)
    os.mkdir, os.rmdir, os.unlink = map(killing, (os.mkdir, os.rmdir, os.unlink))
"""


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18])
def test_a_killed_replacement_is_finished_at_the_next_start(tmp_path, at):
    """SIGKILL at any step: the old bundle, or none that opens; then the new one, all of it."""
    output = littered(write_bundle(tmp_path / "bundle", OLD))
    code = KILLED.format(tests=os.path.dirname(__file__), new=NEW)
    run = subprocess.run([sys.executable, "-c", code, str(at), str(output)], check=False)
    assert run.returncode == -9
    is_bundle = (output / MANIFEST_NAME).exists()
    if not is_bundle:
        with pytest.raises(RunError, match="its process was killed: run the command that writes"):
            open_bundle(output)
    texts = {name: text for name, text in contents(output).items() if name in {**OLD, **NEW}}
    assert not is_bundle or texts in (OLD, NEW)
    check_output(output, overwrite=True)
    after = contents(output)
    assert after in (OLD | LITTER, NEW | LITTER)
    assert is_bundle or after == NEW | LITTER
    assert (output / MANIFEST_NAME).exists()


def test_what_an_engine_could_take_for_a_part_is_refused_before_any_work(tmp_path):
    output = write_bundle(tmp_path / "bundle", OLD)
    (output / "stage_c").mkdir()
    check_output(output, overwrite=True)  # an empty folder is in nobody's way
    (output / "stage_c/model.onnx.data").write_text("mine")
    with pytest.raises(UsageError, match=r"stage_c/model\.onnx\.data is no part of the bundle"):
        check_output(output, overwrite=True)


@pytest.mark.parametrize("name", ["notes", "notes/a.txt", "link/a.txt"])
def test_new_files_replace_no_strangers(tmp_path, name):
    output, outside = write_bundle(tmp_path / "bundle", OLD), tmp_path / "outside"
    outside.mkdir()
    (output / "link").symlink_to(outside)
    (output / "notes").write_text("mine")
    with (
        pytest.raises(RunError, match="is in the way"),
        atomic_folder(output, overwrite=True) as part,
    ):
        write_bundle(part, {**NEW, name: "new"})
    assert contents(output) == OLD | {"notes": "mine"}
    assert not list(outside.iterdir())


def test_a_manifest_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").write_text("mine")
    output = write_bundle(tmp_path / "bundle", OLD | {"../precious": "mine"})
    (output / "link").symlink_to(tmp_path / "outside")
    write_bundle(output, OLD | {"../precious": "mine", "link/precious": "mine"})
    with atomic_folder(output, overwrite=True) as part:
        write_bundle(part, NEW)
    assert (tmp_path / "precious").exists() and (tmp_path / "outside/precious").exists()


def test_another_programs_bundle_json_is_not_taken_for_ours(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/bundle.json").write_text('{"name": "webpack"}')
    with pytest.raises(UsageError, match="is no manifest of a bundle"):
        check_output(tmp_path / "app", overwrite=True)


@pytest.mark.parametrize("check", [lambda o: check_output(o, overwrite=False),
                                   lambda o: check_new(o, "--report")])  # fmt: skip
def test_a_place_that_cannot_be_written_is_found_out_first(tmp_path, monkeypatch, check):
    """Root may write anywhere, so the system's answer is a stand-in here."""

    opened = os.open

    def refused(path, flags, *rest):
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UsageError, match="cannot be written: Permission denied"):
        check(tmp_path / "out")
    with pytest.raises(UsageError, match="cannot be written"):
        check(tmp_path / "new/er/out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"exists|cannot be written"):
        check(tmp_path / "file/out")


def test_a_folder_below_a_place_that_cannot_be_written_is_enough(tmp_path, monkeypatch):
    """A mounted volume: nothing beside it can be made, and it cannot be renamed."""
    output, rename, mkdir = tmp_path / "out", os.rename, os.mkdir
    output.mkdir()
    (output / "lost+found").mkdir()

    def inside(path):
        return os.path.abspath(path).startswith(f"{output}{os.sep}")

    def renamed(source, target):
        if not (inside(source) and inside(target)):
            raise OSError(16, "Device or resource busy")
        rename(source, target)

    def made(path, *args, **options):
        if not inside(path):
            raise OSError(30, "Read-only file system")
        mkdir(path, *args, **options)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "mkdir", made)
    for files, overwrite in ((OLD, False), (NEW, True)):
        check_output(output, overwrite=overwrite)
        with atomic_folder(output, overwrite=True) as part:
            write_bundle(part, files)
        assert contents(output) == files
    assert (output / "lost+found").is_dir()


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
@pytest.mark.parametrize(("mask", "folder", "file"), [(0o077, 0o700, 0o600), (0o002, 0o775, 0o664)])
@pytest.mark.parametrize("exists", [False, True])
def test_the_umask_holds(tmp_path, mask, folder, file, exists):
    output = tmp_path / "bundle"
    before = os.umask(mask)
    try:
        if exists:
            output.mkdir()
        with atomic_folder(output, overwrite=True) as part:
            write_bundle(part, NEW)
            handle, _ = tempfile.mkstemp(dir=part)  # as some writers make their files
            os.close(handle)
            os.chmod(part / "README.md", 0o640)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [output, *output.rglob("*")]}
    assert modes == {path: folder if path.is_dir() else file for path in modes}


def test_space_is_looked_for_on_the_outputs_own_disk(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("shutil.disk_usage", lambda f: asked.append(f) or os.statvfs_result)
    (tmp_path / "volume").mkdir()
    for name in ("volume", "new"):
        with pytest.raises((TypeError, AttributeError)):
            check_space(tmp_path / name, 1)
    assert asked == [tmp_path / "volume", tmp_path]


def test_a_report_puts_its_files_into_an_empty_folder(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report/.gitkeep").write_text("")
    check_new(tmp_path / "report", "--report")
    with atomic_folder(tmp_path / "report", overwrite=False) as part:
        (part / "report.html").write_text("page")
    assert contents(tmp_path / "report") == {".gitkeep": "", "report.html": "page"}
    with pytest.raises(UsageError, match=r"--report .* exists"):
        check_new(tmp_path / "report", "--report")


def test_on_windows_folders_are_not_synced(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(replacing, "os", type("nt", (), {
        "name": "nt", "O_RDWR": os.O_RDWR, "O_RDONLY": os.O_RDONLY, "fsync": os.fsync,
        "close": os.close, "open": lambda path, mode: opened.append((path, mode)) or os.open(
            path, mode),
    }))  # fmt: skip
    (tmp_path / "file").write_text("")
    replacing.sync_one(tmp_path)
    replacing.sync_one(tmp_path / "file")
    assert opened == [(tmp_path / "file", os.O_RDWR)]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "picture.png"
    with atomic_file(path) as file:
        file.write(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    with atomic_file(path, mode=0o600) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o600
    failed = pytest.raises(RunError, match=r"cannot write .*nowhere/a: No such file or directory$")
    with failed, atomic_file(tmp_path / "nowhere" / "a"):
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_of_a_file_is_removed(tmp_path):
    path, dead = tmp_path / "a[1].png", tmp_path / ".a[1].png.0123abcd.tmp"
    others = [tmp_path / name for name in (".0123abcd.tmp", ".a1.png.0123abcd.tmp", "a[1].png.tmp")]
    for left_over in (dead, *others):
        left_over.write_text("half")
    with atomic_file(path) as first:
        assert not dead.exists()
        with atomic_file(path) as second:  # two that live: each has its own, the later one stays
            second.write(b"second")
        first.write(b"first")
    assert path.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_what_is_taken_for_a_dead_ones_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Another process removes the file, or the folder, in the moment between."""
    hold, swept = locks.hold, []

    def late(handle, path, **how):
        if not swept:
            swept.append(path)
            path.rmdir() if path.is_dir() else path.unlink()
        return hold(handle, path, **how)

    for module in (locks, atomic_files):
        monkeypatch.setattr(module, "hold", late)
    with atomic_file(tmp_path / "file") as file:
        file.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole" and swept.pop().name.endswith(".tmp")
    busy = pytest.raises(RunError, match="another process is writing")
    with busy, atomic_folder(tmp_path / "folder", overwrite=False):
        pass
    assert swept and os.listdir(tmp_path) == ["file"]


def test_a_file_elsewhere_is_named(tmp_path):
    """What is read for a bundle, or written meanwhile, is not the output's fault."""
    other = tmp_path / "other/graph"
    named = pytest.raises(RunError, match=f"^{other}: Input/output error; nothing was changed in")
    with named, atomic_folder(tmp_path / "here/bundle", overwrite=False):
        raise OSError(5, "Input/output error", other)
    full = pytest.raises(RunError, match=r"^cannot write .*bundle: the disk is full; nothing was")
    with full, atomic_folder(tmp_path / "here/bundle", overwrite=False) as part:
        raise OSError(28, "No space left on device", part / "graph")


def test_new_parents_go_with_what_did_not_come(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "a/b/c", overwrite=False):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_half_replaced_folder_cannot_lead_out_of_itself(tmp_path):
    """Whoever made it: a link in a download sends no file to another place."""
    output, outside = tmp_path / "bundle", tmp_path / "outside"
    outside.mkdir()
    write_bundle(output / ".bundle.new", {"keys/mine": "theirs"})
    (output / "keys").symlink_to(outside)
    with pytest.raises(RunError, match="keys is in the way"):
        check_output(output, overwrite=True)
    assert list(outside.iterdir()) == []
