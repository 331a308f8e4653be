"""An interrupt is one line and exit code 130, whatever it meets; it waits where half would stay."""

import os
import signal
import subprocess
import sys

import pytest

import runtimes
from validation.trust.interrupts import lives

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no process can send itself SIGINT there")

HEAD = "import atexit, os, signal\ndef interrupt(): os.kill(os.getpid(), signal.SIGINT)\n"
# The command line of a program by what it does -> its exit code and what it says.
PROGRAMS = {
    "interrupted while it is imported": (
        "interrupt()\nimport time\ntime.sleep(9)",
        (130, "error: interrupted\n"),
    ),
    "whose import makes an error of it": (
        "try:\n    interrupt()\n    [0 for _ in range(9)]\n"
        "except BaseException:\n    raise ImportError('a part in C') from None",
        (130, "error: interrupted\n"),
    ),
    "before its work": ("def main():\n    interrupt()", (130, "error: interrupted\n")),
    "in its work": (
        "from runtimes.console import guarded\n"
        "def main():\n    return guarded(interrupt, debug=True, interrupted='nothing is there')",
        (130, "error: interrupted; nothing is there\n"),
    ),
    "in a text that is executed": (
        "from runtimes.console import guarded\ndef main():\n"
        "    work = lambda: exec('interrupt()', globals())\n"
        "    return guarded(work, debug=False, interrupted='nothing is there')",
        (130, "error: interrupted; nothing is there\n"),
    ),
    "after its work": ("atexit.register(interrupt)\ndef main():\n    return 3", (3, "")),
}


def run(tmp_path, text, before=""):
    (tmp_path / "program.py").write_text(HEAD + text)
    code = f"{before}\nfrom runtimes.entry import enter\nenter('program')"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("program", list(PROGRAMS))
def test_a_program_is_interrupted(tmp_path, program):
    text, expected = PROGRAMS[program]
    assert run(tmp_path, text) == expected


def test_who_ignores_interrupts_still_does(tmp_path):
    """As `nohup` and shells in the background have it."""
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    text = (
        "interrupt()\nfrom runtimes.console import guarded\n"
        "def main():\n    return guarded(interrupt, debug=False, interrupted='')"
    )
    assert run(tmp_path, text, ignoring) == (0, "")


def test_an_error_that_an_interrupt_became_is_an_interrupt(tmp_path):
    text = """
import sys
from runtimes.console import guarded

def work():
    try:
        interrupt()
        [0 for _ in range(9)]
    except KeyboardInterrupt:
        raise ImportError("numpy.core.multiarray failed to import") from None

def missing():
    import no_such_module

def main():
    before = signal.getsignal(signal.SIGINT)
    code = guarded(work, debug=False, interrupted="nothing was written")
    try:
        guarded(missing, debug=False, interrupted="")
    except ImportError as error:
        print(error, file=sys.stderr)
    assert signal.getsignal(signal.SIGINT) is before
    return code
"""
    said = "error: interrupted; nothing was written\nNo module named 'no_such_module'\n"
    assert run(tmp_path, text) == (130, said)


def test_an_interrupt_waits_for_the_end_of_what_is_done_at_once(tmp_path):
    text = """
import sys
from runtimes.console import guarded
from runtimes.interrupts import put_off

def work():
    with put_off():
        with put_off():
            interrupt()
            print("inner", file=sys.stderr)
        print("outer", file=sys.stderr)
    print("never", file=sys.stderr)

def main():
    return guarded(work, debug=False, interrupted="nothing was written")
"""
    assert run(tmp_path, text) == (130, "inner\nouter\nerror: interrupted; nothing was written\n")


@pytest.mark.parametrize("during", ["start", "wait"])
def test_an_interrupt_leaves_no_process_behind(tmp_path, during):
    """In the moment when it is started, too, which `subprocess.run` does not survive."""
    text = f"""
import subprocess, sys
from runtimes.console import guarded
from runtimes.interrupts import completed

came = []

class Interrupted(subprocess.Popen):
    def __init__(self, *words, **options):
        super().__init__(*words, **options)
        print(self.pid, file=sys.stderr)
        if {during!r} == "start":
            interrupt()

    def communicate(self, *words, **options):
        if {during!r} == "wait" and not came:
            came.append(self)
            interrupt()
        return super().communicate(*words, **options)

subprocess.Popen = Interrupted

def main():
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    return guarded(lambda: completed(sleep).returncode, debug=False, interrupted="nothing is there")
"""
    code, said = run(tmp_path, text)
    pid, rest = said.split("\n", 1)
    assert (code, rest) == (130, "error: interrupted; nothing is there\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_what_is_dead_and_not_waited_for_does_not_live():
    dead = subprocess.Popen(["true"], start_new_session=True)
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    assert not lives(dead.pid)
    dead.wait()
    alive = subprocess.Popen(["sleep", "60"], start_new_session=True)
    assert lives(alive.pid) and alive.wait() == -signal.SIGKILL


def test_the_runtimes_names_are_imported_when_they_are_used():
    code = "import sys, runtimes; assert 'numpy' not in sys.modules; runtimes.Pipeline"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {name: getattr(runtimes, name).__name__ for name in runtimes.__all__} == {
        name: name for name in runtimes.__all__
    }
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = runtimes.Nothing
