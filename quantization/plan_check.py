"""Whether a plan fits a bundle, found out before anything is computed."""

import difflib
import math

from quantization.backends import (
    CHECKS,
    HANDLERS,
    MODULES,
    PACKAGES,
    SOURCES,
    SPELLINGS,
    WEIGHT_NAMES,
)
from quantization.calibration import DENOISERS
from quantization.plan_file import exceptions
from quantization.recipes import PRESETS, Int8, Plan, Recipe, searchable
from runtimes.bundle.read import Bundle
from runtimes.console import installed
from runtimes.errors import UsageError


def check_plan(
    bundle: Bundle, plan: Plan, precision: str, source: str, target_db: float | None
) -> dict[str, Recipe]:
    """The recipe of each graph of this bundle; `source` says where the plan is from.

    Raises UsageError for a bundle, plan, or target that cannot be served.
    """
    manifest = bundle.manifest
    sources = SOURCES.get(manifest.backend, ("fp32",))
    if manifest.quantization or manifest.precision not in sources:
        raise UsageError(
            f"{bundle.folder} is {manifest.precision} already; quantise the {' or '.join(sources)} "
            "bundle instead"
        )
    found = {}
    for name in manifest.graphs:
        recipe = plan.get(name)
        if recipe is not None:
            _check_recipe(bundle, name, recipe, f"{source} {precision}", source)
            found[name] = recipe
    if not found:
        held = ", ".join(manifest.graphs)
        raise UsageError(f"{source}: it has a recipe for no graph of {bundle.folder} ({held})")
    if precision not in {recipe.name for recipe in found.values()}:
        used = ", ".join(dict.fromkeys(recipe.name for recipe in found.values()))
        raise UsageError(
            f"{source}: precision is '{precision}', which names the bundle, and no graph gets it; "
            f"they get {used}"
        )
    _check_whole(bundle, found, target_db)
    return found


def _check_recipe(bundle: Bundle, name: str, recipe: Recipe, asked: str, source: str) -> None:
    backend, file = bundle.manifest.backend, bundle.manifest.graphs[name].file
    if (backend, type(recipe)) not in HANDLERS:
        has = [p for p, plan in PRESETS.items() if (backend, type(plan["stage_b"])) in HANDLERS]
        raise UsageError(
            f"{asked}: {recipe.name} is not available for {backend} bundles ({name}), which have "
            f"{', '.join(has)}"
        )
    _check_packages(backend)
    _check_names(bundle, name, recipe, source)
    if backend in CHECKS:
        CHECKS[backend](bundle.path(file), recipe)


def _check_packages(backend: str) -> None:
    """UsageError where what the backend's handlers are made of is not installed."""
    missing = [name for name in PACKAGES[backend] if not installed(MODULES.get(name, name))]
    if missing:
        raise UsageError(
            f"{missing[0]} is not installed, which quantises {backend} bundles: pip install "
            f"'wuerstchen-export[quantization,{'cpu' if backend == 'onnx' else backend}]'"
        )


def _check_names(bundle: Bundle, name: str, recipe: Recipe, source: str) -> None:
    """UsageError for an exception that names no weight of the graph, or one weight twice."""
    if not exceptions(recipe):
        return
    backend, file = bundle.manifest.backend, bundle.manifest.graphs[name].file
    known, spelled = WEIGHT_NAMES[backend](bundle.path(file)), SPELLINGS.get(backend, str)
    given = exceptions(recipe)
    for index, weight in enumerate(given):
        if weight in given[:index]:
            raise UsageError(f"{source}: [{name}] names '{weight}' twice; keep it or skip it")
        if spelled(weight) not in known:
            near = difflib.get_close_matches(spelled(weight), known, 1)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise UsageError(
                f"{source}: [{name}] names '{weight}', which is no weight of {name} that a recipe "
                f"could quantise{hint}"
            )


def _check_whole(bundle: Bundle, plan: dict[str, Recipe], target_db: float | None) -> None:
    """UsageError for what needs whole runs, or a search, where they cannot be had."""
    manifest = bundle.manifest
    if target_db is not None and not (math.isfinite(target_db) and target_db >= 0):
        raise UsageError(f"--target-db is {target_db}; it must be a number of dB, or 0 for none")
    lacking = [name for name in DENOISERS if name not in manifest.graphs]
    if lacking and (target_db or any(isinstance(recipe, Int8) for recipe in plan.values())):
        raise UsageError(
            f"{bundle.folder} holds no {lacking[0]}: int8 and --target-db measure whole runs"
        )
    if target_db and manifest.backend != "onnx":
        raise UsageError(
            f"--target-db measures ONNX bundles, this is an {manifest.backend} one: have "
            "'python -m quantization sensitivity' pick a plan on the ONNX bundle, and give --plan"
        )
    if target_db and not any(searchable(plan.get(name)) for name in DENOISERS):
        recipes = ", ".join(dict.fromkeys(recipe.name for recipe in plan.values()))
        raise UsageError(f"--target-db: {recipes} takes no exceptions that could reach a target")
