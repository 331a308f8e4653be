"""What becomes of a command: its exit code, its streams, and one line for every error."""

import argparse
import contextlib
import importlib
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO, cast

from runtimes.entry import INTERRUPTED
from runtimes.errors import RunError, UsageError, one_line
from runtimes.interrupts import interruptible

# What a shell reports of a program that SIGPIPE ended: whoever reads no further, as `| head -1`
# does, expects it and no message.
BROKEN_PIPE = 141
_OUTPUT = "standard output"
# What pip calls a package whose module has another name.
_DISTRIBUTIONS = {
    "ai_edge_litert": "ai-edge-litert",
    "ai_edge_quantizer": "ai-edge-quantizer",
    "litert_torch": "litert-torch",
    "onnx_ir": "onnx-ir",
    "prometheus_client": "prometheus-client",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "torch_fidelity": "torch-fidelity",
}


def run_cli(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None,
    *,
    interrupted: str,
    intermixed: bool = False,
) -> int:
    """Parse `argv` and run it, guarded; returns the exit code.

    `intermixed`: options may stand between positional arguments of any number.
    """
    # In two steps: how an error is shown (--debug) is known only after the arguments were read.
    parsed: list[argparse.Namespace] = []
    parse = parser.parse_intermixed_args if intermixed else parser.parse_args
    code = guarded(lambda: parsed.append(parse(argv)), debug=False, interrupted=interrupted)
    if not parsed:
        return code
    args = parsed[0]
    return guarded(lambda: run(args), debug=args.debug, interrupted=interrupted)


def guarded(action: Callable[[], int | None], *, debug: bool, interrupted: str) -> int:
    """Run `action` and return its exit code (None is 0), or that of the error it raised.

    Everything printed has left the process by then. 0: it holds; 1: it failed, or its output could
    not be written; 2: bad usage; 130: it was interrupted; 141: the reader of the output went away.
    """
    settle_streams()
    output = sys.stdout
    try:
        with interruptible(), contextlib.redirect_stdout(cast(TextIO, _Output(output))):
            code = _code_of(action)
            sys.stdout.flush()  # in here: a full disk shows only now, and is an error of ours
        return code
    except (UsageError, RunError) as error:
        code, line = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, line, debug = INTERRUPTED, f"interrupted; {interrupted}", False
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename == _OUTPUT:
            _finish(output)
            return BROKEN_PIPE
        code, line = 1, _what_failed(error)
    with suppress(OSError):  # standard error may be full or gone too
        if debug:
            traceback.print_exc()
        print(f"error: {line}", file=sys.stderr)
    _finish(output)
    return code


class _Output:
    """Standard output, whose errors name it as those of files name theirs.

    An error is raised again at the next flush: argparse drops those of printing its help.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            with _named():
                return self._stream.write(text)
        except OSError as error:
            self._error = error
            raise

    def flush(self) -> None:
        if self._error is not None:
            raise self._error
        with _named():
            self._stream.flush()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = _OUTPUT
        raise


def settle_streams() -> None:
    """Streams that can be printed to, whatever the caller did with them.

    A closed one (`>&-`) is as /dev/null: the next file opened must not take its number, or what a
    library prints would end up in it. What a terminal cannot show is printed as its escape.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        # Until 0, 1 and 2 are taken, whichever of them was closed.
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(handle)
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _code_of(action: Callable[[], int | None]) -> int:
    try:
        return action() or 0
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else 0


def _what_failed(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.filename == _OUTPUT:
        return f"cannot write to {_OUTPUT}: {reason}"
    return reason if error.filename is None else f"{error.filename}: {reason}"


def _finish(output: TextIO) -> None:
    """Write what is left; where that fails, see to it that the interpreter does not try again.

    It would at its end, with a traceback and an exit code of its own.
    """
    try:
        output.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def subcommand(
    words: Sequence[str], commands: Mapping[str, str]
) -> Callable[[Sequence[str]], int] | None:
    """The function ('module:name') that `commands` has for the first word; None without one."""
    if not words or words[0] not in commands:
        return None
    module, _, name = commands[words[0]].partition(":")
    main: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), name)
    return main


def require(packages: Sequence[str], extra: str, *, note: str = "", other: str = "") -> None:
    """UsageError with the command that installs them when one of `packages` is not there."""
    if hint := install_hint(packages, extra, note=note, other=other):
        raise UsageError(hint)


def install_hint(packages: Sequence[str], extra: str, *, note: str = "", other: str = "") -> str:
    """The first of `packages` that is not there and the command that installs it; '' for none.

    `packages` are modules by the names they are imported under; `extra` is what brings them all,
    such as 'export' or 'quantization,cpu'. `note` says what they are for (', which ...'), `other`
    what else would do.
    """
    name = next((distribution(name) for name in packages if not installed(name)), "")
    return name and (
        f"{name} is not installed{note}: pip install 'wuerstchen-export[{extra}]'{other}"
    )


def imported(name: str, extra: str, *, other: str = "") -> Any:
    """The module of an optional package; UsageError where it is missing or does not load."""
    require((name,), extra, other=other)
    try:
        return importlib.import_module(name)
    except ImportError as error:  # it is there, and a library under it is not
        raise UsageError(
            f"{name} does not load ({one_line(error)}): pip install --force-reinstall "
            f"'wuerstchen-export[{extra}]'{other}"
        ) from error


def distribution(module: str) -> str:
    """What pip calls the package that a module comes from."""
    return _DISTRIBUTIONS.get(module, module)


def installed(name: str) -> bool:
    """Whether a package is there, without importing it; one blocked in sys.modules is not."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # its entry in sys.modules is None
        return False
