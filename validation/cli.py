"""python -m validation: one parser for every command, and what they share.

Without a command's name, bundles are judged: `python -m validation BUNDLE`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import validation.bench.cli as bench
import validation.mil.cli as placement
import validation.quality.cli as quality
import validation.sweep.cli as sweep
import validation.trust.cli as trust
from runtimes.arguments import Parser, add_execution_options, integer
from runtimes.console import run_cli
from runtimes.spread import add_spread_options
from validation import judge

JUDGE = "judge"  # no word of the command line: what is run where none names a command


def _flag(name: str, meaning: str) -> argparse.ArgumentParser:
    """A parent of one flag."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(name, action="store_true", help=meaning)
    return parent


def _running() -> argparse.ArgumentParser:
    """Of the commands that run bundles on an engine of the user's choice."""
    parent = argparse.ArgumentParser(add_help=False)
    add_execution_options(parent)
    return parent


def _spread() -> argparse.ArgumentParser:
    """Of the commands that make many pictures."""
    parent = argparse.ArgumentParser(add_help=False)
    add_spread_options(parent)
    return parent


# What commands share, each said once. argparse copies a parent's options into its children.
QUIET = _flag("--quiet", "print errors and failures only")
JSON = _flag("--json", "print every measurement as JSON, nothing else")
DEBUG = _flag("--debug", "show the traceback of an error")
EXECUTION = _running()
SPREAD = _spread()
MEASURES = quality.measuring()


@dataclass(frozen=True)
class Command:
    """What a command is for, its options beside the shared ones in `parents`, and what runs it.

    `interrupted` says what is left when it is.
    """

    description: str
    parents: tuple[argparse.ArgumentParser, ...]
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    interrupted: str


def _add_public_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("output", type=Path, help="folder to write wuerstchen and wuerstchen-prior under")
    add(
        "--variant",
        type=str.lower,
        choices=["fp16"],
        default="",
        help="write half-size files of that variant",
    )
    add("--hub-cache", action="store_true", help="lay the folders out as a hub cache does")
    add("--shard-bytes", type=integer, default=2 << 30, help="largest weight file (default: 2 GiB)")


def _run_public(args: argparse.Namespace) -> None:
    # Imported here: it needs PyTorch, which the other commands' parsers must do without.
    from validation.public_checkpoint import run

    run(args)


COMMANDS = {
    JUDGE: Command(
        "Run every graph and the whole trajectory of a bundle against diffusers on the "
        "same noise, print the differences, and exit with 1 when a limit is passed. Several "
        "bundles of one model are compared and timed, and the one to ship is named. "
        "'python -m validation bench' measures times, 'quality' pictures, 'sweep' both over "
        "guidance and steps; 'public-checkpoint' writes the public model with random weights.",
        (EXECUTION, QUIET, JSON, DEBUG),
        judge.add_options,
        judge.run,
        "nothing was judged",
    ),
    "bench": Command(
        "Time every graph and whole pictures, interleaved in one run: PyTorch, plain "
        "exports of its modules, and the bundles on every engine; each with its relative error "
        "against PyTorch fp32 and its share of this machine's measured matrix peak.",
        (JSON, DEBUG),
        bench.add_options,
        bench.run,
        "only the times above were measured",
    ),
    "quality": Command(
        "Make a picture per prompt and measure how good they are: PSNR, SSIM and "
        "latent SQNR; on the demo what its judge reads in them; CLIP score, FID and Inception "
        "score where their weights are given. Run it again to go on after a stop.",
        (MEASURES, EXECUTION, SPREAD, QUIET, JSON, DEBUG),
        quality.add_options,
        quality.run,
        "finished pictures are kept: run it again",
    ),
    "sweep": Command(
        "Measure quality and time of every combination of guidance and steps, and "
        "write a table, sweep.json and the plot sweep.svg. Run it again to go on after a stop.",
        (MEASURES, EXECUTION, SPREAD, QUIET, JSON, DEBUG),
        sweep.add_options,
        sweep.run,
        "finished pictures are kept: run it again",
    ),
    "placement": Command(
        "Count, for each Core ML program of a bundle, what keeps it off the Neural Engine: "
        "operations in fp32 by reason and block, casts, stretches of fp16 between them, gathers, "
        "more than five axes.",
        (JSON, DEBUG),
        placement.add_options,
        placement.run,
        "nothing was counted",
    ),
    "trust": Command(
        "Damage a copy of a bundle in every way that a disk, a kill or a stranger could, "
        "and count what is refused by name, what is survived, and what is lost or taken for sound. "
        "Exits with 1 where anything is.",
        (QUIET, JSON, DEBUG),
        trust.add_options,
        trust.run,
        "nothing was changed",
    ),
    "public-checkpoint": Command(
        "Write a checkpoint of the public Wuerstchen architecture with seeded random "
        "weights: 3.1 billion parameters, to try sizes, memory and speed without a download.",
        (QUIET, DEBUG),
        _add_public_options,
        _run_public,
        "what was not whole is not there",
    ),
}


class Program(argparse.ArgumentParser):
    """All commands' parsers, `parsers` by name; each speaks for itself, in help and errors."""

    def __init__(self) -> None:
        super().__init__(prog="python -m validation", add_help=False, allow_abbrev=False)
        named = self.add_subparsers(dest="command", parser_class=Parser)
        self.parsers: dict[str, Parser] = {}
        for name, about in COMMANDS.items():
            parser = named.add_parser(
                name,
                prog=self.prog if name == JUDGE else f"{self.prog} {name}",
                description=about.description,
                parents=about.parents,  # type: ignore[arg-type]  # plain ones do too
            )
            about.add_options(parser)
            self.parsers[name] = parser

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse's, but words that are left over are an error of the command's parser."""
        parsed, left_over = self.parse_known_args(args, namespace)
        if left_over:
            self.parsers[parsed.command].error(f"unrecognized arguments: {' '.join(left_over)}")
        return parsed


def parser(name: str = JUDGE) -> Parser:
    """The command line of `python -m validation`, or of one of its commands."""
    return Program().parsers[name]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 when every limit holds, 1 when one does not, 2 for bad use."""
    words = list(sys.argv[1:] if argv is None else argv)
    # A bundle's folder may be called 'judge': only the other commands have a name.
    named = bool(words) and words[0] in COMMANDS and words[0] != JUDGE
    name = words[0] if named else JUDGE
    chosen = COMMANDS[name]
    return run_cli(
        Program(), chosen.run, words if named else [JUDGE, *words], interrupted=chosen.interrupted
    )
