"""python -m runtimes decode: the picture that a code was made of, as Stage B makes it again."""

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
    integer,
    number,
    numbers,
    seeds,
)
from runtimes.batches import Job, Summary, print_stages, stages_as_json
from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.read import Bundle, sha256
from runtimes.cli import open_pipeline
from runtimes.codes import Code, check_code, model_of, read_code
from runtimes.console import run_cli
from runtimes.encode_cli import Quality, add_run_options, filled, opened, quality_of
from runtimes.errors import UsageError
from runtimes.images import picture_paths, save_png
from runtimes.pictures import PictureFile, fit, read_picture
from runtimes.pipeline import Result
from runtimes.plan import Options
from runtimes.progress import Progress
from runtimes.prompts import argument_text


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m runtimes decode`."""
    command_line = Parser(
        prog="python -m runtimes decode",
        description="Make the picture of a code again, by Stage B and Stage A of the bundle that "
        "'python -m runtimes encode' made it with, or another of the same model.",
    )
    add = command_line.add_argument
    add("bundle", type=a_path, help="bundle folder")
    add("code", type=a_path, help="safetensors file, from 'python -m runtimes encode'")
    add("prompt", nargs="?", default="", help="what Stage B reads beside the code (default: none)")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("out.png"),
        metavar="FILE",
        help="PNG file (default: out.png)",
    )
    add(
        "--original",
        type=Path,
        metavar="PICTURE",
        help="print PSNR and SSIM against this picture, fitted as the encoded one was",
    )
    _stage_b_options(command_line)
    add_execution_options(command_line)
    add_run_options(command_line)
    return command_line


def _stage_b_options(command_line: argparse.ArgumentParser) -> None:
    add = command_line.add_argument
    add("--seed", type=seeds, default=(0,), help="whole number, or 'random' (default: 0)")
    add("--decoder-steps", type=integer, help="even Stage B steps (default: the bundle's)")
    add("--decoder-timesteps", type=numbers, help="Stage B timesteps, comma-separated")
    add("--decoder-guidance", type=number, help="Stage B guidance scale (default: 0, off)")
    add("--negative-prompt", default="", metavar="TEXT", help="for --decoder-guidance above 1")


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(parser(), _run, argv, interrupted="nothing was written", intermixed=True)


def _run(args: argparse.Namespace) -> None:
    job, code = _job(args), read_code(args.code)
    original = None if args.original is None else read_picture(args.original, "--original")
    bundle, summary = opened(args), Summary()
    with open_pipeline(bundle, args) as pipeline:
        check_code(code, bundle.manifest, args.code)
        embedding = filled(code.image_embedding, bundle)
        result = pipeline.decode(
            embedding,
            job.prompt,
            job.negative,
            _options(args, len(embedding)),
            on_step=Progress(quiet=args.quiet or args.json).step,
        )
    summary.add([job], result, lambda text: print(f"warning: {text}", file=sys.stderr))
    save_png(result.pictures[0], job.path, _parameters(bundle, code, job, result, args.code))
    quality = None if original is None else _quality(result, code, original)
    if args.json:
        print(json.dumps(_as_json(args, code, original, quality, summary), indent=1))
    elif not args.quiet:
        _print(args, code, original, quality, summary)


def _job(args: argparse.Namespace) -> Job:
    """The one picture that is asked for; UsageError before any work."""
    if len(args.seed) != 1:
        raise UsageError(f"--seed has {len(args.seed)} seeds for one picture; give one")
    (path,) = picture_paths(args.output, 1)
    both = args.original is not None and args.original.exists() and path.exists()
    if both and path.samefile(args.original):
        raise UsageError(f"--output {path} is the original; give another file name")
    prompt = argument_text(args.prompt, "PROMPT")
    negative = argument_text(args.negative_prompt, "--negative-prompt")
    return Job(0, prompt, negative, args.seed[0], path)


def _options(args: argparse.Namespace, rows: int) -> Options:
    return Options(
        seed=[args.seed[0]] * rows,
        decoder_steps=args.decoder_steps,
        decoder_timesteps=args.decoder_timesteps,
        decoder_guidance=args.decoder_guidance,
    )


def _quality(result: Result, code: Code, original: PictureFile) -> Quality:
    about = code.about
    return quality_of(result.pictures[0], fit(original, about.fit, about.height, about.width))


def _parameters(bundle: Bundle, code: Code, job: Job, result: Result, path: Path) -> dict[str, Any]:
    """What the PNG says of itself: all that decides how it looks."""
    manifest, plan = bundle.manifest, result.plan
    return {
        "prompt": job.prompt,
        "negative_prompt": job.negative,
        "seed": [job.seed],
        "code": sha256(path),
        "source": code.about.source_sha256,
        "fit": code.about.fit,
        "bundle": sha256(bundle.folder / MANIFEST_NAME),
        "model": model_of(manifest.model),
        "precision": manifest.precision,
        "decoder_guidance": plan.decoder_guidance,
        "decoder_timesteps": plan.decoder_timesteps,
        "height": plan.sizes.picture[0],
        "width": plan.sizes.picture[1],
        "placements": {name: str(place) for name, place in result.placements.items()},
    }


def _as_json(
    args: argparse.Namespace,
    code: Code,
    original: PictureFile | None,
    quality: Quality | None,
    summary: Summary,
) -> dict[str, Any]:
    return {
        "picture": str(args.output),
        "seed": args.seed[0],
        "height": code.about.height,
        "width": code.about.width,
        "fit": code.about.fit,
        **({} if quality is None else asdict(quality)),
        **({} if original is None else {"original_was_encoded": _was_encoded(original, code)}),
        "truncated": summary.truncated,
        "stages": stages_as_json(summary),
    }


def _print(
    args: argparse.Namespace,
    code: Code,
    original: PictureFile | None,
    quality: Quality | None,
    summary: Summary,
) -> None:
    print_stages(summary)
    about = code.about
    print(f"wrote {args.output} ({about.height} x {about.width}, seed {args.seed[0]})")
    if original is not None:
        same = "" if _was_encoded(original, code) else ", another file than the one encoded"
        print(f"beside {original.path}, {about.fit}{same}: {quality}")


def _was_encoded(original: PictureFile, code: Code) -> bool:
    return original.sha256 == code.about.source_sha256
