"""Figures in columns for a terminal."""

from collections.abc import Sequence

from validation.quality.metric import Metric


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
