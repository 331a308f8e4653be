"""runtimes.atomic: a folder appears whole or not at all, and nothing is left beside it."""

import os
import time

import pytest

from runtimes.atomic import atomic_folder, check_output
from runtimes.errors import UsageError


def aged(folder):
    """A folder that nobody has touched for an hour."""
    folder.mkdir()
    (folder / "weights").write_bytes(b"x" * 1000)
    os.utime(folder, (time.time() - 3600,) * 2)
    return folder


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = aged(tmp_path / ".bundle.abcd1234.part")
    others = [
        aged(tmp_path / name)
        for name in (".bundle2.abcd1234.part", ".bundle.partial", ".bundle.old", ".bundle.part")
    ]
    with atomic_folder(tmp_path / "bundle") as part:
        assert not left.exists()
        (part / "graph").write_text("whole")
    assert all(other.exists() for other in others)
    assert (tmp_path / "bundle/graph").read_text() == "whole"


def test_what_somebody_still_writes_stays(tmp_path):
    with atomic_folder(tmp_path / "bundle") as first:
        (first / "graph").write_text("first")
        os.utime(first, (time.time() - 3600,) * 2)  # as in a write that takes long
        with atomic_folder(tmp_path / "bundle") as second:
            assert first.exists() and second != first
        new = tmp_path / ".bundle.abcd1234.part"
        new.mkdir()  # made a moment ago, not held yet
        with atomic_folder(tmp_path / "bundle"):
            assert first.exists() and new.exists()
    assert (tmp_path / "bundle/graph").read_text() == "first"


def test_an_error_leaves_what_was_there(tmp_path):
    with atomic_folder(tmp_path / "bundle") as part:
        (part / "graph").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "bundle") as part:
        (part / "graph").write_text("new")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle/graph").read_text() == "old"


def test_an_old_output_whose_place_is_empty_goes_back_there(tmp_path):
    """Killed between the two renames of a replacement; and after them."""
    old = aged(tmp_path / ".bundle.abcd1234.old")
    (old / "bundle.json").write_text("{}")
    with pytest.raises(UsageError, match="give --overwrite"):
        check_output(tmp_path / "bundle", overwrite=False)
    assert (tmp_path / "bundle/weights").exists() and not old.exists()
    aged(old)
    check_output(tmp_path / "bundle", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_interrupted_replacement_puts_the_old_output_back(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "bundle") as part:
        (part / "graph").write_text("old")
    rename = os.rename

    def interrupted(source, target):
        if source.suffix == ".part":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "bundle") as part:
        (part / "graph").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle/graph").read_text() == "old"
