"""Bundle to bundle: every graph as its plan says, everything else as it was."""

import dataclasses
import importlib.metadata
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quantization.calibration import DENOISERS, Samples, record
from quantization.handlers import (
    CHECKS,
    HANDLERS,
    MODULES,
    PACKAGES,
    SOURCES,
    SPELLINGS,
    WEIGHT_NAMES,
)
from quantization.plan_file import exceptions
from quantization.recipes import Int8, Plan, Recipe
from runtimes.atomic import atomic_folder, check_output, check_space, seal
from runtimes.bundle import Bundle, open_bundle
from runtimes.bundle_readme import bundle_readme
from runtimes.command import installed
from runtimes.engine import Tensors
from runtimes.errors import RunError, UsageError
from runtimes.manifest import MANIFEST_NAME, Graph, Manifest, Quantization

Report = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to make of a bundle: `precision` names the result, `prompts` are to calibrate on.

    `target_db`: keep the fewest weights from the precision so that every step of each denoiser is
    above it on runs that nothing was calibrated on (ONNX bundles; None or 0: none kept).
    """

    precision: str
    plan: Plan
    prompts: Sequence[str]
    samples: int
    seed: int
    target_db: float | None = None
    overwrite: bool = False


def quantize(
    bundle: Bundle, output: Path, request: Request, report: Report = lambda line: None
) -> Manifest:
    """Write the quantised bundle to `output`, all or nothing, and return its manifest.

    Raises UsageError for a bundle or plan that cannot be served, before anything is computed;
    RunError when a graph comes out with nothing quantised.
    """
    check_output(output, overwrite=request.overwrite)
    plan = _checked(bundle, request)
    check_space(output, int(1.1 * sum(file.size for file in bundle.manifest.files.values())))
    samples = None
    if any(isinstance(recipe, Int8) for recipe in plan.values()):
        report(f"recording {request.samples} steps of each denoiser over full runs")
        samples = record(bundle, request.prompts, request.samples, request.seed)
    worst: dict[str, float] = {}
    if request.target_db:
        from quantization.search import RUNS, judged_runs, search  # looks into ONNX graphs

        report("recording runs to judge on")
        found = search(
            bundle,
            plan,
            samples,
            judged_runs(bundle, request.prompts[:RUNS]),
            report,
            target_db=request.target_db,
        )
        plan |= {name: own.recipe for name, own in found.items()}
        worst = {name: own.worst_db for name, own in found.items()}
    with atomic_folder(output) as folder:
        manifest = _write(bundle, folder, plan, request, samples, worst, report)
    open_bundle(output)
    return manifest


def _checked(bundle: Bundle, request: Request) -> dict[str, Recipe]:
    """The recipe of each graph of this bundle."""
    manifest = bundle.manifest
    sources = SOURCES.get(manifest.backend, ("fp32",))
    if manifest.quantization or manifest.precision not in sources:
        raise UsageError(
            f"{bundle.folder} is {manifest.precision} already; quantise the {' or '.join(sources)} "
            "bundle instead"
        )
    found = {}
    for name in manifest.graphs:
        recipe = request.plan.get(name)
        if recipe is None:
            continue
        if (manifest.backend, type(recipe)) not in HANDLERS:
            raise UsageError(
                f"--precision {request.precision}: not available for {manifest.backend} bundles"
            )
        _check_packages(manifest.backend)
        _check_names(bundle, name, recipe)
        if manifest.backend in CHECKS:
            CHECKS[manifest.backend](bundle.path(manifest.graphs[name].file), recipe)
        found[name] = recipe
    lacking = [name for name in DENOISERS if name not in manifest.graphs]
    if lacking and (request.target_db or any(isinstance(r, Int8) for r in found.values())):
        raise UsageError(
            f"{bundle.folder} holds no {lacking[0]}: int8 and --target-db measure whole runs"
        )
    if request.target_db and manifest.backend != "onnx":
        raise UsageError(
            f"--target-db measures ONNX bundles, this is an {manifest.backend} one: have "
            "'python -m quantization sensitivity' pick a plan on the ONNX bundle, and give --plan"
        )
    return found


def _check_packages(backend: str) -> None:
    """UsageError where what the backend's handlers are made of is not installed."""
    missing = [name for name in PACKAGES[backend] if not installed(MODULES.get(name, name))]
    if missing:
        raise UsageError(
            f"{missing[0]} is not installed, which quantises {backend} bundles: pip install "
            f"'wuerstchen-export[quantization,{'cpu' if backend == 'onnx' else backend}]'"
        )


def _check_names(bundle: Bundle, name: str, recipe: Recipe) -> None:
    """UsageError for an exception that names no weight of the graph."""
    if not exceptions(recipe):
        return
    backend, file = bundle.manifest.backend, bundle.manifest.graphs[name].file
    known, spelled = WEIGHT_NAMES[backend](bundle.path(file)), SPELLINGS.get(backend, str)
    for weight in exceptions(recipe):
        if spelled(weight) not in known:
            raise UsageError(f"the plan names '{weight}', which {name} does not have")


def _write(
    bundle: Bundle,
    folder: Path,
    plan: dict[str, Recipe],
    request: Request,
    samples: Samples | None,
    worst_db: dict[str, float],
    report: Report,
) -> Manifest:
    _copy_rest(bundle, folder, plan)
    graphs, records = dict(bundle.manifest.graphs), {}
    for number, (name, recipe) in enumerate(plan.items(), 1):
        report(f"[{number}/{len(plan)}] {name}: {recipe.name}")
        feeds = samples.feeds.get(name, []) if samples else []
        graphs[name], done = _graph(bundle, folder, name, recipe, feeds)
        records[name] = dataclasses.replace(done, worst_db=worst_db.get(name))
    manifest = dataclasses.replace(
        bundle.manifest,
        precision=request.precision,
        graphs=graphs,
        files={},
        tools=bundle.manifest.tools | _tools(bundle.manifest.backend),
        quantization=records,
        calibration=samples.about if samples else None,
    )
    (folder / "README.md").write_text(bundle_readme(manifest), encoding="utf-8")
    seal(folder, manifest)
    return manifest


def _graph(
    bundle: Bundle, folder: Path, name: str, recipe: Recipe, feeds: list[Tensors]
) -> tuple[Graph, Quantization]:
    graph = bundle.manifest.graphs[name]
    source, target = bundle.path(graph.file), folder / graph.file
    target.parent.mkdir(parents=True, exist_ok=True)
    handler = HANDLERS[bundle.manifest.backend, type(recipe)]
    weights = handler(source, target, recipe, feeds)
    if all(weight.reason for weight in weights):
        raise RunError(f"{name}: nothing was quantised, every weight has a reason to stay in float")
    before, after = (_bytes(path.parent) for path in (source, target))
    record = Quantization(recipe.name, tuple(weights), before, after)
    return dataclasses.replace(graph, precision=recipe.name), record


def _copy_rest(bundle: Bundle, folder: Path, plan: dict[str, Recipe]) -> None:
    """Tokenizers, golden run, graphs that stay: all but the planned graphs' own folders."""
    replaced = tuple(f"{PurePosixPath(bundle.manifest.graphs[name].file).parent}/" for name in plan)
    for name in bundle.manifest.files:
        if name == MANIFEST_NAME or name.startswith(replaced):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path(name), folder / name)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tools(backend: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES[backend]}
