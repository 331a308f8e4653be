"""python -m runtimes: a bundle and prompts to PNG files."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runtimes.arguments import execution_of, settle_size
from runtimes.batches import (
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
from runtimes.command_line import parser
from runtimes.console import run_cli, subcommand
from runtimes.errors import RunError, UsageError
from runtimes.images import is_there, picture_paths, save_png
from runtimes.parameters import parameters_of, parameters_of_picture
from runtimes.picture_arguments import (
    NO_PICTURE,
    Given,
    given_picture,
    keep_the_originals,
    settle_picture_options,
)
from runtimes.pipeline import Pipeline, Result
from runtimes.plan import Options, Plan, fixed_batch, make_plan
from runtimes.preview_files import PreviewFiles, preview_files
from runtimes.progress import Progress
from runtimes.prompts import argument_text, read_prompts
from runtimes.ray_batches import Opener, check_for_ray, pipeline_of, run_on_ray
from runtimes.replay import replay
from runtimes.spread import Spread, settle_threads, spread_of
from runtimes.start import Start

COMMANDS = {
    "encode": "runtimes.encode_cli:main",
    "decode": "runtimes.decode_cli:main",
    "serve": "runtimes.serve.cli:main",
}


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
    common = parameters_of(bundle, plan) | ({} if given is None else given.parameters())
    parameters = {
        job: parameters_of_picture(job.prompt, job.negative, job.seed) | common for job in jobs
    }
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


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
