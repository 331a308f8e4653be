"""Bundle to bundle: every graph as its plan says, everything else as it was."""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from quantization.backends import backend_of, package_versions
from quantization.bit_forms import average_bits
from quantization.calibration import Samples, check_samples, held_out, judging_runs, record
from quantization.plan_check import check_plan, needs_runs
from quantization.plan_file import write_plan
from quantization.recipes import Float16, Int8, MixedBits, Plan, Recipe
from runtimes.bundle.graph_files import engine_reads
from runtimes.bundle.manifest import DENOISERS, GOLDEN_FILE, Graph, Manifest, Quantization
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.bundle.readme import bundle_readme
from runtimes.bundle.write import atomic_folder, check_new, check_output, check_space, seal
from runtimes.engines.base import Tensors
from runtimes.errors import RunError, UsageError
from runtimes.memory import give_back
from runtimes.progress import SILENT, Progress

if TYPE_CHECKING:
    from quantization.average_bits import Asked

README = "README.md"


@dataclass(frozen=True)
class Request:
    """What to make of a bundle: `precision` names the result, `prompts` are to calibrate on.

    `target_db`: keep few weights from the precision, so that every step of each denoiser is above
    it on runs that nothing was calibrated on (ONNX bundles; None or 0: none kept). fp16 is measured
    and judged on such runs, with or without a target; at 0 it is not. `source` is where the plan
    was read, for messages.

    `average_bits`: have the forms of recipes `MixedBits` chosen, so that each denoiser's weights
    take so many bits on average, `twin` being the fp32 ONNX bundle of a Core ML bundle's model.
    `plan_file` is where to write the plan as it was carried out.
    """

    precision: str
    plan: Plan
    prompts: Sequence[str]
    samples: int
    seed: int
    target_db: float | None = None
    source: str = "--precision"
    overwrite: bool = False
    average_bits: float | None = None
    twin: Bundle | None = None
    plan_file: Path | None = None


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
    if request.average_bits is not None:
        from quantization.average_bits import check_average, check_format

        check_format(bundle, request.average_bits)
    plan = check_plan(bundle, request.plan, request.precision, request.source, request.target_db)
    if request.plan_file is not None:
        check_new(request.plan_file, "--save-plan")
    asked = None
    if request.average_bits is not None:
        asked = check_average(bundle, request.average_bits, request.twin)
    check_space(output, int(1.1 * sum(file.size for file in bundle.manifest.files.values())))
    # Before the work: another process that writes there is found out first.
    with atomic_folder(output, overwrite=request.overwrite) as folder:
        samples, worst = _measure(bundle, plan, request, progress)
        if asked is not None:
            worst |= _choose(bundle, asked, plan, request, progress)
        manifest = _write(bundle, folder, plan, request, samples, worst, progress)
        if request.plan_file is not None:
            write_plan(request.plan_file, request.precision, plan)
    open_bundle(output, hashes="none")  # each file was hashed a moment ago
    return manifest


def _measure(
    bundle: Bundle, plan: dict[str, Recipe], request: Request, progress: Progress
) -> tuple[Samples | None, dict[str, float]]:
    """What the plan calibrates on, and each judged graph's worst SQNR in dB.

    Recipes of the plan become what the judging runs made of them.
    """
    calibrates = any(isinstance(recipe, Int8) for recipe in plan.values())
    if calibrates:
        check_samples(bundle, request.samples)
    judges = needs_runs(bundle, plan, request.target_db)
    calibrated, judged = request.prompts, request.prompts[:0]
    if judges:
        half = any(isinstance(recipe, Float16) for recipe in plan.values())
        calibrated, judged = held_out(request.prompts, judging_runs(bundle, full=half))
    samples = None
    if calibrates:
        samples = record(
            bundle, calibrated, request.samples, request.seed, progress, "runs to calibrate on"
        )
    worst = _judge(bundle, plan, request, samples, judged, progress) if judges else {}
    return samples, worst


def _choose(
    bundle: Bundle,
    asked: "Asked",
    plan: dict[str, Recipe],
    request: Request,
    progress: Progress,
) -> dict[str, float]:
    """Put the chosen forms into the plan; each denoiser's worst step in dB."""
    from quantization.average_bits import chosen_forms
    from quantization.search import judged_runs

    _, prompts = held_out(request.prompts, judging_runs(asked.measured))
    runs = judged_runs(asked.measured, prompts, progress)
    recipes, worst = chosen_forms(bundle, asked, plan, runs, progress)
    plan.update(recipes)
    return worst


def _judge(
    bundle: Bundle,
    plan: dict[str, Recipe],
    request: Request,
    samples: Samples | None,
    prompts: Sequence[str],
    progress: Progress,
) -> dict[str, float]:
    # These look into ONNX graphs.
    from quantization.islands import fp16_recipes
    from quantization.search import judged_runs, search

    worst = {}
    half = {name for name, recipe in plan.items() if isinstance(recipe, Float16)}
    runs = judged_runs(bundle, prompts, progress, half - set(DENOISERS), full=bool(half))
    outcomes = search(bundle, plan, samples, runs, progress, target_db=request.target_db)
    for name, outcome in outcomes.items():
        plan[name], worst[name] = outcome.recipe, outcome.worst_db
    halves = fp16_recipes(bundle, plan, runs, request.target_db, progress)
    for name, judged in halves.items():
        plan[name], worst[name] = judged.recipe, judged.worst_db
    return worst


def _write(
    bundle: Bundle,
    folder: Path,
    plan: dict[str, Recipe],
    request: Request,
    samples: Samples | None,
    worst_db: dict[str, float],
    progress: Progress,
) -> Manifest:
    _copy_rest(bundle, folder, plan, progress)
    graphs, records = dict(bundle.manifest.graphs), {}
    for number, (name, recipe) in enumerate(plan.items(), 1):
        progress.line(f"[{number}/{len(plan)}] {name}: {recipe.name}")
        feeds: Sequence[Tensors] = samples.feeds.get(name, ()) if samples else ()
        graphs[name], done = _graph(bundle, folder, name, recipe, feeds)
        records[name] = dataclasses.replace(done, worst_db=worst_db.get(name))
        give_back(done.bytes_before)
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
        tools=bundle.manifest.tools | package_versions(backend_of(bundle)),
        quantization=records,
        calibration=samples.about if samples else None,
        mobile=None,  # what was estimated is of other graphs
    )
    (folder / README).write_text(bundle_readme(manifest), encoding="utf-8")
    return seal(folder, manifest, progress.graph("hashing", _bytes(folder)))


def _graph(
    bundle: Bundle, folder: Path, name: str, recipe: Recipe, feeds: Sequence[Tensors]
) -> tuple[Graph, Quantization]:
    """A graph without a weight to quantise stays as it is; a denoiser must have some."""
    graph, files = bundle.graph(name), bundle.files_of(name)
    before = sum(file.size for file in files.values())
    backend = backend_of(bundle)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as scratch:
        written = Path(scratch) / "graph" / PurePosixPath(graph.file).name
        written.parent.mkdir()
        listed = backend.handlers[type(recipe)](bundle.path(graph.file), written, recipe, feeds)
        weights = tuple(backend.with_kernels(written, listed))
        if all(weight.reason for weight in weights):
            if name in DENOISERS:
                raise RunError(
                    f"{name}: nothing was quantised, every weight has a reason to stay in float"
                )
            _copy(bundle, folder, files)
            return graph, Quantization(graph.precision, weights, before, before)
        after = _bytes(written.parent)
        target = (folder / graph.file).parent
        target.mkdir(parents=True, exist_ok=True)
        for path in written.parent.iterdir():
            os.rename(path, target / path.name)
    islands = recipe.islands if isinstance(recipe, Float16) else ()
    average = None
    if isinstance(recipe, MixedBits) and backend.choices is not None:
        forms = {backend.spelling(weight): form for weight, form in recipe.forms}
        average = average_bits(backend.choices(bundle.path(graph.file)), forms)
    record = Quantization(
        recipe.name, weights, before, after, islands=islands, average_bits=average
    )
    return dataclasses.replace(graph, precision=recipe.name), record


def _copy_rest(bundle: Bundle, folder: Path, plan: dict[str, Recipe], progress: Progress) -> None:
    """Tokenizers, golden run, graphs that stay: all but what engines read of the planned graphs.

    The README is written anew. A golden run that is gone or changed is left out, for nobody could
    vouch for it any more.
    """
    manifest = bundle.manifest
    planned = {key for name in plan for key in bundle.files_of(name)}
    replaced = {README, *(key for key in planned if engine_reads(manifest, key))}
    kept = [key for key in manifest.files if key not in replaced]
    if GOLDEN_FILE in kept:
        try:
            bundle.verified(GOLDEN_FILE)
        except RunError as error:
            progress.line(f"without the golden run: {error}")
            kept.remove(GOLDEN_FILE)
    _copy(bundle, folder, kept)


def _copy(bundle: Bundle, folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.verified(name), folder / name)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
