"""A server as users start it: a process of its own, on a port of this machine that was free."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "runtimes", "serve")
SERVING = re.compile(r"serving .* on (http://\S+)")
ENOUGH = 60.0  # seconds after which a process that has to end does not


@contextmanager
def serving(
    *words: object,
    command: Sequence[str] = COMMAND,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The address of a server once it says that it serves; SIGTERM ends it at last, with exit 0."""
    line = [*command, *map(str, words)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=cwd, env=env) as process:
        assert process.stderr is not None
        said: list[str] = []
        try:
            address = _address(process.stderr, said)
            # Nobody reads on: a pipe that is full would hold the server up.
            rest = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
            rest.start()
            yield address
        except BaseException:
            process.kill()
            raise
        process.terminate()
        assert process.wait(ENOUGH) == 0, said
        rest.join(ENOUGH)


def _address(lines: Iterator[str], said: list[str]) -> str:
    for line in lines:
        said.append(line)
        if found := SERVING.search(line):
            return found[1]
    raise AssertionError(said)
