"""The picture `sensitivity` draws: who does the damage, when, and what keeping them buys."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantization.search import Outcome
from quantization.sensitivity import Damage, Point
from quantization.trial import sqnr_db

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

_SHOWN = 24  # groups in the ranking
_PLANS, _OTHERS, _PICKED, _TARGET = "tab:blue", "tab:orange", "tab:green", "0.5"


def plot(path: Path, outcomes: Mapping[str, Outcome], title: str, target_db: float | None) -> None:
    """Write a PNG: per denoiser the ranking, the damage over timesteps, the size/quality plane."""
    # Not pyplot, which would choose a window system for the whole process.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 6.5 * len(outcomes)), layout="constrained")
    axes = figure.subplots(len(outcomes), 3, squeeze=False)
    figure.suptitle(title)
    for row, (name, outcome) in zip(axes, outcomes.items(), strict=True):
        ranked = outcome.damages[:_SHOWN]
        _ranking(row[0], name, ranked)
        image = _timesteps(row[1], name, ranked)
        figure.colorbar(image, ax=row[1], label="SQNR, dB")
        _plane(row[2], name, outcome.plane, target_db)
        for axis in row[:2]:
            axis.tick_params(axis="y", labelsize=7)
    figure.savefig(path, dpi=100)


def _ranking(axis: "Axes", name: str, ranked: Sequence[Damage]) -> None:
    """A bar per group, the most harmful on top."""
    names, worst = [damage.group for damage in ranked], [damage.worst_db for damage in ranked]
    axis.barh(names, worst, color=_PLANS)
    axis.invert_yaxis()
    axis.set(title=f"{name}: each group alone", xlabel="SQNR of the worst step, dB")


def _timesteps(axis: "Axes", name: str, ranked: Sequence[Damage]) -> "AxesImage":
    """A line per group, a column per judged step; returns the image, for its colour bar."""
    levels = np.array([[sqnr_db(noise) for noise in damage.noise] for damage in ranked])
    image = axis.imshow(levels, aspect="auto", cmap="viridis", interpolation="nearest")
    axis.set_yticks(range(len(ranked)), [damage.group for damage in ranked])
    axis.set(title=f"{name}: over the judged steps", xlabel="step, run after run")
    return image


def _plane(axis: "Axes", name: str, points: Sequence[Point], target_db: float | None) -> None:
    """Plans as a line, other recipes as marks, each with its speed beside fp32's; x is bytes, where
    keeping weights changes those.

    int8 with and without a weight's activations takes the same room: there x is the share of
    values that are computed in the precision.
    """
    plans = [point for point in points if point.label.startswith(("plan", "uniform"))]
    picked = [point for point in points if point.label.startswith("picked")]
    others = [point for point in points if point not in (*plans, *picked)]
    by_size = len({point.bytes for point in plans}) > len(plans) // 2

    def x(shown: Sequence[Point]) -> list[float]:
        return [p.bytes / 1e6 if by_size else 100 * (1 - p.kept - p.skipped) for p in shown]

    axis.plot(x(plans), [p.worst_db for p in plans], "o-", color=_PLANS, label="plans")
    axis.plot(x(others), [p.worst_db for p in others], "s", color=_OTHERS, label="uniform")
    axis.plot(x(picked), [p.worst_db for p in picked], "*", color=_PICKED, ms=12, label="picked")
    for point, at in zip(points, x(points), strict=True):
        axis.annotate(
            f"{point.label}, {point.speed:.2f} x",
            (at, point.worst_db),
            textcoords="offset points",
            xytext=(6, -9),
            fontsize=7,
        )
    if target_db:
        axis.axhline(target_db, color=_TARGET, linestyle="--", label=f"target {target_db:g} dB")
    label = "MB of the graph" if by_size else "values computed in the precision, %"
    axis.set(title=f"{name}: quality against size", xlabel=label, ylabel="worst step, dB")
    axis.margins(x=0.15)
    axis.grid(alpha=0.3)
    axis.legend()
