"""Whether a plan fits a bundle, found out before anything is computed."""

import difflib
import math
from pathlib import Path

from quantization.backends import Backend, backend_of, require_packages
from quantization.plan_file import exceptions
from quantization.recipes import PRESETS, Float16, Int8, MixedBits, Plan, Recipe, judged
from runtimes.bundle.manifest import DENOISERS
from runtimes.bundle.read import Bundle
from runtimes.errors import UsageError


def check_plan(
    bundle: Bundle, plan: Plan, precision: str, source: str, target_db: float | None
) -> dict[str, Recipe]:
    """The recipe of each graph of this bundle; `source` says where the plan is from.

    Raises UsageError for a bundle, plan, or target that cannot be served.
    """
    manifest, backend = bundle.manifest, backend_of(bundle)
    if manifest.quantization or manifest.precision not in backend.sources:
        raise UsageError(
            f"{bundle.folder} is {manifest.precision} already; quantise the "
            f"{' or '.join(backend.sources)} bundle instead"
        )
    if any(graph.is_ort for graph in manifest.graphs.values()):
        raise UsageError(
            f"{bundle.folder} has graphs in ONNX Runtime's own format (.ort), which nothing here "
            "quantises; quantise the bundle that it was made of"
        )
    recipes = {}
    for name in manifest.graphs:
        recipe = plan.get(name)
        if recipe is not None:
            _check_recipe(bundle, backend, name, recipe, f"{source} {precision}", source)
            recipes[name] = recipe
    if not recipes:
        held = ", ".join(manifest.graphs)
        raise UsageError(f"{source}: it has a recipe for no graph of {bundle.folder} ({held})")
    if precision not in {recipe.name for recipe in recipes.values()}:
        used = ", ".join(dict.fromkeys(recipe.name for recipe in recipes.values()))
        raise UsageError(
            f"{source}: precision is '{precision}', which names the bundle, and no graph gets it; "
            f"they get {used}"
        )
    _check_whole(bundle, recipes, target_db)
    return recipes


def needs_runs(bundle: Bundle, plan: Plan, target_db: float | None) -> bool:
    """Whether full runs judge a plan: one with a target, and ONNX graphs in fp16 but at 0."""
    half = any(isinstance(recipe, Float16) for recipe in plan.values())
    measured = half and bundle.manifest.backend == "onnx"
    return bool(target_db) or (measured and target_db is None)


def _check_recipe(
    bundle: Bundle, backend: Backend, name: str, recipe: Recipe, asked: str, source: str
) -> None:
    """UsageError for a recipe that cannot be carried out on the graph `name` of a bundle."""
    format_, graph = bundle.manifest.backend, bundle.path(bundle.manifest.graphs[name].file)
    if type(recipe) not in backend.handlers:
        has = [p for p, plan in PRESETS.items() if type(plan["stage_b"]) in backend.handlers]
        raise UsageError(
            f"{asked}: {recipe.name} is not available for {format_} bundles ({name}), which have "
            f"{', '.join(has)}"
        )
    # Before the names: reading the weights of a graph takes the packages.
    require_packages(backend, note=f", which quantises {format_} bundles")
    _check_names(backend, graph, name, recipe, source)
    if isinstance(recipe, MixedBits) and name not in DENOISERS:  # rounds activations, if in ONNX
        raise UsageError(
            f"{source}: {recipe.name} is for {' and '.join(DENOISERS)}, not for {name}"
        )
    if isinstance(recipe, MixedBits) and recipe.forms:
        _check_forms(backend, graph, name, recipe, f"{source}: [{name}.forms]")
    backend.check(graph, recipe)


def _check_names(backend: Backend, graph: Path, name: str, recipe: Recipe, source: str) -> None:
    """UsageError for an exception that names no weight of the graph, or one weight twice."""
    named = exceptions(recipe)
    if not named:
        return  # the graph need not be read
    known = backend.weight_names(graph)
    for index, weight in enumerate(named):
        if weight in named[:index]:
            raise UsageError(f"{source}: [{name}] names '{weight}' twice; keep it or skip it")
        spelled = backend.spelling(weight)
        if spelled not in known:
            near = difflib.get_close_matches(spelled, known, 1)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise UsageError(
                f"{source}: [{name}] names '{weight}', which is no weight of {name} that a recipe "
                f"could quantise{hint}"
            )


def _check_forms(backend: Backend, graph: Path, name: str, recipe: MixedBits, where: str) -> None:
    """UsageError for a form that a weight cannot have in this format."""
    assert backend.choices is not None  # as every format that has a handler for it
    choices = backend.choices(graph)
    for weight, form in recipe.forms:
        allowed = choices[backend.spelling(weight)]
        if form not in allowed:
            raise UsageError(
                f"{where} has {form} for '{weight}', which {name} here can have in "
                f"{', '.join(allowed)}"
            )


def _check_whole(bundle: Bundle, plan: dict[str, Recipe], target_db: float | None) -> None:
    """UsageError for what needs whole runs, or a search, where they cannot be had."""
    manifest = bundle.manifest
    if target_db is not None and not (math.isfinite(target_db) and target_db >= 0):
        raise UsageError(f"--target-db is {target_db}; it must be a number of dB, or 0 for none")
    lacking = [name for name in DENOISERS if name not in manifest.graphs]
    calibrates = any(isinstance(recipe, Int8) for recipe in plan.values())
    if lacking and (calibrates or needs_runs(bundle, plan, target_db)):
        raise UsageError(
            f"{bundle.folder} holds no {lacking[0]}: int8 and --target-db measure whole runs"
            + ("" if calibrates else "; --target-db 0 measures nothing")
        )
    if target_db and manifest.backend != "onnx":
        raise UsageError(
            f"--target-db measures ONNX bundles, this is an {manifest.backend} one: have "
            "'python -m quantization sensitivity' pick a plan on the ONNX bundle, and give --plan"
        )
    if target_db and not any(judged(plan.get(name)) for name in DENOISERS):
        recipes = ", ".join(dict.fromkeys(recipe.name for recipe in plan.values()))
        raise UsageError(f"--target-db: {recipes} takes no exceptions that could reach a target")
