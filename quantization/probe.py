"""What each weight's rounding does to a denoiser, measured in the fp32 graph with few runs.

Only the fp32 graph runs, with single weights rounded (`rounded_alone`), at few steps: that says
which share of a product's error reaches epsilon. The same share is taken for what was not run: its
activations' rounding, and the form it would have as an exception. What the whole recipe is
measured to do then sets the level at each step (`factor_of`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from quantization.local_noise import Form, form_of, local_noise, rounded
from quantization.onnx_files import load
from quantization.powers import Powers, product_powers, products
from quantization.roles import Use, uses
from quantization.rounded_alone import RoundedAlone
from quantization.trial import GROUPS, Noise, Trial, noise_of
from runtimes.engines.base import Tensors

COLUMNS = 256  # outputs of a weight that stand for all of them
STEPS = 5  # of the first judged run
LARGE_WEIGHTS = 4  # of each role that are rounded, where every step takes seconds
PICTURE = 4  # axes of latents and of effnet's maps; texts have five
LEAST = 1e-20  # noise that counts as none
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Prediction:
    """The noise of each group alone at every judged step, up to a factor per step.

    `noise` is that of the recipe, `kept` that of the form which its exceptions get.
    """

    noise: Mapping[str, Noise]
    kept: Mapping[str, Noise]


@dataclass(frozen=True)
class Weight:
    """A weight, its forms, and the noise of its product at the probed steps (S,): of its own
    rounding alone, as the recipe has it, and as an exception. `powers`: of what it multiplies.
    """

    use: Use
    form: Form
    alone: Noise
    whole: Noise
    kept: Noise
    powers: Powers | None = None


def predict(trial: Trial, on_run: Callable[[], None] = lambda: None) -> Prediction:
    """Both noises of every group of a trial; `on_run` is called after each of its `runs`."""
    weights = weights_of(trial, on_run)
    shares = shares_of(trial, weights, on_run)
    noise, kept = {}, {}
    for name, weight in weights.items():
        noise[name] = everywhere(trial, weight.whole * shares[name])
        kept[name] = everywhere(trial, weight.kept * shares[name])
    return Prediction(_by_group(trial, noise), _by_group(trial, kept))


def runs(trial: Trial) -> int:
    """How often `predict` runs the denoiser."""
    return len(probed(trial)) * (2 + len(_chosen(trial)))


def cost(trial: Trial) -> float:
    """What such a run takes, of a judged step's time."""
    same = _feeds(trial)[0] is trial.evaluation.feeds[probed(trial)[0]]
    return 1.0 if same else 1 / 4


def probed(trial: Trial) -> list[int]:
    """The judged steps that are run: a few of the first run, its first and its last among them.

    Of a large graph the last, which is the worst: there epsilon is divided by the least noise.
    """
    last = len(trial.evaluation.feeds) // trial.evaluation.runs - 1
    if trial.large:
        return [last]
    return sorted({round(step) for step in np.linspace(0, last, STEPS)})


def scaled(noise: Mapping[str, Noise], factor: Noise) -> dict[str, Noise]:
    """A prediction times a factor per step."""
    return {group: values * factor for group, values in noise.items()}


def total(noise: Mapping[str, Noise], groups: Collection[str] | None = None) -> Noise:
    """The noise of these groups together (default: of all), at every step."""
    chosen = noise if groups is None else groups
    zero = np.zeros_like(next(iter(noise.values())))
    return np.sum([noise[group] for group in chosen], axis=0) if chosen else zero


def everywhere(trial: Trial, noise: Noise) -> Noise:
    """What was found at the probed steps, at every judged step."""
    places = trial.evaluation.places()
    return np.exp(np.interp(places, places[probed(trial)], np.log(np.maximum(noise, LEAST))))


def factor_of(trial: Trial, predicted: Noise, measured: Noise, steps: Sequence[int]) -> Noise:
    """Measured over predicted noise at every judged step, from these steps' measurements."""
    ratio = np.maximum(measured, LEAST) / np.maximum(predicted[list(steps)], LEAST)
    if len(steps) == len(predicted):
        return ratio
    places = trial.evaluation.places()
    return np.exp(np.interp(places, places[list(steps)], np.log(ratio)))


def weights_of(
    trial: Trial, on_run: Callable[[], None], also: Collection[int] = ()
) -> dict[str, Weight]:
    """The weights of a trial; `powers` have the peaks of blocks of the sizes in `also`, too."""
    model = load(trial.prepared)
    found = {use.weight: use for use in uses(model) if not use.reason}
    forms = {name: _forms(trial, model, use) for name, use in found.items()}
    blocks = {
        name: {form.block for form in both if form.activations == "blocks"} | {*also}
        for name, both in forms.items()
        if name in products(model)
    }
    feeds = _feeds(trial)
    powers = product_powers(trial.prepared, blocks, feeds, on_run)
    ranges = trial.ranges()
    weights = {}
    for name, use in found.items():
        form, exception = forms[name]
        if name not in powers:  # no product: nothing of it but its own rounding is known
            same = np.ones(len(feeds))
            weights[name] = Weight(use, form, same, same, same)
            continue
        sample = columns(matrix(model, use))
        alone, whole, kept = (
            local_noise(sample, form_, powers[name], ranges.get(name))
            for form_ in (replace(form, activations="fp32"), form, exception)
        )
        weights[name] = Weight(use, form, alone, whole, kept, powers[name])
    return weights


def _forms(trial: Trial, model: onnx_ir.Model, use: Use) -> tuple[Form, Form]:
    inputs = len(matrix(model, use))
    form, exception = (form_of(trial.recipe, use, inputs, kept=kept) for kept in (False, True))
    return form, exception


def shares_of(
    trial: Trial, weights: Mapping[str, Weight], on_run: Callable[[], None]
) -> dict[str, Noise]:
    """How much of each product's own noise reaches epsilon, at the probed steps (S,)."""
    return _between(_shares(trial, weights, on_run), _roles(trial))


def _shares(
    trial: Trial, weights: Mapping[str, Weight], on_run: Callable[[], None]
) -> dict[str, Noise]:
    """Epsilon's noise over the products' own for the weights that are run, at the probed steps."""

    def rounding(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        use, form = weights[name].use, weights[name].form
        turned = np.moveaxis(values, use.output_axis, -1)
        back = rounded(turned.reshape(-1, turned.shape[-1]), form).reshape(turned.shape)
        return np.ascontiguousarray(np.moveaxis(back, -1, use.output_axis))

    chosen, feeds = _chosen(trial), _feeds(trial)
    graph = RoundedAlone(trial.prepared, chosen, rounding)
    expected = graph.run([], feeds, on_run)
    shares: dict[str, Noise] = {}
    for name in chosen:
        pairs = zip(graph.run([name], feeds, on_run), expected, strict=True)
        noise = np.array([noise_of(epsilon, exact) for epsilon, exact in pairs])
        shares[name] = noise / np.maximum(weights[name].alone, LEAST)
    return shares


def _feeds(trial: Trial) -> list[Tensors]:
    """The feeds of the probed steps; of a large graph, where any size will do, a quarter of each
    picture: what a weight does to it is the same, in a quarter of the time.
    """
    feeds = [trial.evaluation.feeds[step] for step in probed(trial)]
    sides = [n for x in feeds[0].values() if x.ndim == PICTURE for n in x.shape[2:]]
    if not trial.large or not trial.any_size or any(side % 2 for side in sides):
        return feeds
    return [{name: _quarter(x) for name, x in feed.items()} for feed in feeds]


def _quarter(value: NDArray[Any]) -> NDArray[Any]:
    if value.ndim != PICTURE:
        return value
    height, width = value.shape[2:]
    return np.ascontiguousarray(value[:, :, : height // 2, : width // 2])


def _chosen(trial: Trial) -> list[str]:
    """The weights that are rounded for a run each: all, or of a large graph a few of each role."""
    if not trial.large:
        return list(trial.values)
    chosen = []
    for names in _roles(trial):
        places = np.linspace(0, len(names) - 1, min(LARGE_WEIGHTS, len(names)))
        chosen += [names[place] for place in np.unique(places.round().astype(int))]
    return chosen


def _roles(trial: Trial) -> list[list[str]]:
    """The weights that are called alike in their blocks, role by role, in running order."""
    roles: dict[str, list[str]] = {}
    for name in trial.values:
        roles.setdefault(name.removeprefix(GROUPS["block"](name)), []).append(name)
    return list(roles.values())


def _between(shares: Mapping[str, Noise], roles: Sequence[Sequence[str]]) -> dict[str, Noise]:
    """The shares of all weights: one between two that were run has what is between theirs."""
    whole = dict(shares)
    for names in roles:
        known = [place for place, name in enumerate(names) if name in shares]
        logs = np.log([np.maximum(shares[names[place]], LEAST) for place in known])
        for place, name in enumerate(names):
            if name not in shares:
                between = [np.interp(place, known, column) for column in logs.T]
                whole[name] = np.exp(between)
    return whole


def matrix(model: onnx_ir.Model, use: Use) -> Floats:
    """A weight as (inputs, outputs)."""
    value = model.graph.initializers[use.weight].const_value
    assert value is not None
    weight = value.numpy()
    return np.moveaxis(weight, use.output_axis, -1).reshape(-1, weight.shape[use.output_axis])


def columns(weight: Floats) -> Floats:
    """Evenly spaced outputs of a weight."""
    return np.asarray(weight[:, :: -(-weight.shape[1] // COLUMNS)], np.float32)


def _by_group(trial: Trial, noise: Mapping[str, Noise]) -> dict[str, Noise]:
    return {group: total(noise, members) for group, members in trial.groups.items()}
