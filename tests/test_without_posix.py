"""The runtime makes a picture where POSIX's modules are missing, as on Windows.

A simulation: the modules are blocked and the platform says it is Windows; the files of a real
Windows, its paths and its locks, are not tried by it.
"""

import subprocess
import sys

CODE = """
import os, pathlib, sys
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("getuid", "geteuid", "fork", "O_NOFOLLOW", "O_DIRECTORY", "statvfs", "sysconf",
             "getloadavg", "sched_getaffinity", "fchmod"):
    if hasattr(os, name):
        delattr(os, name)

def without_proc(call):
    def checked(self, *args, **options):
        if str(self).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return call(self, *args, **options)
    return checked
for name in ("read_text", "write_text", "open"):
    setattr(pathlib.Path, name, without_proc(getattr(pathlib.Path, name)))
import numpy, onnxruntime, tokenizers  # they have wheels for Windows
sys.platform = "win32"
from runtimes.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_picture_without_posix(bundles, tmp_path):
    folder, out = bundles("one_level").folder, tmp_path / "out.png"
    words = [folder, "a circle", "-o", out, "--steps", "1", "--decoder-steps", "1", "--json"]
    words += ["--verify", "--low-memory"]
    command = [sys.executable, "-c", CODE, *map(str, words)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    assert '"peak_bytes": 0' in run.stdout  # the system does not say
