"""From what each weight does to a denoiser to the plan with the fewest exceptions.

Errors of single groups are nearly independent: their powers add. So a plan's error is predicted by
a sum, the plan is picked greedily by damage per value, measured, and picked anew by what the
measurement says of the prediction.

Exceptions climb a ladder: from the recipe's form to the better one that `keep` means, and to fp32
(`skip`) only where the better form of every weight would still miss the target.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantization.probe import LEAST, Prediction, everywhere, factor_of, probed, scaled, total
from quantization.trial import Noise, Quantised, Trial, noise_at, sqnr_db
from runtimes.errors import RunError

ROUNDS = 12
CLOSER = 0.97  # what is allowed shrinks by, where a plan that missed would be picked again
TIGHTER = 3  # plans with fewer exceptions than one that stays in the budget are tried
SURPLUS = 0.93  # of the budget: a plan that stays below is worth another one with fewer exceptions


Groups = tuple[str, ...]
Plan = tuple[Groups, Groups]  # to keep, and to skip


@dataclass(frozen=True)
class Picked:
    """Weights in the better form, weights in fp32, and the plan's noise at every judged step."""

    keep: tuple[str, ...]
    skip: tuple[str, ...]
    noise: Noise


def pick(
    trial: Trial,
    predicted: Prediction,
    target_db: float,
    on_plan: Callable[[], None] = lambda: None,
) -> Picked:
    """The fewest weights to make exceptions of so that every judged step is above `target_db`.

    `on_plan` is called for every plan that was measured. Raises RunError where nothing could stay
    quantised.
    """
    search = _Search(trial, predicted, noise_at(target_db), on_plan)
    for _ in range(ROUNDS):
        found = search.closest()
        if found is None:
            break
        plan, first = found
        noise = _at_all(trial, plan, first)
        if noise.max() <= search.budget:
            keep, skip = (_weights(trial, groups) for groups in plan)
            return Picked(keep, skip, noise)
        search.allowed = search.allowed * CLOSER * search.budget / noise.max()
    floor = sqnr_db(trial.noise(keep=tuple(trial.values)).max())
    raise RunError(
        f"--target-db {target_db:g}: every weight as an exception reaches {floor:.1f} dB, and "
        "exceptions in fp32 reach it only where nothing is quantised"
    )


class _Search:
    """The plans that were tried, and what they have said of the prediction so far.

    `allowed` is the noise that a plan may be predicted to have, at every judged step.
    """

    def __init__(
        self,
        trial: Trial,
        predicted: Prediction,
        budget: float,
        on_plan: Callable[[], None],
    ) -> None:
        self._trial, self._predicted, self._on_plan = trial, predicted, on_plan
        self.budget = budget
        self.allowed = np.full(len(trial.evaluation.feeds), budget)
        self._tried: set[Plan] = set()
        self._floor_known = False

    def closest(self) -> tuple[Plan, Noise] | None:
        """The plan with the fewest exceptions whose first steps stay in the budget, and their
        noise; None where nothing could stay quantised.
        """
        best: tuple[Plan, Noise] | None = None
        passed, missed, tighter = self.allowed, None, 0
        for _ in range(ROUNDS):
            plan = self._next(again=best is None)
            if plan is None or len(plan[1]) == len(self._trial.groups):
                break
            allowed = self.allowed
            noise = self._measured(plan)
            tighter += best is not None
            if noise.max() <= self.budget:
                best, passed = (plan, noise), allowed
            else:
                missed = allowed
            if best is not None and (best[1].max() > SURPLUS * self.budget or tighter == TIGHTER):
                break
            if best is not None and missed is not None:
                self.allowed = np.sqrt(passed * missed)
        return best

    def _next(self, *, again: bool) -> Plan | None:
        """A plan that was not tried; None where that would take a smaller allowance (`again`)."""
        if not self._floor_known and (total(self._predicted.kept) > self.allowed).any():
            self._measure_floor()
        plan = ladder(self._predicted, self.allowed, self._trial.sizes)
        while plan in self._tried and again:
            self.allowed = self.allowed * CLOSER
            plan = ladder(self._predicted, self.allowed, self._trial.sizes)
        return None if plan in self._tried else plan

    def _measured(self, plan: Plan) -> Noise:
        trial = self._trial
        self._tried.add(plan)
        keep, skip = (_weights(trial, groups) for groups in plan)
        with trial.quantised(keep=keep, skip=skip) as graph:
            noise = graph.noise(trial.evaluation.first)
        self._on_plan()
        predicted = _of_plan(self._predicted, plan)
        self.allowed = self.budget / factor_of(trial, predicted, noise, trial.evaluation.first)
        return noise

    def _measure_floor(self) -> None:
        """Have `kept` say what all weights kept were measured to have."""
        trial, kept = self._trial, self._predicted.kept
        with trial.quantised(keep=tuple(trial.values)) as graph:
            measured = graph.noise(trial.evaluation.first)
        self._on_plan()
        factor = factor_of(trial, total(kept), measured, trial.evaluation.first)
        kept = scaled(kept, factor * self.allowed / self.budget)
        self._predicted, self._floor_known = replace(self._predicted, kept=kept), True


def checked(
    trial: Trial,
    predicted: Prediction,
    target_db: float,
    on_plan: Callable[[], None] = lambda: None,
) -> Prediction:
    """A prediction with measurements of the groups that matter: those that would be picked by it,
    and as many behind them.

    What rounding a group's activations does is measured by nothing else.
    """
    allowed = np.full(len(trial.evaluation.feeds), noise_at(target_db))
    keep, _ = ladder(predicted, allowed, trial.sizes)
    noise = dict(predicted.noise)
    for group in order(trial, predicted)[: 2 * len(keep)]:
        with trial.alone(group) as graph:
            noise[group] = everywhere(trial, graph.noise(probed(trial)))
        on_plan()
    return replace(predicted, noise=noise)


def levelled(
    trial: Trial, predicted: Prediction, measured: Noise, steps: Sequence[int]
) -> Prediction:
    """A prediction whose sum is what the uniform recipe was measured to do at these steps."""
    factor = factor_of(trial, total(predicted.noise), measured, steps)
    return Prediction(scaled(predicted.noise, factor), scaled(predicted.kept, factor))


def order(trial: Trial, predicted: Prediction) -> Groups:
    """The groups in the order in which they become exceptions."""
    free = {group: np.zeros_like(noise) for group, noise in predicted.noise.items()}
    nothing = np.zeros(len(trial.evaluation.feeds))
    return _climb(predicted.noise, free, nothing, trial.sizes)


def ladder(predicted: Prediction, allowed: Noise, sizes: Mapping[str, int]) -> Plan:
    """The groups to keep and those to skip so that the predicted noise is allowed at every step.

    At the step that is furthest over, whichever group does most harm for its `sizes` climbs. None
    is skipped where all groups kept would do.
    """
    nothing = {group: np.zeros_like(allowed) for group in predicted.kept}
    skip = _climb(predicted.kept, nothing, allowed, sizes)
    noise = {group: values for group, values in predicted.noise.items() if group not in skip}
    return _climb(noise, predicted.kept, allowed, sizes), skip


def _climb(
    noise: Mapping[str, Noise],
    better: Mapping[str, Noise],
    allowed: Noise,
    sizes: Mapping[str, int],
) -> Groups:
    """The groups that change from `noise` to `better`, the most harmful per value first."""
    left, climbed = dict(noise), []
    whole = total(noise) if noise else np.zeros_like(allowed)
    while left and (whole > allowed).any():
        step = int(np.argmax(whole / np.maximum(allowed, LEAST)))
        gains = {group: (left[group] - better[group])[step] / sizes[group] for group in left}
        worst = max(gains, key=lambda group: gains[group])
        whole = whole - left.pop(worst) + better[worst]
        climbed.append(worst)
    return tuple(climbed)


def _at_all(trial: Trial, plan: Plan, first: Noise) -> Noise:
    """A plan's noise at every judged step, of which that of the first ones is known."""
    if len(first) == len(trial.evaluation.feeds):
        return first
    keep, skip = (_weights(trial, groups) for groups in plan)
    with trial.quantised(keep=keep, skip=skip) as graph:
        return with_rest(trial, graph, first)


def with_rest(trial: Trial, graph: Quantised, first: Noise) -> Noise:
    """A graph's noise at every judged step, of which that of the first ones is known."""
    rest = [step for step in trial.evaluation.all if step not in trial.evaluation.first]
    whole = np.zeros(len(trial.evaluation.feeds))
    whole[list(trial.evaluation.first)] = first
    if rest:
        whole[rest] = graph.noise(rest)
    return whole


def _of_plan(predicted: Prediction, plan: Plan) -> Noise:
    keep, skip = plan
    rest = [group for group in predicted.noise if group not in (*keep, *skip)]
    return total(predicted.noise, rest) + total(predicted.kept, keep)


def _weights(trial: Trial, groups: Groups) -> tuple[str, ...]:
    return tuple(weight for group in groups for weight in trial.groups[group])
