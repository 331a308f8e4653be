"""What the figures say: the limits, where a variant first leaves them, which one to ship."""

from collections.abc import Sequence

from validation.gate import Check, Gate
from validation.report.data import Failure, Limit, Variant, Verdict


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
    """Ship the smallest variant that passes every limit; name the fastest where that is another.

    A variant is as fast as the fastest if their times overlap over the repeats.
    """
    passing = [variant for variant in variants if variant.passed]
    if not passing:
        return Verdict(_none(variants), None, None)
    smallest = min(passing, key=lambda variant: variant.size)
    timed = [variant for variant in passing if variant.cost]
    fastest = min(timed, key=_seconds, default=None)
    name = fastest.name if fastest else None
    figures, share = _figures(smallest), ""
    if len(passing) > 1:
        share = f"; {len(passing)} of {len(variants)} variants pass every limit"
    if len(variants) == 1:
        text = f"Ship {smallest.name}: it passes every limit ({figures})"
    elif len(passing) == 1:
        of = f"of {len(variants)} variants"
        text = f"Ship {smallest.name}: the only one {of} that passes every limit ({figures})"
    elif fastest in (smallest, None):
        most = "smallest and the fastest" if len(timed) == len(passing) else "smallest"
        text = f"Ship {smallest.name}: the {most} that passes every limit ({figures})"
    elif _as_fast(smallest, fastest):
        text = (
            f"Ship {smallest.name}: the smallest that passes every limit, and as fast as {name}, "
            f"the fastest, within this run's spread ({figures})"
        )
    else:
        quick = "where speed does" if smallest.cost else "as the fastest of those timed"
        text = (
            f"Ship {smallest.name} where size counts ({figures}), {name} {quick} "
            f"({_figures(fastest)})"
        )
    return Verdict(f"{text}{share}.", smallest.name, name)


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


def _as_fast(variant: Variant, fastest: Variant | None) -> bool:
    if variant.cost is None or fastest is None or fastest.cost is None:
        return False
    return variant.cost.seconds.low <= fastest.cost.seconds.high
