"""python -m validation quality: make pictures of a bundle and measure them."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from runtimes.arguments import a_path, execution_of, integer, number
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.progress import Progress
from runtimes.spread import settle_threads, spread_of
from validation.machine import machine
from validation.quality.filling import fill
from validation.quality.folder import claimed, write_json
from validation.quality.measure import Measures, Quality, Request, check_request, measure
from validation.quality.metric import print_metrics
from validation.quality.parted import make_part
from validation.quality.prompts import DEMO_COUNT, prompts_for
from validation.quality.published import CLIP_MODEL, INCEPTION_FILE
from validation.quality.series import digest_of
from validation.quality.starts import starts_for

FORMAT, FORMAT_VERSION = "wuerstchen-quality", 1
QUALITY_FILE = "quality.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which bundle, where to, and what it is compared with."""
    add = parser.add_argument
    add("bundle", type=a_path, help="bundle folder, from 'python -m exporter'")
    add(
        "-o", "--output", type=Path, required=True,
        help="folder for pictures and quality.json; of an earlier run of the same, its pictures "
        "are used again",
    )  # fmt: skip
    add(
        "--against", type=Path, metavar="BUNDLE",
        help="bundle of the same model, run on the same noise, for PSNR, SSIM and latent SQNR "
        "(default: the golden run recorded in the bundle)",
    )  # fmt: skip
    add(
        "--count", type=integer,
        help=f"pictures to make (default: every prompt of the file; the demo: {DEMO_COUNT})",
    )  # fmt: skip
    add(
        "--strength", type=number, metavar="S",
        help="make pictures from pictures, running this share of Stage C's steps: 0 compresses and "
        "decodes them again, 1 starts from noise alone",
    )  # fmt: skip
    add(
        "--starts", type=Path, metavar="DIR",
        help="with --strength: folder of PNG or JPEG files, one a prompt in the order of their "
        "names (default for the demo: drawings of its held-out scenes)",
    )  # fmt: skip


def measuring() -> argparse.ArgumentParser:
    """Parent of the commands that make pictures: which ones, and what measures them."""
    parent = argparse.ArgumentParser(add_help=False)
    add = parent.add_argument
    add(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="text file with one prompt a line, none of them empty or twice (default for the demo: "
        "its held-out scenes, which the judge can score)",
    )
    add("--seed", type=integer, default=0, help="picture i is drawn with seed + i (default: 0)")
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="reference images (PNG, JPEG) of the pictures' size, for FID and, on the demo, the "
        "Frechet distance on the judge's features (default there: drawings)",
    )
    add(
        "--clip-model",
        metavar="DIR_OR_ID",
        help=f"CLIP model for the CLIP score (default: {CLIP_MODEL} in the hub's cache; the "
        "demo: no CLIP score)",
    )
    add(
        "--inception-weights",
        type=Path,
        metavar="FILE",
        help=f"{INCEPTION_FILE}, for FID and Inception score (default: torch.hub's cache; the "
        "demo: neither)",
    )
    add("--low-memory", action="store_true", help="hold one graph at a time")
    return parent


def measures_of(args: argparse.Namespace) -> Measures:
    """What `measuring` parsed of the measures."""
    return Measures(args.images, args.clip_model, args.inception_weights)


def run(args: argparse.Namespace) -> None:
    """Make the pictures, measure them, and write quality.json; of a shard, make its pictures."""
    spread = spread_of(args)
    bundle = open_bundle(args.bundle)
    settle_threads(args, bundle.manifest.backend)
    against = None if args.against is None else open_bundle(args.against)
    prompts = prompts_for(bundle.manifest.model, args.prompts, args.count)
    request = Request(
        folder=args.output,
        prompts=prompts,
        starts=starts_for(bundle.manifest.model, prompts, args.strength, args.starts),
        seed=args.seed,
        execution=execution_of(args),
        measures=measures_of(args),
        against=against,
        low_memory=args.low_memory,
    )
    check_request(bundle, request)
    identity = _identity(bundle, request)
    if spread.shard is not None:
        make_part(args, identity, request.albums(bundle), spread, spread.shard)
        return
    progress = Progress(quiet=args.quiet or args.json)
    with claimed(args.output, identity):
        if spread.cluster is not None:
            fill(request.albums(bundle), spread, progress.step)
        quality = measure(bundle, request, progress.step)
        write_json(args.output / QUALITY_FILE, summary(bundle, request, quality))
    if args.json:
        print((args.output / QUALITY_FILE).read_text(encoding="utf-8"), end="")
    elif not args.quiet:
        print_metrics(quality.metrics)
        print(f"wrote {args.output / QUALITY_FILE}")


def _identity(bundle: Bundle, request: Request) -> dict[str, Any]:
    against = None if request.against is None else digest_of(request.against)
    return {"command": "quality", **request.series(bundle).identity(), "against": against}


def summary(bundle: Bundle, request: Request, quality: Quality) -> dict[str, Any]:
    """`quality.json`: the figures, what made them, and every picture with its seed."""
    manifest = bundle.manifest
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "variant": {
            "folder": bundle.folder.name,
            "backend": manifest.backend,
            "precision": manifest.precision,
        },
        **request.series(bundle).identity(),
        "against": None if request.against is None else request.against.folder.name,
        "prompts": {
            "source": request.prompts.source,
            "count": len(request.prompts.texts),
            "sha256": request.prompts.sha256,
        },
        "metrics": [dataclasses.asdict(metric) for metric in quality.metrics],
        "machine": machine(),
        "placements": quality.pictures[0].placements,
        "pictures": [
            {
                "file": picture.path.relative_to(request.folder).as_posix(),
                "prompt": picture.prompt,
                "seed": picture.seed,
                "seconds": picture.seconds,
            }
            for picture in quality.pictures
        ],
    }
