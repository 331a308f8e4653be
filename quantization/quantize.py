"""Bundle to bundle: every graph as its plan says, everything else as it was."""

import dataclasses
import importlib.metadata
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quantization.calibration import DENOISERS, Samples, check_samples, held_out, record
from quantization.handlers import HANDLERS, PACKAGES
from quantization.plan_check import check_plan
from quantization.recipes import Int8, Plan, Recipe
from runtimes.atomic import atomic_folder, check_output, check_space, seal
from runtimes.bundle import Bundle, open_bundle
from runtimes.bundle_readme import bundle_readme
from runtimes.engine import Tensors
from runtimes.errors import RunError, UsageError
from runtimes.manifest import MANIFEST_NAME, Graph, Manifest, Quantization
from runtimes.memory import give_back
from runtimes.progress import SILENT, Progress


@dataclass(frozen=True)
class Request:
    """What to make of a bundle: `precision` names the result, `prompts` are to calibrate on.

    `target_db`: keep few weights from the precision, so that every step of each denoiser is above
    it on runs that nothing was calibrated on (ONNX bundles; None or 0: none kept). `source` is
    where the plan was read, for messages.
    """

    precision: str
    plan: Plan
    prompts: Sequence[str]
    samples: int
    seed: int
    target_db: float | None = None
    source: str = "--precision"
    overwrite: bool = False


def quantize(
    bundle: Bundle, output: Path, request: Request, progress: Progress = SILENT
) -> Manifest:
    """Write the quantised bundle to `output`, all or nothing, and return its manifest.

    Raises UsageError for a bundle or plan that cannot be served, before anything is computed;
    RunError when a graph comes out with nothing quantised.
    """
    check_output(output, overwrite=request.overwrite)
    if output.resolve().is_relative_to(bundle.folder):
        raise UsageError(
            f"{output} is inside the bundle {bundle.folder}, which holds its own files only; give "
            "another output"
        )
    plan = check_plan(bundle, request.plan, request.precision, request.source, request.target_db)
    check_space(output, int(1.1 * sum(file.size for file in bundle.manifest.files.values())))
    calibrates = any(isinstance(recipe, Int8) for recipe in plan.values())
    if calibrates:
        check_samples(bundle, request.samples)
    calibrated, judged = held_out(request.prompts) if request.target_db else (request.prompts, ())
    samples = None
    if calibrates:
        samples = record(
            bundle, calibrated, request.samples, request.seed, progress, "runs to calibrate on"
        )
    worst: dict[str, float] = {}
    if request.target_db:
        from quantization.search import judged_runs, search  # looks into ONNX graphs

        runs = judged_runs(bundle, judged, progress)
        found = search(bundle, plan, samples, runs, progress, target_db=request.target_db)
        plan |= {name: own.recipe for name, own in found.items()}
        worst = {name: own.worst_db for name, own in found.items()}
    with atomic_folder(output) as folder:
        manifest = _write(bundle, folder, plan, request, samples, worst, progress)
    open_bundle(output)
    return manifest


def _write(
    bundle: Bundle,
    folder: Path,
    plan: dict[str, Recipe],
    request: Request,
    samples: Samples | None,
    worst_db: dict[str, float],
    progress: Progress,
) -> Manifest:
    _copy_rest(bundle, folder, plan)
    graphs, records = dict(bundle.manifest.graphs), {}
    for number, (name, recipe) in enumerate(plan.items(), 1):
        progress.line(f"[{number}/{len(plan)}] {name}: {recipe.name}")
        feeds = samples.feeds.get(name, []) if samples else []
        graphs[name], done = _graph(bundle, folder, name, recipe, feeds)
        records[name] = dataclasses.replace(done, worst_db=worst_db.get(name))
        give_back(_bytes(bundle.path(bundle.graph(name).file).parent))
    if all(weight.reason for record in records.values() for weight in record.weights):
        names = ", ".join(records)
        raise RunError(
            f"{names}: nothing was quantised, every weight has a reason to stay in float"
        )
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
    seal(folder, manifest, progress.graph("hashing", _bytes(folder)))
    return manifest


def _graph(
    bundle: Bundle, folder: Path, name: str, recipe: Recipe, feeds: list[Tensors]
) -> tuple[Graph, Quantization]:
    """A graph without a weight to quantise stays as it is; a denoiser must have some."""
    graph = bundle.manifest.graphs[name]
    source, target = bundle.path(graph.file), folder / graph.file
    target.parent.mkdir(parents=True, exist_ok=True)
    handler = HANDLERS[bundle.manifest.backend, type(recipe)]
    weights = tuple(handler(source, target, recipe, feeds))
    if all(weight.reason for weight in weights):
        if name in DENOISERS:
            raise RunError(
                f"{name}: nothing was quantised, every weight has a reason to stay in float"
            )
        shutil.rmtree(target.parent)
        _copy(bundle, folder, f"{PurePosixPath(graph.file).parent}/")
        size = _bytes(target.parent)
        return graph, Quantization(graph.precision, weights, size, size)
    before, after = (_bytes(path.parent) for path in (source, target))
    record = Quantization(recipe.name, weights, before, after)
    return dataclasses.replace(graph, precision=recipe.name), record


def _copy_rest(bundle: Bundle, folder: Path, plan: dict[str, Recipe]) -> None:
    """Tokenizers, golden run, graphs that stay: all but the planned graphs' own folders."""
    replaced = tuple(f"{PurePosixPath(bundle.manifest.graphs[name].file).parent}/" for name in plan)
    for name in bundle.manifest.files:
        if name != MANIFEST_NAME and not name.startswith(replaced):
            _copy(bundle, folder, name)


def _copy(bundle: Bundle, folder: Path, start: str) -> None:
    """The bundle's files whose names start so."""
    for name in bundle.manifest.files:
        if name.startswith(start):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path(name), folder / name)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tools(backend: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES[backend]}
