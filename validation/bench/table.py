"""Measurements as tables: for a terminal, or in Markdown."""

from collections.abc import Mapping, Sequence

from validation.bench.end_to_end import Picture
from validation.bench.measure import Spread, Timing

HEAD = ("graph", "what ran", "computed in", "ms", "fastest to slowest", "speed-up",
        "relative error", "TFLOP/s", "of peak")  # fmt: skip
LEFT = 3  # columns of words, aligned left; numbers are aligned right

NOTES = {
    "public": "PyTorch runs diffusers' own modules: speed-ups and relative errors are against "
    "their fp32. A step of theirs, and of the plain exports, includes what our condition graphs "
    "do once per prompt or picture; in those graphs' rows PyTorch runs the export form.",
    "plain": "Plain exports are made with default options: torch.onnx.export(module, inputs), and "
    "openvino.convert_model(module, example_input, input), saved in fp32, as OpenVINO's public "
    "notebook does it. Their sizes are fixed.",
    "flops": "TFLOP/s are those of the form that ran (the export form needs fewer), attention's "
    "products included.",
    "groups": "Not all fitted into memory at once: contenders were timed in groups, PyTorch eager "
    "in each, and speed-ups are within a group.",
}


def graph_table(
    timings: Sequence[Timing], peaks: Mapping[str, float], *, markdown: bool
) -> list[str]:
    """A row per graph and contender, graphs in running order."""
    rows = []
    for timing in timings:
        rate = timing.flops / timing.seconds.median
        mixed = any("int8" in note for note in timing.notes)
        peak = None if mixed else peaks.get(timing.precision)
        rows.append((
            timing.graph,
            ", ".join((timing.contender, *timing.notes)),
            timing.precision,
            *_milliseconds(timing.seconds),
            f"{timing.speedup:.2f}x",
            f"{timing.relative_error:.1e}",
            f"{rate / 1e12:.3g}",
            "" if peak is None else f"{rate / peak:.0%}",
        ))  # fmt: skip
    return aligned(HEAD, rows, LEFT, markdown=markdown)


def picture_table(pictures: Sequence[Picture], *, markdown: bool) -> list[str]:
    """A row per way to make a whole picture: its time, per stage, and outside the engines."""
    stages = list(dict.fromkeys(stage for picture in pictures for stage in picture.stages))
    head = ("whole picture", "ms", "fastest to slowest", *stages, "outside engines", "PSNR dB")
    rows = [
        (
            picture.contender,
            *_milliseconds(picture.seconds),
            *(f"{1e3 * picture.stages[stage]:.1f}" for stage in stages),
            f"{picture.outside:.1%}",
            f"{picture.picture_db:.1f}",
        )
        for picture in pictures
    ]
    return aligned(head, rows, 1, markdown=markdown)


def notes(timings: Sequence[Timing]) -> list[str]:
    """What a reader must know to compare the rows."""
    keys = ["public"] if any(timing.public for timing in timings) else []
    keys.append("flops")
    if any(timing.contender.startswith("plain") for timing in timings):
        keys.append("plain")
    if any(timing.group > 0 for timing in timings):
        keys.append("groups")
    return [text for key, text in NOTES.items() if key in keys]


def aligned(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: int, *, markdown: bool
) -> list[str]:
    """Lines of a table: its first `left` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for cells in (head, *rows):
        padded = [
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip())
    if markdown:
        lines.insert(1, "|" + "---|" * left + "--:|" * (len(head) - left))
    return lines


def _milliseconds(seconds: Spread) -> tuple[str, str]:
    """The median, and the range, in milliseconds."""
    digits = 2 if seconds.median < 1 else 0
    median, fastest, slowest = (
        f"{1e3 * value:.{digits}f}" for value in (seconds.median, seconds.fastest, seconds.slowest)
    )
    return median, f"{fastest} to {slowest}"
