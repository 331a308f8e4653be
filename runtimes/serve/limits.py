"""What a request may ask for: the bounds that the server was started with."""

import argparse
from dataclasses import dataclass

from runtimes.arguments import number, positive
from runtimes.errors import UsageError

GUIDANCE = 100.0  # far above what makes a picture, far below what makes fp16 infinite
PARTIAL_IMAGES = 10
_LONGEST = 86_400.0  # seconds: a day


@dataclass(frozen=True)
class Limits:
    """Bounds of one request. `pixels` None: twice those of the bundle's own size.

    `body` in bytes; `timeout` in seconds, for a body to come and for a reader that takes nothing.
    """

    n: int = 4
    steps: int = 100
    pixels: int | None = None
    prompt_chars: int = 4_000
    body: int = 250_000
    timeout: float = 60.0


@dataclass(frozen=True)
class Queueing:
    """How requests wait: `window` and `grace` in seconds, `capacity` in pictures.

    `max_batch` None: as many pictures at a time as fit into the memory that is free.
    """

    window: float = 0.02
    capacity: int = 64
    max_batch: int | None = None
    grace: float = 30.0


def add_limit_options(command_line: argparse.ArgumentParser) -> None:
    """The bounds of a request, and those of the queue."""
    limits, add = Limits(), command_line.add_argument
    add(
        "--max-n",
        type=positive,
        default=limits.n,
        metavar="N",
        help=f"pictures a request may ask for (default: {limits.n})",
    )
    add(
        "--max-steps",
        type=positive,
        default=limits.steps,
        metavar="N",
        help=f"steps of each stage that a request may ask for (default: {limits.steps})",
    )
    add(
        "--max-pixels",
        type=positive_count,
        metavar="N",
        help="pixels of a picture that a request may ask for (default: twice the bundle's own)",
    )
    add(
        "--max-prompt-chars",
        type=positive,
        default=limits.prompt_chars,
        metavar="N",
        help="characters of a prompt; the model reads 77 tokens of it "
        f"(default: {limits.prompt_chars})",
    )
    add(
        "--max-body",
        type=positive_count,
        default=limits.body,
        metavar="BYTES",
        help=f"bytes of a request (default: {limits.body})",
    )
    add(
        "--timeout",
        type=some_seconds,
        default=limits.timeout,
        metavar="SECONDS",
        help="how long a request's body may take to come, and a reader may take nothing "
        f"(default: {limits.timeout:g})",
    )
    _add_queue_options(command_line)


def _add_queue_options(command_line: argparse.ArgumentParser) -> None:
    queueing, add = Queueing(), command_line.add_argument
    add(
        "--window",
        type=seconds,
        default=queueing.window,
        metavar="SECONDS",
        help="how long a request waits for others of the same options, to be made in one batch "
        f"with them (default: {queueing.window:g})",
    )
    add(
        "--max-batch",
        type=positive,
        metavar="N",
        help="pictures made at a time (default: what fits into the memory that is free, up to 8; 1 "
        "of integer bundles; a --static bundle's own)",
    )
    add(
        "--queue",
        type=positive,
        default=queueing.capacity,
        metavar="N",
        help="pictures that may wait; what comes then is told when to ask again "
        f"(default: {queueing.capacity})",
    )
    add(
        "--grace",
        type=seconds,
        default=queueing.grace,
        metavar="SECONDS",
        help="how long what was asked for is still worked on after a signal to stop; the rest is "
        f"refused (default: {queueing.grace:g})",
    )


def limits_of(args: argparse.Namespace) -> Limits:
    """What `add_limit_options` parsed, of one request."""
    return Limits(
        args.max_n,
        args.max_steps,
        args.max_pixels,
        args.max_prompt_chars,
        args.max_body,
        args.timeout,
    )


def queueing_of(args: argparse.Namespace) -> Queueing:
    """What `add_limit_options` parsed, of the queue; UsageError where no request would fit."""
    if args.queue < args.max_n:
        raise UsageError(
            f"--queue is {args.queue} and --max-n {args.max_n}: a request of {args.max_n} pictures "
            "would never find room; make --queue as large"
        )
    return Queueing(args.window, args.queue, args.max_batch, args.grace)


def seconds(text: str) -> float:
    """Seconds, from 0 to a day."""
    value = number(text)
    if not 0 <= value <= _LONGEST:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds from 0 to a day")
    return value


def some_seconds(text: str) -> float:
    """The same, but not 0, within which nothing ever comes."""
    if (value := seconds(text)) == 0:
        raise argparse.ArgumentTypeError("it is 0; it must be more")
    return value


def positive_count(text: str) -> int:
    """A whole number from 1 to a thousand millions."""
    if not text.isdecimal() or not 1 <= int(text[:11]) <= 1_000_000_000:
        raise argparse.ArgumentTypeError(
            f"'{text[:40]}' is no whole number from 1 to 1,000,000,000"
        )
    return int(text)
