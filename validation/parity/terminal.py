"""The gate's findings as lines of text."""

from collections.abc import Sequence

from validation.parity.gate import Check, Gate


def print_gate(gate: Gate, *, verbose: bool) -> None:
    """All checks of one bundle; the trajectory's worst and last steps unless `verbose`."""
    print(f"compared with: {gate.source}")
    for place in dict.fromkeys(gate.placements.values()):
        names = [name for name, used in gate.placements.items() if used == place]
        print(f"ran on: {place} ({', '.join(names)})")
    print()
    print("each graph on the reference's inputs (denoisers: the worst step)")
    print_checks(gate.graphs)
    if verbose:
        print("\ndenoisers, step by step")
        print_checks(gate.steps)
    print("\nthe whole run on the same noise: latents after a step"
          + ("" if verbose else " (worst and last; --verbose shows all)"))  # fmt: skip
    print_checks(gate.trajectory if verbose else _worst_and_last(gate.trajectory))
    verdict = "ok" if gate.picture_db >= gate.picture_limit_db else "FAILED"
    print(f"\npicture: PSNR {gate.picture_db:.1f} dB (limit {gate.picture_limit_db:g}) {verdict}")
    if (again := gate.reconstruction_db) is not None:
        verdict = "ok" if again >= gate.picture_limit_db else "FAILED"
        print(f"compressed and decoded again: PSNR {again:.1f} dB {verdict}")


def print_checks(checks: Sequence[Check]) -> None:
    """A line per check."""
    print(f"{'':<34}{'max abs':>10}{'relative':>10}{'SQNR dB':>9}")
    for check in checks:
        verdict = "ok" if check.passed else f"FAILED: {check.limit}"
        print(
            f"{check.what:<34}{check.max_abs:>10.1e}{check.relative:>10.1e}"
            f"{check.sqnr_db:>9.1f}  {verdict}"
        )


def _worst_and_last(checks: Sequence[Check]) -> list[Check]:
    """Per denoiser, the step furthest off and the last one; failures are always among them."""
    chosen = []
    for graph in dict.fromkeys(check.graph for check in checks):
        steps = [check for check in checks if check.graph == graph]
        worst = max(steps, key=lambda check: check.relative)
        chosen += [check for check in steps if check in (worst, steps[-1]) or not check.passed]
    return chosen
