"""validation trust: nothing is taken for sound, and each check sees when its guard is gone."""

import contextlib
import json
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtimes.bundle import manifest_json, read, typed_json
from runtimes.bundle.read import open_bundle
from validation.cli import main
from validation.trust import manifests
from validation.trust.attempt import Copy
from validation.trust.checks import CHECKS

TRIES = 36


@pytest.fixture
def copy(bundles, tmp_path) -> Copy:
    folder = Path(shutil.copytree(bundles("one_level").folder, tmp_path / "copies/bundle"))
    return Copy(folder.resolve(), open_bundle(folder).manifest)


def verdicts(copy: Copy, name: str) -> list[str]:
    attempts = CHECKS[name].attempts(copy, random.Random(1), TRIES)
    return [attempt.verdict for attempt, _ in zip(attempts, range(TRIES), strict=False)]


# Those that start processes or make pictures take longer.
QUICK = ("flips", "cuts", "swaps", "places", "manifest", "graphs")
ALL = [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CHECKS]


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_taken_for_sound_and_the_copy_is_put_right(copy, name):
    found = verdicts(copy, name)
    assert "lost" not in found and len(found) > (TRIES / 2 if name in QUICK else 1)
    assert "refused" in found or name not in QUICK
    open_bundle(copy.folder, hashes="fresh", verify_rest=True)


GUARDS = {
    "flips": [(read, "_check_hashes")],
    "cuts": [(read, "_check_file"), (read, "_check_hashes")],  # either alone finds them
    "swaps": [(read, "_check_hashes")],
    "places": [(read, "_check_strangers")],
    "manifest": [(typed_json, "_check")],
    "graphs": [(read, "check_graph")],
}


@pytest.mark.parametrize("name", QUICK)
def test_a_check_fails_without_its_guard(copy, monkeypatch, name):
    for module, guard in GUARDS[name]:
        monkeypatch.setattr(module, guard, lambda *args, **options: None)
    monkeypatch.setattr(manifests, "SOMETIMES", ())  # a run laid out for these could take forever
    assert "lost" in verdicts(copy, name)


# Replaced in place, file by file, as a copy command does it.
IN_PLACE = """
import shutil, sys
from contextlib import contextmanager
from validation.trust import cases, faults

@contextmanager
def in_place(output, *, overwrite):
    (output / "bundle.json").unlink()
    yield output

cases.atomic_folder = in_place
sys.exit(faults.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--kills", "--disk-faults"])
def test_kills_and_broken_disks_are_seen_where_files_are_replaced_in_place(copy, tmp_path, flag):
    counts = {"--kills": "0", "--disk-faults": "0", flag: "8"}
    words = ["-o", str(tmp_path / "work"), "--only", "replace", *sum(counts.items(), ())]
    done = subprocess.run(
        [sys.executable, "-c", IN_PLACE, str(copy.folder), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["lost" if flag == "--kills" else "wrong"]


@pytest.mark.slow
def test_threads_are_seen_to_meet_where_no_run_waits(copy, monkeypatch):
    monkeypatch.setattr(threading, "RLock", contextlib.nullcontext)
    try:
        found = verdicts(copy, "threads")
    except Exception:  # an engine that is used by two at once may say so in any way
        found = ["lost"]
    assert "lost" in found


def test_a_manifests_own_hash_is_what_finds_its_flips(copy, monkeypatch):
    monkeypatch.setattr(manifest_json, "_check_unchanged", lambda *args: None)
    path = copy.folder / "bundle.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"guidance": 4.0', '"guidance": 5.0'), encoding="utf-8")
    assert open_bundle(copy.folder).manifest.sampling.stage_c.guidance == 5


def test_the_command_counts_and_writes_a_table(bundles, tmp_path, capsys):
    folder = bundles("one_level").folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = [str(folder), "--tries", "6", "--checks", "flips", "manifest", "--seed", "7"]
    assert main(["trust", *words, "--markdown", str(tmp_path / "table.md")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("|")[2].strip() for line in printed[2:]] == ["6", "6"]
    assert "\n".join(printed) in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert main(["trust", *words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["refused"] + row["survived"] == row["tries"] == 6 for row in rows)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_fails_and_names_what_was_lost(bundles, capsys, monkeypatch):
    monkeypatch.setattr(read, "check_graph", lambda *args: None)
    assert main(["trust", str(bundles("one_level").folder), "--checks", "graphs"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: graphs: ") and "it was taken for sound" in error


def test_the_documents_table_has_every_check():
    text = (Path(__file__).parents[1] / "docs/trust.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| [\d,]+ \| [\d,]+ \| [\d,]+ \| 0 \|", text, re.MULTILINE)
    assert rows[: len(CHECKS)] == [check.fault for check in CHECKS.values()]
