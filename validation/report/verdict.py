"""What the figures say: the limits, where a variant first leaves them, which one to ship."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from validation.parity.gate import Check, Gate
from validation.report.data import Failure, Limit, Variant, Verdict

SAME_TIME = 1.05  # times that differ by less are one


def limits_of(gate: Gate) -> tuple[Limit, ...]:
    """Each kind of limit with the value nearest to it; graphs may have limits of their own."""
    picture = gate.picture_db, gate.picture_limit_db
    return (
        _nearest("graphs, each by itself", gate.graphs),
        _nearest("latents of the whole run", gate.trajectory),
        Limit("picture", "picture", *picture, passed=picture[0] >= picture[1]),
    )


def _nearest(what: str, checks: Sequence[Check]) -> Limit:
    failing = [check for check in checks if not check.passed]
    worst = min(failing or checks, key=lambda check: check.sqnr_db - check.limit_db)
    return Limit(what, _where(worst), worst.sqnr_db, worst.limit_db, not failing)


def _where(check: Check) -> str:
    return check.graph if check.step is None else f"{check.graph}, step {check.step}"


def first_failure(gate: Gate) -> Failure | None:
    """Where a run first goes wrong: the first graph that fails on good inputs and its first step.

    Where every graph holds by itself, errors have added up: the first latents that show it, or
    the picture.
    """
    for position, graph in enumerate(gate.graphs):
        if not graph.passed:
            steps = [check for check in gate.steps if check.graph == graph.graph]
            return _graph_failure(gate, position, steps)
    for number, check in enumerate(gate.trajectory):
        if not check.passed:
            text = (
                f"every graph holds by itself, but errors add up: {check.what} have an SQNR of "
                f"{check.sqnr_db:.1f} dB, less than {check.limit_db:g} dB"
                + (f" ({_before(number)})" if number else "")
            )
            return Failure(check.graph, check.step, text)
    if gate.picture_db < gate.picture_limit_db:
        text = (
            "every graph and all latents hold, but the picture has a PSNR of "
            f"{gate.picture_db:.1f} dB, less than {gate.picture_limit_db:g} dB"
        )
        return Failure("stage_a", None, text)
    return None


def _before(steps: int) -> str:
    return "the step before it holds" if steps == 1 else f"the {steps} steps before it hold"


def _graph_failure(gate: Gate, position: int, steps: Sequence[Check]) -> Failure:
    failing = [check for check in steps if not check.passed]
    check = failing[0] if failing else gate.graphs[position]
    text = (
        f"first fails at {check.what}: relative error {check.relative:.1e}, SQNR "
        f"{check.sqnr_db:.1f} dB, less than {check.limit_db:.0f} dB"
    )
    notes = []
    if failing:
        notes.append(f"{len(failing)} of its {len(steps)} steps fail")
    if position:
        notes.append(f"{', '.join(c.graph for c in gate.graphs[:position])} before it hold")
    return Failure(check.graph, check.step, f"{text} ({'; '.join(notes)})" if notes else text)


def recommend(variants: Sequence[Variant]) -> Verdict:
    """What to ship on each engine: the smallest that passes every limit, unless it is slower.

    Times are this machine's, measured in turn. Decided by `choices_of`, said here.
    """
    passing = [variant for variant in variants if variant.passed]
    if not passing:
        return Verdict(_none(variants), None, None)
    smallest = min(passing, key=lambda variant: variant.size)
    timed = [variant for variant in passing if variant.cost]
    fastest = min(timed, key=_seconds, default=None)
    sentences = [_said(choice) for choice in choices_of(passing)]
    if len(variants) > 1:
        verb = "passes" if len(passing) == 1 else "pass"
        sentences.append(f"{len(passing)} of {len(variants)} variants {verb} every limit.")
    return Verdict(" ".join(sentences), smallest.name, fastest.name if fastest else None)


@dataclass(frozen=True)
class Choice:
    """The decision for one engine: variants that pass, by size and by measured time.

    `fastest` is None where nothing was timed; `alone`: there is no other on this engine.
    """

    engine: str
    smallest: Variant
    fastest: Variant | None
    alone: bool

    @property
    def slower(self) -> float:
        """How many times the fastest's time the smallest takes; 1 within the spread, NaN untimed.

        Within the spread: its best round is no slower than the fastest's usual one.
        """
        if self.fastest is None or self.smallest.cost is None:
            return math.nan
        ratio = _seconds(self.smallest) / _seconds(self.fastest)
        overlaps = self.smallest.cost.seconds.low <= _seconds(self.fastest)
        return 1.0 if overlaps or ratio <= SAME_TIME else ratio


def choices_of(passing: Sequence[Variant]) -> list[Choice]:
    """A choice per engine, in the order of the variants."""
    choices = []
    for engine in dict.fromkeys(map(_engine, passing)):
        there = [variant for variant in passing if _engine(variant) == engine]
        smallest = min(there, key=lambda variant: variant.size)
        timed = [variant for variant in there if variant.cost]
        fastest = min(timed, key=_seconds, default=None)
        choices.append(Choice(engine, smallest, fastest, alone=len(there) == 1))
    return choices


def _said(choice: Choice) -> str:
    smallest, fastest = choice.smallest, choice.fastest
    ship = f"On {choice.engine} ship {smallest.name}"
    if choice.alone:
        return f"{ship}: it passes every limit ({_figures(smallest)})."
    if fastest is None:
        return f"{ship}, the smallest ({_figures(smallest)}); nothing was timed there."
    if fastest is smallest:
        return f"{ship}, the smallest and the fastest ({_figures(smallest)})."
    if choice.slower == 1:
        return (
            f"{ship}, the smallest, and as fast as {fastest.name} within this run's spread "
            f"({_figures(smallest)})."
        )
    share = smallest.size / fastest.size
    than = f"at {share:.2f} of the size"
    if not math.isnan(choice.slower):
        than += f" it takes {choice.slower:.2f} times as long here"
    else:
        than += " it was not timed here"
    return (
        f"On {choice.engine} ship {fastest.name}, the fastest ({_figures(fastest)}), and "
        f"{smallest.name} only where size counts: {than} ({_figures(smallest)})."
    )


def _engine(variant: Variant) -> str:
    """What the denoisers ran on: engine with its version, and device."""
    place = variant.placements["stage_c"]
    return f"{place.engine} ({place.device})"


def _none(variants: Sequence[Variant]) -> str:
    if len(variants) == 1:
        failure = variants[0].failure
        return f"Do not ship {variants[0].name}: {failure.text if failure else 'it fails'}."
    return f"Ship none of these: all {len(variants)} variants fail a limit."


def _figures(variant: Variant) -> str:
    seconds = f"{_seconds(variant):.2f} s once loaded, " if variant.cost else ""
    return f"{variant.size / 1e6:.1f} MB, {seconds}picture PSNR {variant.picture_db:.1f} dB"


def _seconds(variant: Variant) -> float:
    assert variant.cost is not None
    return variant.cost.seconds.median
