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
SURPLUS = 0.93  # of the budget: a plan that stays below is worth another one with fewer exceptions


Groups = tuple[str, ...]


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
    budget = noise_at(target_db)
    allowed, best = np.full(len(trial.evaluation.feeds), budget), None
    tried: set[tuple[Groups, Groups]] = set()
    floor_known = False
    for _ in range(ROUNDS):
        if not floor_known and (total(predicted.kept) > allowed).any():
            predicted, floor_known = _with_floor(trial, predicted, allowed / budget), True
            on_plan()
        plan = ladder(predicted, allowed, trial.sizes)
        while plan in tried and best is None:
            allowed = allowed * CLOSER
            plan = ladder(predicted, allowed, trial.sizes)
        if len(plan[1]) == len(trial.groups):
            raise _out_of_reach(trial, target_db)
        if plan in tried:
            break
        tried.add(plan)
        steps, noise = _measured(trial, plan, budget)
        on_plan()
        if noise.max() <= budget:
            keep, skip = (_weights(trial, groups) for groups in plan)
            best = Picked(keep, skip, noise)
        if best is not None and (trial.large or noise.max() > SURPLUS * budget):
            break
        allowed = budget / factor_of(trial, _of_plan(predicted, plan), noise, steps)
    if best is None:
        raise _out_of_reach(trial, target_db)
    return best


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


def ladder(
    predicted: Prediction, allowed: Noise, sizes: Mapping[str, int]
) -> tuple[Groups, Groups]:
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


def _with_floor(trial: Trial, predicted: Prediction, scale: Noise) -> Prediction:
    """A prediction whose `kept` is what all weights kept were measured to have.

    `scale` is predicted over measured noise, at every step.
    """
    steps = trial.evaluation.first
    with trial.quantised(keep=tuple(trial.values)) as graph:
        measured = graph.noise(steps)
    factor = factor_of(trial, total(predicted.kept), measured, steps)
    return replace(predicted, kept=scaled(predicted.kept, factor * scale))


def _measured(
    trial: Trial, plan: tuple[Groups, Groups], budget: float
) -> tuple[Sequence[int], Noise]:
    """The steps that a plan was judged at, and its noise there: all where the first few pass."""
    keep, skip = (_weights(trial, groups) for groups in plan)
    with trial.quantised(keep=keep, skip=skip) as graph:
        return judged_noise(trial, graph, budget)


def judged_noise(trial: Trial, graph: Quantised, budget: float) -> tuple[Sequence[int], Noise]:
    """A graph's noise at the first few steps, and where those stay in the budget, at all."""
    first = trial.evaluation.first
    noise = graph.noise(first)
    rest = [step for step in trial.evaluation.all if step not in first]
    if noise.max() > budget or not rest:
        return first, noise
    whole = np.zeros(len(trial.evaluation.feeds))
    whole[list(first)], whole[rest] = noise, graph.noise(rest)
    return trial.evaluation.all, whole


def _of_plan(predicted: Prediction, plan: tuple[Groups, Groups]) -> Noise:
    keep, skip = plan
    rest = [group for group in predicted.noise if group not in (*keep, *skip)]
    return total(predicted.noise, rest) + total(predicted.kept, keep)


def _weights(trial: Trial, groups: Groups) -> tuple[str, ...]:
    return tuple(weight for group in groups for weight in trial.groups[group])


def _out_of_reach(trial: Trial, target_db: float) -> RunError:
    floor = sqnr_db(trial.noise(keep=tuple(trial.values)).max())
    return RunError(
        f"--target-db {target_db:g}: every weight as an exception reaches {floor:.1f} dB, and "
        "exceptions in fp32 reach it only where nothing is quantised"
    )
