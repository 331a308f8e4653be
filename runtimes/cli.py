"""python -m runtimes: a bundle and prompts to PNG files."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtimes.bundle import open_bundle
from runtimes.command import add_execution_options, guarded
from runtimes.errors import UsageError
from runtimes.images import save_png
from runtimes.options import Options
from runtimes.pipeline import Pipeline, Result
from runtimes.progress import Progress


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m runtimes`."""
    found = argparse.ArgumentParser(
        prog="python -m runtimes",
        description="Make pictures from prompts with a bundle; needs NumPy and one engine only.",
    )
    add = found.add_argument
    add("bundle", type=Path, help="bundle folder, from 'python -m exporter'")
    add("prompts", nargs="*", metavar="PROMPT", help="one picture is made per prompt")
    add("--prompts-file", type=Path, help="text file with one prompt a line, after PROMPT")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("out.png"),
        help="PNG file; several pictures get -0, -1, ... before the suffix (default: out.png)",
    )
    add("--negative-prompt", default="", help="what the pictures should not show")
    add(
        "--seed",
        type=_integers,
        default=(0,),
        help="one seed draws the whole batch, as in diffusers; comma-separated, one a prompt, each "
        "draws its own picture (default: 0)",
    )
    add("--steps", type=int, help="even Stage C steps (default: the bundle's schedule)")
    add(
        "--timesteps",
        type=_floats,
        help="Stage C timesteps, comma-separated, descending from 1 to 0",
    )
    add("--guidance", type=float, help="Stage C guidance scale; up to 1 is off (default: 4)")
    add("--decoder-steps", type=int, help="even Stage B steps (default: 12)")
    add("--decoder-timesteps", type=_floats, help="Stage B timesteps, comma-separated")
    add("--decoder-guidance", type=float, help="Stage B guidance scale (default: 0, off)")
    add("--height", type=int, help="picture height in pixels (default: the bundle's)")
    add("--width", type=int, help="picture width in pixels (default: the bundle's)")
    add_execution_options(found)
    add("--low-memory", action="store_true", help="hold one graph in memory at a time")
    add(
        "--no-memory-check",
        action="store_true",
        help="start even where the run is estimated not to fit into the memory that is free",
    )
    add("--verify", action="store_true", help="check the SHA-256 of every file of the bundle first")
    add("--quiet", action="store_true", help="print errors only")
    add("--json", action="store_true", help="print the result as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")
    return found  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parser().parse_intermixed_args(argv)
    return guarded(lambda: _run(args), debug=args.debug, interrupted="no picture was written")


def _run(args: argparse.Namespace) -> None:
    prompts = args.prompts + _prompts_from(args.prompts_file)
    if not prompts:
        raise UsageError('there is no prompt; give at least one (it may be empty: "")')
    paths = _paths(args.output, len(prompts))
    options = _options(args)
    progress = Progress(quiet=args.quiet or args.json)
    bundle = open_bundle(args.bundle, verify_hashes=args.verify, verify_rest=args.verify)
    if args.verify and (others := bundle.strangers()) and not args.quiet:
        print(f"note: no part of the bundle: {', '.join(others)}", file=sys.stderr)
    with Pipeline.open(
        bundle,
        device=args.device,
        engine=args.engine,
        precision=args.execution_precision,
        cache_dir=args.cache_dir,
        low_memory=args.low_memory,
        memory_check=not args.no_memory_check,
    ) as pipeline:
        result = pipeline(prompts, args.negative_prompt, options, on_step=progress.step)
    for prompt, lost in result.truncated:
        print(f"warning: {prompt[:40]!r}...: too long, cut off before {lost!r}", file=sys.stderr)
    model = bundle.manifest.model
    common = {
        "negative_prompt": args.negative_prompt,
        "seed": list(args.seed),
        "model": f"{model.id}@{model.revision}",
        "prior": f"{model.prior_id}@{model.prior_revision}",
        "precision": bundle.manifest.precision,
        "placements": {name: str(used) for name, used in result.placements.items()},
        "guidance": result.plan.guidance,
        "decoder_guidance": result.plan.decoder_guidance,
        "timesteps": result.plan.timesteps,
        "decoder_timesteps": result.plan.decoder_timesteps,
        "height": result.sizes.picture[0],
        "width": result.sizes.picture[1],
    }
    for index, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
        parameters = {"prompt": prompt, "index": index, "prompts": len(prompts), **common}
        save_png(result.pictures[index], path, parameters)
    if args.json:
        print(json.dumps(_summary(result, paths), indent=1))
    elif not args.quiet:
        _print_summary(result, paths, (options.height, options.width))


def _options(args: argparse.Namespace) -> Options:
    return Options(
        seed=args.seed[0] if len(args.seed) == 1 else args.seed,
        steps=args.steps,
        timesteps=args.timesteps,
        guidance=args.guidance,
        decoder_steps=args.decoder_steps,
        decoder_timesteps=args.decoder_timesteps,
        decoder_guidance=args.decoder_guidance,
        height=args.height,
        width=args.width,
    )


def _prompts_from(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts-file {path} cannot be read: {error}") from None
    return [line for line in lines if line.strip()]


def _paths(output: Path, count: int) -> list[Path]:
    """Where the pictures go; checked before any work."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"--output {output}: pictures are PNG files, end the name in .png")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: the folder {output.absolute().parent} does not exist")
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; give a file name")
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{i}{output.suffix}") for i in range(count)]


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _summary(result: Result, paths: list[Path]) -> dict[str, Any]:
    height, width = result.sizes.picture
    return {
        "pictures": [str(path) for path in paths],
        "height": height,
        "width": width,
        "truncated": dict(result.truncated),
        "stages": {
            name: dataclasses.asdict(usage) | dataclasses.asdict(result.placements[name])
            for name, usage in result.usage.items()
        },
    }


def _print_summary(result: Result, paths: list[Path], asked: tuple[int | None, int | None]) -> None:
    height, width = result.sizes.picture
    print(f"{'stage':<20}{'seconds':>9}{'of it loading':>15}{'peak MB':>9}  ran on")
    for name, usage in result.usage.items():
        peak = usage.peak_bytes / 1e6
        print(
            f"{name:<20}{usage.seconds:>9.3f}{usage.load_seconds:>15.3f}{peak:>9.0f}"
            f"  {result.placements[name]}"
        )
    seconds = sum(usage.seconds for usage in result.usage.values())
    loading = sum(usage.load_seconds for usage in result.usage.values())
    print(f"{'all':<20}{seconds:>9.3f}{loading:>15.3f}")
    if any(want not in (None, have) for want, have in zip(asked, (height, width), strict=True)):
        print(f"the latents of the size asked for make a picture of {height} x {width} pixels")
    for path in paths:
        print(f"wrote {path} ({height} x {width})")
