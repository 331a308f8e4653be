"""python -m runtimes serve: pictures over HTTP."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from runtimes.arguments import (
    Parser,
    a_path,
    add_execution_options,
    add_memory_options,
    integer,
)
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.cli import open_pipeline
from runtimes.console import require, run_cli
from runtimes.errors import UsageError
from runtimes.serve.keys import check_exposed, is_loopback, read_keys
from runtimes.serve.limits import Limits, add_limit_options, limits_of, queueing_of
from runtimes.serve.model import Model
from runtimes.serve.presets import Preset, read_presets

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
PORT = 8000


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m runtimes serve`."""
    command_line = Parser(
        prog="python -m runtimes serve",
        description="Make pictures over HTTP: the OpenAI images interface and a page, for this "
        "machine alone unless --host says otherwise. SIGINT and SIGTERM stop it.",
    )
    add = command_line.add_argument
    add(
        "bundles",
        nargs="+",
        type=a_path,
        metavar="BUNDLE",
        help="folders; their names are the models' names, and the first is meant where a request "
        "names none",
    )
    add(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help="a model's name in place of its folder's; once a bundle, in order",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=integer, default=PORT, help=f"0 for any that is free (default: {PORT})")
    add(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="keys that clients have to send, one a line; needed for any --host but this machine's",
    )
    add(
        "--presets",
        type=Path,
        metavar="FILE",
        help='names for sampling options, as JSON: {"fast": {"steps": 10, "decoder_steps": 6, '
        '"guidance": 4.0}}',
    )
    add_limit_options(command_line)
    add_execution_options(command_line)
    _run_options(command_line)
    return command_line


def _run_options(command_line: argparse.ArgumentParser) -> None:
    add_memory_options(command_line)
    add = command_line.add_argument
    add("--quiet", action="store_true", help="print errors only, no line a request")
    add("--debug", action="store_true", help="show the traceback of an error at the start")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(parser(), _run, argv, interrupted="nothing was served yet")


def _run(args: argparse.Namespace) -> None:
    require(PACKAGES, "serve")
    limits, queueing = limits_of(args), queueing_of(args)
    keys = read_keys(args.api_key_file)
    check_exposed(args.host, keys)
    if not 0 <= args.port < 1 << 16:
        raise UsageError(f"--port is {args.port}; ports are from 0 to 65535")
    presets = read_presets(args.presets, limits)
    names = _names(args)
    from runtimes.serve.server import bind, serve
    from runtimes.serve.service import Service

    service = Service(limits, queueing, keys, is_loopback(args.host), args.quiet)
    with bind(args.host, args.port, limits.timeout) as listening:
        # Before the port answers: what is no bundle ends the command at once.
        bundles = [open_bundle(path, hashes="none") for path in args.bundles]

        def models() -> list[Model]:
            return [
                _model(name, bundle, presets, limits, args)
                for name, bundle in zip(names, bundles, strict=True)
            ]

        ended = serve(service, listening, models)
    if not ended:
        # Python's own end would abort under a thread that comes back from a graph meanwhile.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(0)


def _model(
    name: str,
    bundle: Bundle,
    presets: Mapping[str, Preset],
    limits: Limits,
    args: argparse.Namespace,
) -> Model:
    """A bundle, hashed, its graphs loaded."""
    verified = open_bundle(bundle.folder, hashes="remembered")
    model = Model(name, verified, open_pipeline(verified, args), presets, args.max_batch)
    model.check_offer(limits)
    model.warm_up()
    return model


def _names(args: argparse.Namespace) -> list[str]:
    """A name for each bundle; UsageError where two have the same."""
    if args.name and len(args.name) != len(args.bundles):
        raise UsageError(
            f"{len(args.name)} --name for {len(args.bundles)} bundles; give one a bundle, or none"
        )
    names = args.name or [path.resolve().name for path in args.bundles]
    for name in names:
        if not (name and name.isprintable()):
            raise UsageError(f"{name!a} cannot be a model's name: give --name once a bundle")
        if names.count(name) > 1:
            raise UsageError(f"two models are called {name!r}: give --name once a bundle")
    return names
