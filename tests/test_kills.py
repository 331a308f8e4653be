"""Commands that are killed, interrupted, started twice, or whose disk fails: nothing is lost.

Real processes, at seeded moments: a few here, more by hand (tests/README.md).
"""

import json
import os
import subprocess
import sys
import time

import pytest

from runtimes.bundle.part import beside
from runtimes.bundle.read import open_bundle
from validation.trust.interrupts import interrupt_often

KILLS = int(os.environ.get("KILLS", "40"))
DISK_FAULTS = int(os.environ.get("DISK_FAULTS", "12"))
INTERRUPTS = int(os.environ.get("INTERRUPTS", "6"))
WEIGHTS = ("--precision", "int8-weights", "--target-db", "0", "--quiet")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="processes are forked, and signals sent"),
]


def started(*words):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words)], stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def home(bundles, folders, tmp_path_factory):
    """A folder with an fp32 bundle's quantised one; and the words that name their checkpoint."""
    home = tmp_path_factory.mktemp("kills")
    process = started("quantization", bundles("one_level").folder, home / "int8-weights", *WEIGHTS)
    assert (process.wait(), process.stderr.read()) == (0, "")
    decoder, prior = folders("one_level")
    return home, ["-m", str(decoder), "--prior", str(prior)]


def test_faults(bundles, home):
    """Kills, and steps on the disk that fail, for every kind of output."""
    folder, checkpoint = home
    words = [bundles("one_level").folder, "--against", folder / "int8-weights", *checkpoint]
    counts = ["--kills", KILLS, "--disk-faults", DISK_FAULTS]
    command = ["validation.trust.faults", *words, "-o", folder / "work", *counts]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    print(done.stdout)
    killed = [each for each in found if "kills" in each]
    assert sum(each["kills"] for each in killed) >= 0.9 * KILLS
    assert {state for each in killed for state in each["states"]} >= {"old", "new"}
    assert sum(each.get("tried", 0) for each in found) >= 0.9 * DISK_FAULTS


@pytest.mark.parametrize("program", ["exporter", "quantization", "runtimes", "validation"])
def test_interrupts(bundles, home, tmp_path, program):
    """From the first moment of our own code on: one line, exit code 130, nothing left."""
    bundle, checkpoint = str(bundles("one_level").folder), home[1]
    out = str(tmp_path / "out")
    words = {
        "exporter": [out, *checkpoint],
        "quantization": [bundle, out, "--precision", "int8", "--samples", "29"],
        "runtimes": [bundle, "a circle", "-o", f"{out}.png"],
        "validation": [bundle, "--report", out, "--golden"],
    }
    # Graphs that an export has finished stay for --resume, in a folder that says so.
    whole = {f"{out}.png", str(tmp_path / ".out.partial")}

    def check() -> str:
        return ", ".join({str(path) for path in tmp_path.iterdir()} - whole)

    found = interrupt_often(
        [program, *words[program], *(["--overwrite"] if program == "exporter" else []), "--quiet"],
        INTERRUPTS,
        seed=len(program),
        check=check,
    )
    print(found)
    assert found.wrong == ()
    assert found.early + found.late < INTERRUPTS


def test_two_writers(bundles, tmp_path):
    """The first one to begin has the output; the other is told so, and changes nothing."""
    words = ("quantization", bundles("one_level").folder, tmp_path / "out", *WEIGHTS)
    first = started(*words)
    while not beside(tmp_path / "out").exists() and first.poll() is None:
        time.sleep(0.001)
    second = started(*words, "--overwrite")
    errors = [process.communicate()[1] for process in (first, second)]
    assert errors[0] == ""
    told = f"error: another process is writing {tmp_path / 'out'}; wait for it\n"
    assert errors[1] == told and (first.returncode, second.returncode) == (0, 1)
    assert open_bundle(tmp_path / "out", hashes="fresh", verify_rest=True).strangers() == []
    assert os.listdir(tmp_path) == ["out"]


def test_two_writers_at_once(bundles, tmp_path):
    """Whoever is first: at most one writes, each that does not says so in one line."""
    words = ("quantization", bundles("one_level").folder, tmp_path / "out", *WEIGHTS)
    both = [started(*words) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes)[0] == 0 and sorted(codes)[1] in (1, 2), errors
    assert errors[codes.index(0)] == "" and max(errors).count("\n") == 1
    assert open_bundle(tmp_path / "out", hashes="fresh", verify_rest=True).strangers() == []
    assert os.listdir(tmp_path) == ["out"]
