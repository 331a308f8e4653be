"""Numbers as people read them, without their unit: the column or axis names it."""

import math

from runtimes.bundle.manifest import DENOISERS
from runtimes.decibels import EXACT_DB
from validation.report.data import Spread, Variant


def decibels(value: float) -> str:
    """SQNR or PSNR in dB: one decimal, 'equal' where there is no difference at all."""
    if value >= EXACT_DB:
        return "equal"
    return f"{round(value, 1) + 0.0:.1f}" if math.isfinite(value) else "not finite"


def megabytes(value: float) -> str:
    """Bytes in MB: one decimal below 100 MB."""
    return f"{value / 1e6:.1f}" if value < 1e8 else f"{value / 1e6:,.0f}"


def seconds(value: float) -> str:
    """Three significant digits, no more than three decimals."""
    if value < 1:
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def spread(value: Spread) -> str:
    """Least to greatest; nothing where they are one."""
    same = value.low == value.high
    return "" if same else f"{seconds(value.low)} to {seconds(value.high)}"


def levels(value: float) -> str:
    """The largest difference, in 0..1, as levels of 255."""
    if value == 0:
        return "no level off"
    off = 255 * value
    if off < 0.1:
        return "< 0.1 levels off"
    return f"\N{LESS-THAN OR EQUAL TO} {off:.1f} levels off"


def moment(value: str) -> str:
    """An ISO date and time in UTC, to the minute."""
    return f"{value[:10]} {value[11:16]} UTC"


def worst_db(variant: Variant, graph: str) -> float:
    """The SQNR of a graph's worst step."""
    return min(check.sqnr_db for check in variant.steps if check.graph == graph)


def computes_in(variant: Variant) -> str:
    """The precisions the denoisers really ran in."""
    used = (place.precision for name, place in variant.placements.items() if _denoises(name))
    return ", ".join(dict.fromkeys(used))


def engines(variant: Variant) -> dict[str, str]:
    """Engine and version of the graphs, each with the devices it ran on."""
    devices_of: dict[str, list[str]] = {}
    for place in variant.placements.values():
        devices_of.setdefault(place.engine, []).append(place.device)
    return {engine: ", ".join(dict.fromkeys(devices)) for engine, devices in devices_of.items()}


def _denoises(graph: str) -> bool:
    return graph in DENOISERS
