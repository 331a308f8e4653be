"""python -m runtimes: a bundle and prompts to PNG files."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
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
from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.read import Bundle, Hashes, open_bundle, sha256
from runtimes.console import run_cli, subcommand
from runtimes.errors import RunError, UsageError
from runtimes.images import is_there, picture_paths, save_png
from runtimes.picture_arguments import (
    NO_PICTURE,
    Given,
    add_picture_side_options,
    given_picture,
    keep_the_originals,
    settle_picture_options,
)
from runtimes.pipeline import Pipeline, Result
from runtimes.plan import Options, Plan, fixed_batch, make_plan
from runtimes.preview_files import PreviewFiles, add_preview_options, preview_files
from runtimes.progress import Progress
from runtimes.prompts import RULE, argument_text, read_prompts
from runtimes.ray_batches import Opener, check_for_ray, pipeline_of, run_on_ray
from runtimes.replay import replay
from runtimes.spread import Spread, add_spread_options, settle_threads, spread_of
from runtimes.start import Start

COMMANDS = {
    "encode": "runtimes.encode_cli:main",
    "decode": "runtimes.decode_cli:main",
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
        "pictures of codes.",
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
    _make(args)


@dataclass(frozen=True)
class _Asked:
    """A run before it makes anything: all its pictures, those made here, those of them missing.

    `parameters` are what each PNG will say of itself; a picture that is there already is compared
    with it.
    """

    spread: Spread
    bundle: Bundle
    options: Options
    given: Given | None
    plan: Plan
    every: list[Job]
    jobs: list[Job]
    missing: list[Job]
    parameters: dict[Job, dict[str, Any]]
    previews: PreviewFiles | None

    @property
    def start(self) -> Start | None:
        return None if self.given is None else self.given.start

    @property
    def skipped(self) -> list[Job]:
        return sorted({*self.jobs} - {*self.missing}, key=lambda job: job.index)


def _asked(args: argparse.Namespace) -> _Asked:
    """Everything checked; UsageError before any work."""
    spread = spread_of(args)
    every = jobs_of(args)
    jobs = spread.part_of(every)
    options = _options(args)
    bundle = _open_bundle(args)
    settle_threads(args, bundle.manifest.backend)
    if spread.cluster is not None:
        check_for_ray(bundle, args.previews)
    given = given_picture(args, bundle.manifest, options)
    keep_the_originals(given, [job.path for job in every])
    start = None if given is None else given.start
    plan = make_plan(bundle.manifest.sampling, options, 1, None, start)
    common = _parameters(bundle, plan) | ({} if given is None else given.parameters())
    parameters = {job: _job_parameters(job) | common for job in jobs}
    missing = [job for job in jobs if not (args.skip_existing and _is_there(job, parameters))]
    previews = preview_files(args, bundle.manifest, len(every))
    return _Asked(spread, bundle, options, given, plan, every, jobs, missing, parameters, previews)


def _make(args: argparse.Namespace) -> None:
    """Make the pictures that are missing, and say what came of it."""
    asked, summary = _asked(args), Summary()
    progress = Progress(quiet=args.quiet or args.json)
    make = _made_here if asked.spread.cluster is None else _made_on_ray
    for batch, result in make(args, asked, summary, progress):
        _save(batch, result, asked.parameters)
        summary.add(batch, result, _warn)
    if args.json:
        _print_json(asked, summary)
    elif not args.quiet:
        _print(asked, summary, asked_low=args.low_memory)


def _made_here(
    args: argparse.Namespace, asked: _Asked, summary: Summary, progress: Progress
) -> Iterator[tuple[Sequence[Job], Result]]:
    size = args.batch_size
    if size is None and asked.spread.shard is not None:
        size = fixed_batch(asked.bundle.manifest) or 1  # the same whatever the number of shards
    with open_pipeline(asked.bundle, args) as pipeline:
        summary.low_memory = pipeline.low_memory
        size = batch_size(pipeline, asked.options, size, asked.start)
        yield from run_batches(
            pipeline, asked.missing, size, asked.options, progress, asked.start, asked.previews
        )


def _made_on_ray(
    args: argparse.Namespace, asked: _Asked, summary: Summary, progress: Progress
) -> Iterator[tuple[Sequence[Job], Result]]:
    opener = Opener(
        asked.bundle.folder,
        sha256(asked.bundle.folder / MANIFEST_NAME),
        execution_of(args),
        asked.options,
        asked.start,
        args.low_memory or None,
        not args.no_memory_check,
    )
    with opener.pipeline() as pipeline:  # an engine that is not there is said before Ray starts
        summary.low_memory = pipeline.low_memory
    cluster = asked.spread.cluster
    assert cluster is not None
    yield from run_on_ray(opener, asked.missing, args.batch_size or 1, cluster, progress)


def _print_json(asked: _Asked, summary: Summary) -> None:
    given, previews, spread = asked.given, asked.previews, asked.spread
    more: dict[str, Any] = {} if given is None else {"start": given.as_json(asked.plan)}
    more |= {} if previews is None else {"previews": previews.as_json()}
    more |= {} if spread.shard is None else {"shard": str(spread.shard)}
    about = as_json(summary, asked.missing, asked.skipped, asked.plan)
    print(json.dumps(about | more, indent=1))


def _print(asked: _Asked, summary: Summary, *, asked_low: bool) -> None:
    if asked.given is not None:
        print(asked.given.in_words(asked.plan))
    size = asked.options.height, asked.options.width
    print_summary(summary, asked.missing, asked.plan, size)
    if asked.previews is not None:
        print(asked.previews)
    if summary.low_memory and not asked_low:
        print("held one graph in memory at a time, as the bundle's mobile.keep says")
    if asked.skipped:
        count = len(asked.jobs)
        print(f"skipped {len(asked.skipped)} of {count} pictures, which are there already")
    if asked.spread.shard is not None:
        there = sum(job.path.exists() for job in asked.every)
        of = len(asked.every)
        print(f"shard {asked.spread.shard}: {there} of the run's {of} pictures are there")


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
    return pipeline_of(
        bundle,
        execution_of(args),
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


def _job_parameters(job: Job) -> dict[str, Any]:
    return {"prompt": job.prompt, "negative_prompt": job.negative, "seed": [job.seed]}


def _parameters(bundle: Bundle, plan: Plan) -> dict[str, Any]:
    """What all pictures of a run have in common, and decides how they look."""
    manifest, model = bundle.manifest, bundle.manifest.model
    return {
        "bundle": sha256(bundle.folder / MANIFEST_NAME),
        "model": f"{model.id}@{model.revision}",
        "prior": f"{model.prior_id}@{model.prior_revision}",
        "precision": manifest.precision,
        "guidance": plan.guidance,
        "decoder_guidance": plan.decoder_guidance,
        "timesteps": plan.timesteps,
        "decoder_timesteps": plan.decoder_timesteps,
        "height": plan.sizes.picture[0],
        "width": plan.sizes.picture[1],
    }


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
