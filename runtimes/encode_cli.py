"""python -m runtimes encode: a picture to a code, which Stage B makes the picture again from."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.arguments import (
    Parser,
    a_path,
    add_execution_options,
    add_memory_options,
    add_size_options,
    settle_size,
)
from runtimes.batches import Summary, print_stages, stages_as_json
from runtimes.bundle.atomic_file import check_writable
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.cli import open_pipeline
from runtimes.codes import PRECISIONS, SUFFIX, About, Code, is_code, make_code, model_of, write_code
from runtimes.console import run_cli
from runtimes.errors import UsageError
from runtimes.images import to_uint8
from runtimes.picture_arguments import add_fit_option
from runtimes.pictures import FITS, PictureFile, fit, read_picture
from runtimes.pipeline import Pipeline
from runtimes.plan import Options, fixed_batch, make_plan
from runtimes.progress import Progress
from runtimes.similarity import psnr_db, ssim
from runtimes.start import check_picture_graphs


@dataclass(frozen=True)
class Quality:
    """How close a picture made of a code is to the picture that was encoded."""

    psnr_db: float
    ssim: float | None

    def __str__(self) -> str:
        similarity = "" if self.ssim is None else f", SSIM {self.ssim:.4f}"
        return f"PSNR {self.psnr_db:.2f} dB{similarity}"


def quality_of(picture: NDArray[np.uint8], original: NDArray[np.float32]) -> Quality:
    """Of a picture (H,W,3) of 8 bits beside the original (3,H,W), fitted, in 0..1."""
    expected = to_uint8(original[None])[0]
    return Quality(psnr_db(picture, expected, peak=255), ssim(picture, expected))


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m runtimes encode`."""
    command_line = Parser(
        prog="python -m runtimes encode",
        description="Make a small code of a picture with a bundle's compressor: 16 numbers for "
        "some 42 x 42 pixels. 'python -m runtimes decode' makes the picture again.",
    )
    add = command_line.add_argument
    add("bundle", type=a_path, help="bundle folder, with a compressor")
    add("picture", type=a_path, help="picture to encode: PNG, JPEG, WebP and others")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("code.safetensors"),
        metavar="FILE",
        help="safetensors file to write (default: code.safetensors)",
    )
    add(
        "--precision",
        type=str.lower,
        choices=list(PRECISIONS),
        default="fp16",
        help="what the code is stored in: fp16, or int8 with a scale a channel, which is half as "
        "large (default: fp16)",
    )
    add_fit_option(command_line, "the picture")
    add_size_options(command_line)
    add("--check", action="store_true", help="decode the code, and print PSNR and SSIM")
    add_execution_options(command_line)
    add_run_options(command_line)
    return command_line


def add_run_options(command_line: argparse.ArgumentParser) -> None:
    """What encoding and decoding take alike, beside where they run."""
    add_memory_options(command_line)
    add = command_line.add_argument
    add("--no-verify", action="store_true", help="check sizes of the bundle's files only")
    add("--quiet", action="store_true", help="print errors only")
    add("--json", action="store_true", help="print the result as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(parser(), _run, argv, interrupted="nothing was written")


def _run(args: argparse.Namespace) -> None:
    settle_size(args)
    _check_output(args.output)
    picture = read_picture(args.picture, "PICTURE")
    bundle = opened(args)
    check_picture_graphs(bundle.manifest, ("compressor",), str(args.bundle))
    options = Options(height=args.height, width=args.width)
    plan = make_plan(bundle.manifest.sampling, options, 1, None)
    height, width = plan.sizes.picture
    how = args.fit or FITS[0]
    pixels = fit(picture, how, height, width)
    about = About(model_of(bundle.manifest.model), height, width, how, picture.sha256)
    progress, summary, quality = Progress(quiet=args.quiet or args.json), Summary(), None
    with open_pipeline(bundle, args) as pipeline:
        encoded = pipeline.encode(filled(pixels[None], bundle), options, on_step=progress.step)
        summary.usage |= encoded.usage
        summary.placements |= encoded.placements
        code = make_code(encoded.image_embedding[0], args.precision, about)
        if args.check:
            quality = _checked(pipeline, bundle, code, pixels, summary, progress)
    write_code(code, args.output)
    if args.json:
        print(json.dumps(_as_json(args, code, quality, summary), indent=1))
    elif not args.quiet:
        _print(args.output, picture, code, quality, summary)


def opened(args: argparse.Namespace) -> Bundle:
    """The bundle, verified unless it was asked not to be."""
    return open_bundle(args.bundle, hashes="none" if args.no_verify else "remembered")


def filled(values: NDArray[np.float32], bundle: Bundle) -> NDArray[np.float32]:
    """(1,...) as often as graphs of a fixed batch take."""
    return np.repeat(values, fixed_batch(bundle.manifest) or 1, axis=0)


def _check_output(output: Path) -> None:
    """UsageError for a place where no code can be written, or where another file would be lost."""
    if output.suffix.lower() != SUFFIX:
        raise UsageError(
            f"--output {output}: codes are safetensors files, end the name in {SUFFIX}"
        )
    if not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: the folder {output.absolute().parent} does not exist")
    if output.exists() and not is_code(output):
        raise UsageError(f"--output {output} is there and is no code; give another file name")
    check_writable(output, "--output")


def _checked(
    pipeline: Pipeline,
    bundle: Bundle,
    code: Code,
    pixels: NDArray[np.float32],
    summary: Summary,
    progress: Progress,
) -> Quality:
    """How close the picture is that Stage B makes of the code without a prompt, seed 0."""
    embedding = filled(code.image_embedding, bundle)
    options = Options(seed=[0] * len(embedding))
    result = pipeline.decode(embedding, options=options, on_step=progress.step)
    summary.usage |= result.usage
    summary.placements |= result.placements
    return quality_of(result.pictures[0], pixels)


def _as_json(
    args: argparse.Namespace, code: Code, quality: Quality | None, summary: Summary
) -> dict[str, Any]:
    size = args.output.stat().st_size
    return {
        "code": str(args.output),
        **asdict(code.about),
        "precision": code.precision,
        "cells": code.cells,
        "bytes": code.size,
        "file_bytes": size,
        "bits_per_pixel": code.bits_per_pixel(code.size),
        "file_bits_per_pixel": code.bits_per_pixel(size),
        "area_factor": code.area_factor,
        **({} if quality is None else asdict(quality)),
        "stages": stages_as_json(summary),
    }


def _print(
    path: Path, picture: PictureFile, code: Code, quality: Quality | None, summary: Summary
) -> None:
    print_stages(summary)
    (rows, columns), about, size = picture.size, code.about, path.stat().st_size
    print(
        f"{picture.path}: {rows} x {columns} pixels, {about.fit} to {about.height} x {about.width}"
    )
    print(
        f"wrote {path}: {code.cells[0]} x {code.cells[1]} cells in {code.precision}, "
        f"{code.bits_per_pixel(code.size):.3f} bits per pixel ({code.size} bytes), "
        f"{code.bits_per_pixel(size):.3f} with the file's header ({size}); "
        f"{code.area_factor**0.5:.1f} to 1 a side, {code.area_factor:.0f} to 1 in area"
    )
    if quality is not None:
        print(f"decoded again: {quality}")
