"""The first thing that every command does: from here on an interrupt is one line.

This module imports nothing that the interpreter has not, and little is imported before it: an
interrupt while the interpreter itself starts, some hundredths of a second, is not ours to answer.
"""

import os
import sys

INTERRUPTED = 130  # the exit code: what a shell reports of a program that SIGINT ended


def enter(module: str) -> None:
    """Import the command line of `module` and run its `main`; the process ends with its exit code.

    Until `main` begins its work nothing is there to be put right, and an interrupt ends the process
    at once: code that is being imported may make anything of an exception. During the work it is
    runtimes.console that answers, and after it none is heard: what is done is done.
    """
    try:
        import importlib
        import signal

        heard = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # as of `nohup ... &`
        if heard:
            signal.signal(signal.SIGINT, _leave)
        code = importlib.import_module(module).main()
        if heard:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        # An interrupt in an `exec` of text, which dataclasses are made by, leaves a note for the
        # interpreter to end by the signal itself, whatever became of it. The next one removes it.
        exec("")
    except KeyboardInterrupt:
        _leave()
        raise
    sys.exit(code)


def _leave(*_about: object) -> None:
    try:
        os.write(2, b"error: interrupted\n")
    finally:
        os._exit(INTERRUPTED)
