"""validation trust: nothing is taken for sound, and each check sees when its guard is gone."""

import json
import random
import shutil
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


@pytest.mark.parametrize("name", CHECKS)
def test_nothing_is_taken_for_sound_and_the_copy_is_put_right(copy, name):
    found = verdicts(copy, name)
    assert "lost" not in found and "refused" in found and len(found) > TRIES / 2
    open_bundle(copy.folder, hashes="fresh", verify_rest=True)


GUARDS = {
    "flips": [(read, "_check_hashes")],
    "cuts": [(read, "_check_file"), (read, "_check_hashes")],  # either alone finds them
    "swaps": [(read, "_check_hashes")],
    "places": [(read, "_check_strangers")],
    "manifest": [(typed_json, "_check")],
    "graphs": [(read, "check_graph")],
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_fails_without_its_guard(copy, monkeypatch, name):
    for module, guard in GUARDS[name]:
        monkeypatch.setattr(module, guard, lambda *args, **options: None)
    monkeypatch.setattr(manifests, "SOMETIMES", ())  # a run laid out for these could take forever
    assert "lost" in verdicts(copy, name)


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
