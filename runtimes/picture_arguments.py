"""The options of runs that start from a picture, and what they come to."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.arguments import number, positive
from runtimes.bundle.manifest import Manifest
from runtimes.errors import UsageError
from runtimes.pictures import FITS, PictureFile, fit, fit_mask, read_mask, read_picture
from runtimes.plan import Options, Plan, pixels_asked, timesteps_for
from runtimes.sizes import sizes
from runtimes.start import (
    MASKED_STRENGTH,
    STRENGTH,
    Start,
    check_picture_graphs,
    check_strength,
    graphs_of_start,
)

# What a PNG says of the picture that it started from; nothing where there was none.
NO_PICTURE: dict[str, Any] = {"image": None, "strength": None, "fit": None, "mask": None}
_DONE = {"crop": "cut", "pad": "padded", "stretch": "stretched"}


def add_picture_side_options(command_line: argparse.ArgumentParser) -> None:
    """`--image` and what goes with it."""
    add = command_line.add_argument
    add("--image", type=Path, metavar="FILE", help="picture to start from: PNG, JPEG, WebP, ...")
    add(
        "--strength",
        type=number,
        help="how much of --image is made anew: the share of Stage C's steps that run, from 0 "
        f"(none: the picture again) to 1 (default: {STRENGTH}; with --mask {MASKED_STRENGTH:g})",
    )
    add_fit_option(command_line)
    add(
        "--mask",
        type=Path,
        metavar="FILE",
        help="picture of the size of --image: white is made anew, black is kept",
    )
    add(
        "--variations",
        type=positive,
        metavar="N",
        help="make N pictures like --image, without a prompt, and without guidance unless "
        "--guidance is given",
    )


def add_fit_option(command_line: argparse.ArgumentParser, what: str = "--image") -> None:
    """`--fit`, of every command that reads pictures."""
    command_line.add_argument(
        "--fit",
        type=str.lower,
        choices=list(FITS),
        help=f"how {what} gets the run's size: cut at both ends, white at both ends, or distorted "
        f"(default: {FITS[0]})",
    )


def settle_picture_options(args: argparse.Namespace) -> None:
    """Check the options against each other, and fill in what --variations and strength 0 mean.

    UsageError for an option that is of no use, or out of its range.
    """
    if args.image is None:
        for name in ("strength", "fit", "mask", "variations"):
            if getattr(args, name) is not None:
                raise UsageError(f"--{name} is of a picture to start from: give it as --image FILE")
        return
    if args.strength is None:
        args.strength = STRENGTH if args.mask is None else MASKED_STRENGTH
    check_strength(args.strength)
    prompted = bool(args.prompts) or args.prompts_file is not None
    if args.variations is not None:
        if prompted or args.num_images != 1:
            raise UsageError(
                "--variations says how many pictures to make, without a prompt: leave "
                f"{'the prompt' if prompted else '--num-images'} out, or --variations"
            )
        args.num_images = args.variations
        args.guidance = 1.0 if args.guidance is None else args.guidance
    if not prompted and (args.variations is not None or args.strength == 0):
        args.prompts = [""]


@dataclass(frozen=True)
class Given:
    """The files of a run that starts from a picture, and the start that they come to.

    `steps` are Stage C's without a picture.
    """

    picture: PictureFile
    mask: PictureFile | None
    fit: str
    start: Start
    steps: int

    def parameters(self) -> dict[str, Any]:
        """What a PNG says of it."""
        mask = None if self.mask is None else self.mask.sha256
        strength = self.start.strength
        return {"image": self.picture.sha256, "strength": strength, "fit": self.fit, "mask": mask}

    def as_json(self, plan: Plan) -> dict[str, Any]:
        """The same for machines, with paths and sizes."""
        mask = None if self.mask is None else _about(self.mask)
        return {
            "image": _about(self.picture),
            "strength": self.start.strength,
            "fit": self.fit,
            "mask": mask,
            "stage_c_steps": len(plan.stage_c.rows),
        }

    def in_words(self, plan: Plan) -> str:
        """A line of the summary."""
        (height, width), (high, wide) = self.picture.size, plan.sizes.picture
        same = self.picture.size == plan.sizes.picture
        fitted = "" if same else f", {_DONE[self.fit]} to {high} x {wide}"
        masked = "" if self.mask is None else f", what {self.mask.path} leaves black kept"
        return (
            f"from {self.picture.path} ({height} x {width}{fitted}{masked}), strength "
            f"{self.start.strength:g}: {len(plan.stage_c.rows)} of {self.steps} Stage C steps"
        )


def given_picture(args: argparse.Namespace, manifest: Manifest, options: Options) -> Given | None:
    """The files of the command line, read and fitted; None where it names no picture.

    UsageError for a bundle that takes none, before a file is read, and for files that are no
    pictures.
    """
    if args.image is None:
        return None
    graphs = graphs_of_start(masked=args.mask is not None)
    check_picture_graphs(manifest, graphs, str(args.bundle))
    sampling = manifest.sampling
    steps = len(timesteps_for(options, "stage_c", sampling.stage_c)) - 1
    size = sizes(*pixels_asked(sampling, options), sampling).picture
    picture = read_picture(args.image, "--image")
    mask = None if args.mask is None else read_mask(args.mask, "--mask", picture)
    how = args.fit or FITS[0]
    again = None if mask is None else fit_mask(mask, how, *size)
    start = Start(fit(picture, how, *size)[None], args.strength, again)
    return Given(picture, mask, how, start, steps)


def keep_the_originals(given: Given | None, outputs: Iterable[Path]) -> None:
    """UsageError where a picture that is read would be written over."""
    files = [] if given is None else [given.picture, *filter(None, [given.mask])]
    for path in outputs:
        if any(path.exists() and path.samefile(file.path) for file in files):
            raise UsageError(f"--output {path} is a picture that is read; give another file name")


def _about(file: PictureFile) -> dict[str, Any]:
    height, width = file.size
    return {"path": str(file.path), "sha256": file.sha256, "height": height, "width": width}
