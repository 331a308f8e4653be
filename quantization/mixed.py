"""The form of each weight of a denoiser, at the least damage for an average number of bits.

Damage is the noise in epsilon, measured on the fp32 ONNX graph. As for searches (`probe`), runs
with single weights rounded say how much of a product's own noise reaches epsilon, and one more run
how large its inputs are; what noise each form makes at each step follows. Then each weight is run
in each form alone at the last step, the worst, which corrects that (large graphs, whose steps take
seconds, go without). The sum is set to what the whole graph was measured to do; the choice, an
`allocation`, is measured at every judged step, and made anew by what that said of the prediction.

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
from runtimes.tolerances import LIMITS

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
    """Forms for a denoiser that take `bits` a value on average, or less, and are no worse than the
    largest one that all weights could have for it.

    `sizes` are by the names of the trial's graph, and so is the recipe. With `palettes` the choice
    is measured in that graph, otherwise in one that is written as the recipe says.
    """
    budget = int(bits * sum(map(values_of, sizes.values())) / 8)
    measure = _in_fp32(trial) if palettes else _written(trial)
    predicted = _levelled(name, trial, sizes, progress)
    tried: dict[float, dict[str, str]] = {}  # by the noise at the worst step
    if alike := _alike(sizes, budget):
        tried[float(measure(alike).max())] = alike
    for _ in range(ROUNDS):
        options = [
            [Option(form, size, predicted[weight][form]) for form, size in own.items()]
            for weight, own in sizes.items()
        ]
        picked = allocate(options, budget)
        if picked is None:
            raise RunError(f"{name}: no choice of forms has {bits:g} bits or fewer")
        forms = {weight: option.form for weight, option in zip(sizes, picked, strict=True)}
        if forms in tried.values():
            break
        noise = measure(forms)
        tried[float(noise.max())] = forms
        expected = np.sum([option.noise for option in picked], axis=0)
        ratio = noise / np.maximum(expected, probe.LEAST)
        predicted = {
            weight: {form: values * ratio for form, values in own.items()}
            for weight, own in predicted.items()
        }
    least = min(tried)
    average, worst = average_bits(sizes, tried[least]), sqnr_db(least)
    progress.line(f"{name}: {average:.2f} bits a weight, worst step {worst:.1f} dB")
    if worst < (limit := LIMITS[MixedBits.name].graph_db):
        progress.line(f"{name}: below {limit:g} dB, which validation asks for: give more bits")
    return Chosen(MixedBits(forms=tuple(tried[least].items())), average, worst)


def _alike(sizes: Sizes, budget: int) -> dict[str, str] | None:
    """The largest form that all weights can have within the budget."""
    common = set.intersection(*(set(own) for own in sizes.values()))
    stored = {form: sum(own[form] for own in sizes.values()) for form in sorted(common)}
    fitting = {form: size for form, size in stored.items() if size <= budget}
    return dict.fromkeys(sizes, max(fitting, key=lambda form: fitting[form])) if fitting else None


def _levelled(
    name: str, trial: Trial, sizes: Sizes, progress: Progress
) -> dict[str, dict[str, Noise]]:
    """Each weight's noise in each form at every judged step, alone in the graph."""
    forms = sum(map(len, sizes.values()))
    done, runs = iter(range(1, 1 << 30)), probe.runs(trial) + (0 if trial.large else forms)

    def told() -> None:
        progress.step(f"{name}, damage", min(next(done), runs), runs)

    weights = probe.weights_of(trial, told, BLOCKS)
    shares = probe.shares_of(trial, weights, told)
    with trial.quantised() as graph:
        steps = trial.evaluation.first
        measured = graph.noise(steps)
    whole = {key: probe.everywhere(trial, own.whole * shares[key]) for key, own in weights.items()}
    level = levelled(trial, probe.Prediction(whole, whole), measured, steps)
    factor = next(iter(level.noise.values())) / next(iter(whole.values()))
    alone = None if trial.large else _Alone(trial, list(sizes), told)
    model = load(trial.prepared)
    noise: dict[str, dict[str, Noise]] = {}
    for key, own in sizes.items():
        matrix = np.asarray(probe.matrix(model, weights[key].use), np.float32)
        noise[key] = {}
        for text in own:
            form = parse_form(text)
            stored, inputs = (n * shares[key] for n in _local(matrix, form, weights[key]))
            if alone is not None:
                stored = stored * alone.noise(key, form) / max(stored[-1], probe.LEAST)
            noise[key][text] = factor * probe.everywhere(trial, stored + inputs)
    return noise


class _Alone:
    """What single weights in single forms do to the last probed step, which is the worst: run."""

    def __init__(self, trial: Trial, names: list[str], on_run: Callable[[], None]) -> None:
        self._feed, self._on_run = trial.evaluation.feeds[probe.probed(trial)[-1]], on_run
        self._axes = {use.weight: use.output_axis for use in uses(load(trial.prepared))}
        self._form = BitForm("fp", 32)
        self._graph = RoundedAlone(trial.prepared, names, self._rounded)
        (self._exact,) = self._graph.run([], [self._feed])

    def noise(self, name: str, form: BitForm) -> float:
        """Epsilon's noise with this weight alone in this form."""
        self._form = form
        (epsilon,) = self._graph.run([name], [self._feed], self._on_run)
        return noise_of(epsilon, self._exact)

    def _rounded(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return _rounded(values, self._form, self._axes[name])


def _local(matrix: NDArray[np.float32], form: BitForm, weight: probe.Weight) -> tuple[Noise, Noise]:
    """The noise of a weight's product at the probed steps with the weight in a form: by its own
    rounding, and by that of its inputs.
    """
    if weight.powers is None:  # no product: by the errors of its own rounding alone
        error = np.square(_rounded(matrix, form, 1) - matrix).mean()
        known = np.square(rounded(matrix, weight.form) - matrix).mean()
        own = weight.alone * error / max(float(known), probe.LEAST)
        return own, np.zeros_like(own)
    if form.kind == "int":
        sample = probe.columns(matrix)
        own, whole = (
            local_noise(sample, Form(form.bits, form.group, inputs), weight.powers)
            for inputs in ("fp32", "blocks")
        )
        return own, whole - own
    error = np.square(_rounded(matrix, form, 1) - matrix).mean(axis=1)
    own = np.asarray(weight.powers.inputs.astype(np.float64) @ error, np.float64)
    return own, np.zeros_like(own)


def _rounded(weight: NDArray[np.float32], form: BitForm, axis: int) -> NDArray[np.float32]:
    """A weight as its integers, palettes, or fp16 give it back; `axis`: its outputs."""
    if form.bits == 32:
        return weight
    if form.kind == "int":  # of products alone, whose weights are (inputs, outputs)
        return rounded(weight, Form(form.bits, form.group, "fp32"))
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
