"""The form of each weight of a denoiser, at the least damage for an average number of bits.

Damage is the noise in epsilon. How much of a product's own noise reaches it is measured as for
searches (`probe`): the fp32 ONNX graph runs with single weights rounded. What noise a product has
with its weight in each form follows from the form's errors and from the inputs' powers, which one
more run recorded. The sum is set to what the whole graph was measured to do, and the choice, an
`allocation`, is measured and made anew by what that said of the prediction.

Core ML packages are chosen for on the ONNX bundle of the same model, their twin: weights and names
are the same, and palettes are put into the twin's fp32 graph to be measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantization import probe
from quantization.allocation import Noise, Option, allocate
from quantization.bit_forms import BitForm, Sizes, average_bits, parse_form, values_of
from quantization.local_noise import Form, local_noise, rounded
from quantization.onnx_files import load
from quantization.onnx_weights import BLOCKS, quantize_mixed
from quantization.palettes import palettised
from quantization.picking import levelled, with_rest
from quantization.recipes import MixedBits
from quantization.roles import uses
from quantization.rounded_alone import RoundedAlone
from quantization.trial import Trial, noise_of, sqnr_db
from runtimes.errors import RunError
from runtimes.progress import Progress

ROUNDS = 3  # choices that are measured
Measure = Callable[[Mapping[str, str]], Noise]


@dataclass(frozen=True)
class Chosen:
    """The forms, the bits a weight that they take on average, and the worst judged step in dB."""

    recipe: MixedBits
    average_bits: float
    worst_db: float


def choose(
    name: str, trial: Trial, sizes: Sizes, bits: float, *, palettes: bool, progress: Progress
) -> Chosen:
    """Forms for a denoiser that take `bits` a value on average, or less.

    `sizes` are by the names of the trial's graph, and so is the recipe. With `palettes` the choice
    is measured in that graph, otherwise in one that is written as the recipe says.
    """
    budget = int(bits * sum(map(values_of, sizes.values())) / 8)
    measure = _in_fp32(trial) if palettes else _written(trial)
    predicted = _levelled(name, trial, sizes, progress)
    best: tuple[float, dict[str, str]] | None = None
    tried: list[dict[str, str]] = []
    for _ in range(ROUNDS):
        options = [
            [Option(form, size, predicted[weight][form]) for form, size in own.items()]
            for weight, own in sizes.items()
        ]
        picked = allocate(options, budget)
        if picked is None:
            raise RunError(f"{name}: no choice of forms has {bits:g} bits or fewer")
        forms = {weight: option.form for weight, option in zip(sizes, picked, strict=True)}
        if forms in tried:
            break
        tried.append(forms)
        noise = measure(forms)
        if best is None or noise.max() < best[0]:
            best = float(noise.max()), forms
        expected = np.sum([option.noise for option in picked], axis=0)
        ratio = noise / np.maximum(expected, probe.LEAST)
        predicted = {
            weight: {form: values * ratio for form, values in own.items()}
            for weight, own in predicted.items()
        }
    assert best is not None
    average = average_bits(sizes, best[1])
    progress.line(f"{name}: {average:.2f} bits a weight, worst step {sqnr_db(best[0]):.1f} dB")
    return Chosen(MixedBits(forms=tuple(best[1].items())), average, sqnr_db(best[0]))


def _levelled(
    name: str, trial: Trial, sizes: Sizes, progress: Progress
) -> dict[str, dict[str, Noise]]:
    """Each weight's noise in each form at every judged step, alone in the graph."""
    done, runs = iter(range(1, 1 << 30)), probe.runs(trial)
    weights = probe.weights_of(
        trial, lambda: progress.step(f"{name}, damage", min(next(done), runs), runs), BLOCKS
    )
    shares = probe.shares_of(
        trial, weights, lambda: progress.step(f"{name}, damage", min(next(done), runs), runs)
    )
    with trial.quantised() as graph:
        steps = trial.evaluation.first
        measured = graph.noise(steps)
    whole = {key: probe.everywhere(trial, own.whole * shares[key]) for key, own in weights.items()}
    level = levelled(trial, probe.Prediction(whole, whole), measured, steps)
    factor = next(iter(level.noise.values())) / next(iter(whole.values()))
    model, noise = load(trial.prepared), {}
    for key, own in sizes.items():
        matrix = np.asarray(probe.matrix(model, weights[key].use), np.float32)
        noise[key] = {
            form: factor
            * probe.everywhere(trial, _local(matrix, parse_form(form), weights[key]) * shares[key])
            for form in own
        }
    return noise


def _local(matrix: NDArray[np.float32], form: BitForm, weight: probe.Weight) -> Noise:
    """The noise of a weight's product at the probed steps with the weight in a form."""
    if weight.powers is None:  # no product: by the errors of its own rounding alone
        error = np.square(_rounded(matrix, form, 1) - matrix).mean()
        known = np.square(rounded(matrix, weight.form) - matrix).mean()
        return weight.alone * error / max(float(known), probe.LEAST)
    if form.kind == "int":
        stored = Form(form.bits, form.group, "blocks")
        return local_noise(probe.columns(matrix), stored, weight.powers)
    error = np.square(_rounded(matrix, form, 1) - matrix).mean(axis=1)
    return np.asarray(weight.powers.inputs.astype(np.float64) @ error, np.float64)


def _rounded(weight: NDArray[np.float32], form: BitForm, axis: int) -> NDArray[np.float32]:
    """A weight as its palettes, or fp16, give it back; `axis`: its outputs."""
    if form.bits == 32:
        return weight
    half = weight.astype(np.float16)
    if form.kind == "fp":
        return half.astype(np.float32)
    groups = weight.shape[axis] // form.group if form.group else 1
    return palettised(half, form.bits, groups, axis)


def _written(trial: Trial) -> Measure:
    """What a graph with its weights in these forms does, measured by running it."""

    def measure(forms: Mapping[str, str]) -> Noise:
        recipe = MixedBits(forms=tuple(forms.items()))
        with trial.written(
            lambda target: quantize_mixed(trial.prepared, target, recipe, (), trial.rounded)
        ) as graph:
            return with_rest(trial, graph, graph.noise(trial.evaluation.first))

    return measure


def _in_fp32(trial: Trial) -> Measure:
    """The same of palettes: the values they give back, in the fp32 graph."""
    axes = {use.weight: use.output_axis for use in uses(load(trial.graph))}

    def measure(forms: Mapping[str, str]) -> Noise:
        def rounding(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
            return _rounded(values, parse_form(forms[name]), axes[name])

        judged = trial.evaluation
        epsilons = RoundedAlone(trial.graph, list(forms), rounding).run(list(forms), judged.feeds)
        pairs = zip(epsilons, judged.expected, strict=True)
        return np.array([noise_of(epsilon, exact) for epsilon, exact in pairs])

    return measure
