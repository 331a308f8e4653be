"""python -m runtimes: a bundle and prompts to PNG files."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtimes.arguments import (
    Parser,
    a_path,
    add_execution_options,
    add_size_options,
    execution_of,
    integer,
    number,
    numbers,
    positive,
    seeds,
    settle_size,
)
from runtimes.batches import (
    MOST,
    UNKNOWN,
    Job,
    Summary,
    as_json,
    batch_size,
    jobs_for,
    print_summary,
    run_batches,
)
from runtimes.bundle.read import Bundle, Hashes, open_bundle
from runtimes.console import run_cli, subcommand
from runtimes.errors import RunError, UsageError
from runtimes.images import is_there, picture_paths, save_png
from runtimes.parameters import parameters_of, parameters_of_picture
from runtimes.picture_arguments import (
    NO_PICTURE,
    add_picture_side_options,
    given_picture,
    keep_the_originals,
    settle_picture_options,
)
from runtimes.pipeline import Pipeline, Result
from runtimes.plan import Options, make_plan
from runtimes.preview_files import add_preview_options, preview_files
from runtimes.progress import Progress
from runtimes.prompts import RULE, argument_text, read_prompts
from runtimes.replay import replay

COMMANDS = {
    "encode": "runtimes.encode_cli:main",
    "decode": "runtimes.decode_cli:main",
    "serve": "runtimes.serve.cli:main",
}
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
    add_execution_options(command_line)
    _run_options(command_line)
    return command_line


def _run_options(command_line: argparse.ArgumentParser) -> None:
    add = command_line.add_argument
    add(
        "--low-memory",
        action="store_true",
        help="hold one graph in memory at a time (default: as a bundle for phones says)",
    )
    add(
        "--no-memory-check",
        action="store_true",
        help="start even where the run is estimated not to fit into the memory that is free",
    )
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    kept = "pictures of finished batches are kept: --skip-existing makes the rest"
    words = list(sys.argv[1:] if argv is None else argv)
    if other := subcommand(words, COMMANDS):
        return other(words[1:])
    return run_cli(parser(), _run, words, interrupted=kept, intermixed=True)


def _run(args: argparse.Namespace) -> None:
    if str(args.bundle) in COMMANDS and not args.bundle.exists():
        raise UsageError(f"write '{args.bundle}' first: python -m runtimes {args.bundle} ...")
    settle_size(args)
    settle_picture_options(args)
    if args.replay:
        _replay(args)
        return
    pictures = args.prompts or args.prompts_file is not None or args.image is not None
    if args.verify and not pictures:
        bundle = _open_bundle(args)
        if not args.quiet:
            print(f"{bundle.folder}: all {len(bundle.manifest.files)} files are as they were made")
        return
    jobs = jobs_of(args)
    options = _options(args)
    bundle = _open_bundle(args)
    given = given_picture(args, bundle.manifest, options)
    keep_the_originals(given, [job.path for job in jobs])
    start = None if given is None else given.start
    plan = make_plan(bundle.manifest.sampling, options, 1, None, start)
    common = parameters_of(bundle, plan) | ({} if given is None else given.parameters())
    # What each PNG will say of itself; a picture that is there already is compared with it.
    parameters = {
        job: parameters_of_picture(job.prompt, job.negative, job.seed) | common for job in jobs
    }
    missing = [job for job in jobs if not (args.skip_existing and _is_there(job, parameters))]
    previews = preview_files(args, bundle.manifest, len(jobs))
    summary = Summary()
    progress = Progress(quiet=args.quiet or args.json)
    with open_pipeline(bundle, args) as pipeline:
        summary.low_memory = pipeline.low_memory
        size = batch_size(pipeline, options, args.batch_size, start)
        made = run_batches(pipeline, missing, size, options, progress, start, previews)
        for batch, result in made:
            _save(batch, result, parameters)
            summary.add(batch, result, _warn)
    skipped = sorted({*jobs} - {*missing}, key=lambda job: job.index)
    if args.json:
        more = {} if given is None else {"start": given.as_json(plan)}
        more |= {} if previews is None else {"previews": previews.as_json()}
        print(json.dumps(as_json(summary, missing, skipped, plan) | more, indent=1))
    elif not args.quiet:
        if given is not None:
            print(given.in_words(plan))
        print_summary(summary, missing, plan, (options.height, options.width))
        if previews is not None:
            print(previews)
        if summary.low_memory and not args.low_memory:
            print("held one graph in memory at a time, as the bundle's mobile.keep says")
        if skipped:
            print(f"skipped {len(skipped)} of {len(jobs)} pictures, which are there already")


def _replay(args: argparse.Namespace) -> None:
    """Print each check of a replay; RunError naming the first that failed."""
    if args.prompts or args.prompts_file is not None or args.image is not None:
        raise UsageError("--replay makes no picture: leave the prompt out, and --image")
    checks = replay(_open_bundle(args))
    if args.json:
        print(json.dumps([asdict(check) | {"passed": check.passed} for check in checks], indent=1))
    elif not args.quiet:
        for check in checks:
            print(f"{check.what}: error {check.error:.3g} (at most {check.limit:g})")
    for check in checks:
        if not check.passed:
            raise RunError(
                f"{args.bundle}: {check.what}: the replay is {check.error:.3g} off the golden run, "
                f"{check.limit:g} is allowed"
            )


def _open_bundle(args: argparse.Namespace) -> Bundle:
    """The bundle, every file of it hashed where asked for."""
    hashes: Hashes = "none" if args.no_verify else "fresh" if args.verify else "remembered"
    bundle = open_bundle(args.bundle, hashes=hashes, verify_rest=args.verify)
    if args.verify and (others := bundle.strangers()) and not args.quiet:
        print(f"note: no part of the bundle: {', '.join(others)}", file=sys.stderr)
    return bundle


def open_pipeline(bundle: Bundle, args: argparse.Namespace) -> Pipeline:
    """The bundle on the engine, device and terms that the options ask for."""
    execution = execution_of(args)
    return Pipeline.open(
        bundle,
        device=execution.device,
        engine=execution.engine,
        precision=execution.precision,
        cache_dir=execution.cache,
        threads=execution.threads,
        low_memory=args.low_memory or None,  # as the bundle says
        memory_check=not args.no_memory_check,
    )


def _is_there(job: Job, parameters: dict[Job, dict[str, Any]]) -> bool:
    # One that started from a picture is not the one that would be made of its prompt alone.
    return is_there(job.path, NO_PICTURE | parameters[job])


def _save(batch: Sequence[Job], result: Result, parameters: dict[Job, dict[str, Any]]) -> None:
    placements = {name: str(place) for name, place in result.placements.items()}
    # Not strict: a batch of fixed size may have spare pictures at its end.
    for job, picture in zip(batch, result.pictures, strict=False):
        about = {"index": job.index, "placements": placements}
        save_png(picture, job.path, parameters[job] | about)


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """The pictures that a command line asks for; UsageError before any work."""
    prompts, negatives = prompts_from(args), _texts(args.negative_prompt, "--negative-prompt")
    paths = picture_paths(args.output, len(prompts) * args.num_images)
    return jobs_for(prompts, negatives, args.seed, args.num_images, paths)


def prompts_from(args: argparse.Namespace) -> list[str]:
    """The prompts of the command line, then those of its file."""
    prompts = _texts(args.prompts, "PROMPT")
    if args.prompts_file is not None:
        prompts += read_prompts(args.prompts_file, "--prompts-file")
    if not prompts:
        raise UsageError('there is no prompt; give at least one (it may be empty: "")')
    return prompts


def _texts(words: Sequence[str], what: str) -> list[str]:
    several = len(words) > 1
    return [
        argument_text(word, f"{what} {index}" if several else what)
        for index, word in enumerate(words, 1)
    ]


def _options(args: argparse.Namespace) -> Options:
    """Those that all pictures share: all but the seed."""
    return Options(
        steps=args.steps,
        timesteps=args.timesteps,
        guidance=args.guidance,
        decoder_steps=args.decoder_steps,
        decoder_timesteps=args.decoder_timesteps,
        decoder_guidance=args.decoder_guidance,
        height=args.height,
        width=args.width,
    )


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
