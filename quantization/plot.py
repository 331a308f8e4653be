"""The picture `sensitivity` draws: who does the damage, when, and what keeping them buys."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from quantization.search import Found
from quantization.sensitivity import decibels

_SHOWN = 24  # groups in the ranking
_PLANS, _OTHERS, _TARGET = "tab:blue", "tab:orange", "0.5"


def plot(path: Path, found: Mapping[str, Found], title: str, target_db: float | None) -> None:
    """Write a PNG: per denoiser the ranking, the damage over timesteps, the size/quality plane."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(found), 3, figsize=(17, 6.5 * len(found)), squeeze=False, layout="constrained"
    )
    figure.suptitle(title)
    for row, (name, own) in zip(axes, found.items(), strict=True):
        ranked = own.damages[:_SHOWN]
        names = [damage.group for damage in ranked]
        row[0].barh(names, [damage.worst_db for damage in ranked], color=_PLANS)
        row[0].invert_yaxis()
        row[0].set(title=f"{name}: each group alone", xlabel="SQNR of the worst step, dB")
        steps = np.array([[decibels(noise) for noise in damage.noise] for damage in ranked])
        image = row[1].imshow(steps, aspect="auto", cmap="viridis", interpolation="nearest")
        row[1].set_yticks(range(len(names)), names)
        row[1].set(title=f"{name}: over the judged steps", xlabel="step, run after run")
        figure.colorbar(image, ax=row[1], label="SQNR, dB")
        _plane(row[2], name, own, target_db)
        for axis in row[:2]:
            axis.tick_params(axis="y", labelsize=7)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _plane(axis, name: str, own: Found, target_db: float | None) -> None:  # type: ignore[no-untyped-def]
    plans = [point for point in own.plane if point.label.startswith(("plan", "uniform"))]
    others = [point for point in own.plane if point not in plans]
    by_size = len({point.bytes for point in plans}) > len(plans) // 2

    def x(points: list) -> list[float]:  # type: ignore[type-arg]
        return [p.bytes / 1e6 if by_size else 100 * (1 - p.kept) for p in points]

    axis.plot(x(plans), [p.worst_db for p in plans], "o-", color=_PLANS, label="plans")
    axis.plot(x(others), [p.worst_db for p in others], "s", color=_OTHERS, label="uniform")
    for point, at in zip(own.plane, x(list(own.plane)), strict=True):
        axis.annotate(point.label, (at, point.worst_db), textcoords="offset points",
                      xytext=(6, -9), fontsize=7)  # fmt: skip
    if target_db:
        axis.axhline(target_db, color=_TARGET, linestyle="--", label=f"target {target_db:g} dB")
    label = "MB of the graph" if by_size else "values computed in the precision, %"
    axis.set(title=f"{name}: quality against size", xlabel=label, ylabel="worst step, dB")
    axis.margins(x=0.15)
    axis.grid(alpha=0.3)
    axis.legend()
