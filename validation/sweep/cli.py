"""python -m validation sweep: quality and time over guidance and steps."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtimes.arguments import a_path, execution_of, integer
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.errors import UsageError
from runtimes.progress import Progress
from runtimes.spread import settle_threads, spread_of
from validation.machine import machine
from validation.quality.cli import measures_of
from validation.quality.filling import fill
from validation.quality.folder import claimed, write_json, write_text
from validation.quality.measure import Request, check_against, check_request
from validation.quality.parted import make_part
from validation.quality.prompts import prompts_for
from validation.quality.published import CLIP_MODEL, load_clip
from validation.quality.series import digest_of
from validation.sweep import text_free
from validation.sweep.cells import Finished, albums_of, run_cell, variant_names
from validation.sweep.grid import Cell, grid
from validation.sweep.report import as_json, as_svg, print_table, rows_of

FORMAT, FORMAT_VERSION = "wuerstchen-sweep", 1
COUNT = 20
PRESETS = ("text-free",)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which bundle, the axes of the grid, and the second bundle."""
    add = parser.add_argument
    add("bundle", type=a_path, help="bundle folder, from 'python -m exporter'")
    add(
        "-o", "--output", type=Path, required=True,
        help="folder for pictures and results; of an earlier sweep of the same bundle, its "
        "finished cells and pictures are used again",
    )  # fmt: skip
    lists = "comma-separated; 'default' is the bundle's own"
    add("--guidance", help=f"Stage C guidance scales, {lists}")
    add("--steps", help=f"even Stage C steps, {lists} schedule")
    add("--decoder-steps", help=f"even Stage B steps, {lists} schedule")
    add(
        "--against", type=Path, metavar="BUNDLE",
        help="bundle of the same model to sweep beside it on the same noise",
    )  # fmt: skip
    add(
        "--preset",
        type=str.lower,
        choices=PRESETS,
        help="text-free: export the bundle whose Stage B gets no text (the paper's Appendix J) "
        "into the output folder, and sweep it beside this one (as --against does)",
    )
    add("--reference", metavar="DIR_OR_ID", help="checkpoint for --preset (default: the bundle's)")
    add("--prior", metavar="DIR_OR_ID", help="prior of --reference, as in the exporter")
    add(
        "--count", type=integer,
        help=f"pictures per cell (default: {COUNT}, or all the file's prompts if fewer)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Measure every cell that is not there yet, and write the table and the plot.

    Of a shard, make its pictures of all cells.
    """
    spread = spread_of(args)
    bundle = open_bundle(args.bundle)
    settle_threads(args, bundle.manifest.backend)
    cells = _cells(args, bundle)
    folder = args.output / text_free.FOLDER
    pair = text_free.sources(bundle, folder, args.reference, args.prior) if args.preset else None
    against = None if args.against is None else open_bundle(args.against)
    request = _request(args, bundle, against)
    _check(bundle, request, cells, compared=bool(args.preset or args.against))
    identity = _identity(args, bundle, request)
    if spread.shard is not None:
        make_part(args, identity, albums_of(cells, bundle, request), spread, spread.shard)
        return
    progress = Progress(quiet=args.quiet or args.json)
    with claimed(args.output, identity):
        if args.preset:
            free = text_free.text_free(bundle, folder, pair, progress)
            check_against(bundle, free)
            request = dataclasses.replace(request, against=free)
        if spread.cluster is not None:  # all cells together, so that no worker waits for a cell
            fill(albums_of(cells, bundle, request), spread, progress.step)
        finished = [
            _finish(cell, bundle, request, progress, f"cell {number} of {len(cells)}, ")
            for number, cell in enumerate(cells, 1)
        ]
        _write(args, finished, _about(bundle, request))


def _finish(
    cell: Cell, bundle: Bundle, request: Request, progress: Progress, prefix: str
) -> Finished:
    finished, already = run_cell(
        cell, bundle, request, lambda what, done, of: progress.step(prefix + what, done, of)
    )
    progress.line(f"{prefix}{cell.name}{': there already' if already else ''}")
    return finished


def _cells(args: argparse.Namespace, bundle: Bundle) -> list[Cell]:
    axes = (args.guidance, args.steps, args.decoder_steps)
    if not any(axes) and args.preset is None and args.against is None:
        raise UsageError("give --guidance, --steps, --decoder-steps, --against or --preset")
    if args.preset and args.against:
        raise UsageError(f"--preset {args.preset} makes the second bundle: leave out --against")
    if args.preset and args.shard:
        raise UsageError(
            f"--preset {args.preset} exports a bundle, which no shard does: export it first (with "
            "--stage-b-text drop) and give it as --against"
        )
    if not args.preset and (args.reference or args.prior):
        raise UsageError("--reference and --prior are for --preset")
    return grid(*axes, bundle.manifest.sampling)


def _request(args: argparse.Namespace, bundle: Bundle, against: Bundle | None) -> Request:
    model = bundle.manifest.model
    count = args.count
    if count is None:
        there = COUNT if args.prompts is None else len(prompts_for(model, args.prompts, None).texts)
        count = min(COUNT, there)
    return Request(
        folder=args.output,
        prompts=prompts_for(model, args.prompts, count),
        seed=args.seed,
        execution=execution_of(args),
        measures=measures_of(args),
        against=against,
        low_memory=args.low_memory,
    )


def _check(bundle: Bundle, request: Request, cells: Sequence[Cell], *, compared: bool) -> None:
    """Every cell's options, and that there is a quality to plot, before any work."""
    for cell in cells:
        check_request(bundle, dataclasses.replace(request, options=cell.options))
    model = bundle.manifest.model
    if compared or (model.is_demo and request.prompts.scenes is not None):
        return
    clip = request.measures.clip_model or (None if model.is_demo else CLIP_MODEL)
    needed = "no quality to measure: give --clip-model" if clip is None else load_clip(clip)
    if isinstance(needed, str):
        raise UsageError(f"{needed}, or a second bundle as --against")


def _identity(args: argparse.Namespace, bundle: Bundle, request: Request) -> dict[str, Any]:
    against = args.preset
    if request.against is not None:
        against = digest_of(request.against)
    return {"command": "sweep", **request.series(bundle).identity(), "against": against}


def _about(bundle: Bundle, request: Request) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **request.series(bundle).identity(),
        "bundles": variant_names(bundle, request.against),
        "machine": machine(),
        "prompts": {
            "source": request.prompts.source,
            "count": len(request.prompts.texts),
            "sha256": request.prompts.sha256,
        },
    }


def _write(args: argparse.Namespace, cells: list[Finished], about: dict[str, Any]) -> None:
    path, rows = args.output / "sweep.json", rows_of(cells)
    count = about["prompts"]["count"]
    write_json(path, as_json(rows, about))
    title = f"{' and '.join(about['bundles'])}: {count} prompts a cell"
    write_text(args.output / "sweep.svg", as_svg(rows, title))
    if args.json:
        print(path.read_text(encoding="utf-8"), end="")
    elif not args.quiet:
        print(f"{about['machine']}; {count} prompts a cell, medians")
        print_table(rows)
        print(f"wrote {path} and {path.with_suffix('.svg')}")
