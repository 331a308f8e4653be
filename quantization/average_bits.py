"""From `--average-bits` to a plan: what can be asked of a bundle, and each denoiser's choice."""

from collections.abc import Mapping
from dataclasses import dataclass

from quantization.backends import BACKENDS, backend_of, require_packages
from quantization.bit_forms import Sizes, least_bits
from quantization.calibration import Samples, large
from quantization.recipes import INT4_WEIGHTS, MixedBits, Recipe, in_steps
from runtimes.bundle.manifest import DENOISERS
from runtimes.bundle.read import Bundle
from runtimes.errors import UsageError
from runtimes.progress import Progress

MOST = 16.0


@dataclass(frozen=True)
class Asked:
    """An average that a bundle can have: `measured` is the fp32 ONNX bundle that is run for it,
    `sizes` each denoiser's weights, by the names of ONNX graphs, in all of their forms.
    """

    average_bits: float
    measured: Bundle
    sizes: Mapping[str, Sizes]


def check_format(bundle: Bundle, average_bits: float) -> None:
    """UsageError for a format without forms to choose from, and for no number of bits."""
    asked, name = f"--average-bits {average_bits:g}", bundle.manifest.backend
    if backend_of(bundle).choices is None:
        able = " and ".join(name for name, other in BACKENDS.items() if other.choices)
        raise UsageError(
            f"{asked}: {name} bundles have no forms to choose from, those of {able} have; take "
            "--precision int4-weights, or a plan of 'python -m quantization sensitivity'"
        )
    if not 0 < average_bits <= MOST:
        raise UsageError(f"{asked}: give more than 0 and up to 16, from where nothing is chosen")


def check_average(bundle: Bundle, average_bits: float, twin: Bundle | None) -> Asked:
    """What is asked for, or UsageError naming what could be; nothing is run.

    `twin` is the fp32 ONNX bundle of a Core ML bundle's model.
    """
    asked, manifest = f"--average-bits {average_bits:g}", bundle.manifest
    measured = _measured(bundle, asked, twin)
    lacking = [name for name in DENOISERS if name not in measured.manifest.graphs]
    if lacking:
        raise UsageError(
            f"{asked}: {measured.folder} holds no {lacking[0]}, and whole runs are measured"
        )
    sizes = {}
    for name in [name for name in DENOISERS if name in manifest.graphs]:
        sizes[name] = _sizes(bundle, measured, name)
        if not sizes[name]:
            raise UsageError(f"{asked}: {name} has no weight to choose a form for")
        if average_bits < (least := least_bits(sizes[name])):
            raise UsageError(f"{asked}: {name} takes {least:.2f} bits a weight at least")
    return Asked(average_bits, measured, sizes)


def _measured(bundle: Bundle, asked: str, twin: Bundle | None) -> Bundle:
    manifest = bundle.manifest
    if manifest.backend == "onnx":
        if twin is not None:
            raise UsageError("--twin is for Core ML bundles: an ONNX bundle is measured itself")
        return bundle
    if twin is None:
        raise UsageError(
            f"{asked}: a Core ML bundle is measured on the ONNX bundle of the same model: export "
            "one with 'python -m exporter' and give it as --twin"
        )
    own, other = twin.manifest, f"--twin {twin.folder}"
    if (own.backend, own.precision) != ("onnx", "fp32"):
        raise UsageError(
            f"{other} is an {own.backend} {own.precision} bundle; give the fp32 onnx one"
        )
    if own.model != manifest.model:
        raise UsageError(f"{other} is of {own.model.id}, {bundle.folder} of {manifest.model.id}")
    require_packages(BACKENDS["onnx"], note=", which --twin is measured with")
    return twin


def _sizes(bundle: Bundle, measured: Bundle, name: str) -> Sizes:
    """The forms of a denoiser's weights; UsageError for a twin that has other weights."""
    backend = backend_of(bundle)
    assert backend.choices is not None
    own = backend.choices(bundle.path(bundle.graph(name).file))
    known = BACKENDS["onnx"].weight_names(measured.path(measured.graph(name).file))
    spelled = {backend.spelling(weight): weight for weight in known}
    if own.keys() != spelled.keys():
        other = next(iter(own.keys() ^ spelled.keys()))
        raise UsageError(
            f"--twin {measured.folder}: {name} has other weights than that of {bundle.folder}, "
            f"such as '{other}'; export both from one checkpoint"
        )
    return {spelled[weight]: forms for weight, forms in own.items()}


def chosen_forms(
    bundle: Bundle, asked: Asked, plan: Mapping[str, Recipe], judged: Samples, progress: Progress
) -> tuple[dict[str, Recipe], dict[str, float]]:
    """A recipe for each denoiser of `plan` whose bits are chosen, and its worst step in dB."""
    from quantization.mixed import choose  # these look into ONNX graphs
    from quantization.trial import Evaluation, Trial

    recipes: dict[str, Recipe] = {}
    worst = {}
    for name in DENOISERS:
        if not isinstance(plan.get(name), MixedBits):
            continue
        feeds, runs = judged.feeds[name], judged.about.prompts
        few = (0, len(feeds) // runs - 1) if large(asked.measured) else None
        evaluation = Evaluation(feeds, judged.epsilons[name], runs, few)
        path = asked.measured.path(asked.measured.graph(name).file)
        trial = Trial(path, in_steps(INT4_WEIGHTS), (), evaluation)
        try:
            chosen = choose(
                name,
                trial,
                asked.sizes[name],
                asked.average_bits,
                palettes=bundle.manifest.backend != "onnx",
                progress=progress,
            )
        finally:
            trial.close()
        recipes[name], worst[name] = chosen.recipe, chosen.worst_db
    return recipes, worst
