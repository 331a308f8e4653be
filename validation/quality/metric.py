"""One figure of a bundle's quality, and how sure it is."""

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
