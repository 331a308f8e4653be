"""One figure of a bundle's quality, how sure it is, and how it is printed."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A named value with its 95 % interval, in `unit`: '%' (0 to 100), 'dB', 's', '' for none.

    `value` is None where it could not be had; `note` then says what is needed. `low` and `high`
    are None where there is one sample only, or where no interval is known for the figure.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    note: str = ""


def print_metrics(metrics: Sequence[Metric]) -> None:
    """A line per figure: value, interval, unit and note; figures without a value last."""
    width = max(len(metric.name) for metric in metrics) + 2
    print(f"{'':<{width}}{'value':>9}  {'95 % interval':<17}")
    for metric in sorted(metrics, key=lambda metric: metric.value is None):
        low_high = interval_text(metric)
        print(
            f"{metric.name:<{width}}{value_text(metric):>9}  {low_high:<17}{metric.unit:<4}"
            f"{metric.note}"
        )


def value_text(metric: Metric) -> str:
    """The value with as many digits as its unit bears; '-' where there is none."""
    return "-" if metric.value is None else _number(metric.value, metric.unit)


def interval_text(metric: Metric) -> str:
    """'low .. high', or nothing."""
    if metric.low is None or metric.high is None:
        return ""
    return f"{_number(metric.low, metric.unit)} .. {_number(metric.high, metric.unit)}"


def _number(value: float, unit: str) -> str:
    return f"{value:.1f}" if unit in ("%", "dB") else f"{value:.4g}"
