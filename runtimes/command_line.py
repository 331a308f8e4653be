"""The flags of python -m runtimes, but for those that commands share."""

import argparse
from pathlib import Path

from runtimes.arguments import (
    Parser,
    a_path,
    add_execution_options,
    add_memory_options,
    add_size_options,
    integer,
    number,
    numbers,
    positive,
    seeds,
)
from runtimes.batches import MOST, UNKNOWN
from runtimes.picture_arguments import add_picture_side_options
from runtimes.preview_files import add_preview_options
from runtimes.prompts import RULE
from runtimes.spread import add_spread_options

# What people write for the options of other tools.
MEANT = {
    "--prompt": "write the prompt without a flag, or a file of prompts after --prompts-file",
    "--num-inference-steps": "did you mean --steps?",
    "--num-images-per-prompt": "did you mean --num-images?",
    "--prior-steps": "did you mean --steps?",
    "--prior-num-inference-steps": "did you mean --steps?",
    "--init-image": "did you mean --image?",
    "--mask-image": "did you mean --mask?",
    "--denoising-strength": "did you mean --strength?",
    "--cfg": "did you mean --guidance?",
    "--cfg-scale": "did you mean --guidance?",
}


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m runtimes`."""
    command_line = Parser(
        prog="python -m runtimes",
        description="Make pictures from prompts with a bundle; needs NumPy and one engine only. "
        "'python -m runtimes encode' makes small codes of pictures, 'python -m runtimes decode' "
        "pictures of codes, 'python -m runtimes serve' pictures over HTTP.",
        meant=MEANT,
    )
    add = command_line.add_argument
    add("bundle", type=a_path, help="bundle folder, from 'python -m exporter'")
    add("prompts", nargs="*", metavar="PROMPT", help="pictures are made of each prompt")
    add("--prompts-file", type=Path, metavar="FILE", help=f"text file, after PROMPT: {RULE}")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("out.png"),
        metavar="FILE",
        help="PNG file; several pictures get -000, -001, ... before the suffix, in as many digits "
        "as the last one needs (default: out.png)",
    )
    _picture_options(command_line)
    add_picture_side_options(command_line)
    _batch_options(command_line)
    add_preview_options(command_line)
    add_spread_options(command_line)
    add_execution_options(command_line)
    _run_options(command_line)
    return command_line


def _run_options(command_line: argparse.ArgumentParser) -> None:
    add_memory_options(command_line)
    add = command_line.add_argument
    verify = command_line.add_mutually_exclusive_group()
    verify.add_argument(
        "--verify",
        action="store_true",
        help="check the SHA-256 of every file of the bundle first; without a prompt, nothing else "
        "(default: of what is read of it, once, and again after a change)",
    )
    verify.add_argument(
        "--no-verify",
        action="store_true",
        help="check sizes only: a weight that was changed makes another picture",
    )
    add(
        "--replay",
        action="store_true",
        help="check tokens, noise, schedules, guidance, wiring and sizes by the bundle's golden "
        "run; takes no engine and no prompt",
    )
    add("--quiet", action="store_true", help="print errors only")
    add("--json", action="store_true", help="print the result as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")


def _picture_options(command_line: argparse.ArgumentParser) -> None:
    add = command_line.add_argument
    add(
        "--negative-prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="what the pictures should not show; once for all prompts, or once per prompt in order",
    )
    add(
        "--seed",
        type=seeds,
        default=(0,),
        metavar="SEED",
        help="whole number; of several pictures number i, from 0, has SEED + i, whatever the batch "
        "size. Or comma-separated, one a prompt (its pictures count on from it) or one a picture. "
        "Or 'random': one is drawn and printed. Each PNG holds its own (default: 0)",
    )
    add("--steps", type=integer, help="even Stage C steps (default: the bundle's schedule)")
    add(
        "--timesteps",
        type=numbers,
        help="Stage C timesteps, comma-separated, descending from 1 to 0",
    )
    add("--guidance", type=number, help="Stage C guidance scale; up to 1 is off (default: 4)")
    add("--decoder-steps", type=integer, help="even Stage B steps (default: 12)")
    add("--decoder-timesteps", type=numbers, help="Stage B timesteps, comma-separated")
    add("--decoder-guidance", type=number, help="Stage B guidance scale (default: 0, off)")
    add_size_options(command_line)


def _batch_options(command_line: argparse.ArgumentParser) -> None:
    add = command_line.add_argument
    add(
        "--num-images",
        type=positive,
        default=1,
        metavar="N",
        help="pictures of each prompt, one after the other (default: 1)",
    )
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help="pictures at a time; those of a finished batch are on disk (default: what fits into "
        f"the memory that is free, up to {MOST}; {UNKNOWN} on a GPU or where that is not known; a "
        "--static bundle's own)",
    )
    add(
        "--skip-existing",
        action="store_true",
        help="make only the pictures that are not there yet: goes on with a run that was stopped. "
        "A file there that other options made is an error",
    )
