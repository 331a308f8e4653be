"""A plan as a TOML file: a table per graph, with its recipe and the weights that are exceptions.

precision = "int8"

[stage_b]
recipe = "int8"
keep = ["blocks.4.contract.weight"]     # int8 weights, float activations
skip = ["blocks.0.expand.weight"]       # as it is

A table of `recipe = "mixed-bits"` has a table of the form of each weight (`bit_forms`); a weight
that is not named stays as it is:

[stage_c.forms]
"blocks.0.expand.weight" = "palette4"
"""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from quantization.bit_forms import parse_form
from quantization.recipes import (
    INT4_WEIGHTS,
    INT8_WEIGHTS,
    PALETTE4,
    PALETTE6,
    PALETTE8,
    Float16,
    Float16Weights,
    Int8,
    Int8Dynamic,
    IntegerWeights,
    MixedBits,
    Plan,
    Recipe,
    in_steps,
)
from runtimes.bundle.manifest import ALL_GRAPHS, DENOISERS
from runtimes.bundle.ranges import shown
from runtimes.bundle.untrusted import read_regular
from runtimes.errors import UsageError, one_line

_RECIPES: tuple[Recipe, ...] = (
    Float16(),
    Float16Weights(),
    Int8(),
    Int8Dynamic(),
    INT8_WEIGHTS,
    INT4_WEIGHTS,
    PALETTE8,
    PALETTE6,
    PALETTE4,
    MixedBits(),
)
_MOST_BYTES = 1_000_000  # of a file: one that names every weight of the public model has 0.1 MB
_MOST_GROUP = 65_536  # weights that share a scale
RECIPES = {recipe.name: recipe for recipe in _RECIPES}


def read_plan(path: Path) -> tuple[str, Plan]:
    """The precision a plan names and its recipes; UsageError names what is wrong in it."""
    try:
        value = tomllib.loads(read_regular(path, _MOST_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--plan {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"--plan {path} is no TOML: {one_line(error)}") from None
    except RecursionError:
        raise UsageError(f"--plan {path}: its values are nested too deeply") from None
    precision = value.pop("precision", None)
    if not isinstance(precision, str) or precision not in RECIPES:
        raise UsageError(f"--plan {path}: precision must be one of {', '.join(RECIPES)}")
    unknown = [name for name in value if name not in ALL_GRAPHS]
    if unknown:
        raise UsageError(
            f"--plan {path}: unknown graph {shown(unknown[0])} of {', '.join(ALL_GRAPHS)}"
        )
    recipes = {name: _recipe(name, table, f"{path}: [{name}]") for name, table in value.items()}
    return precision, recipes


def write_plan(path: Path, precision: str, plan: Plan) -> None:
    """Write a plan that `read_plan` gives back."""
    lines = [f'precision = "{precision}"']
    for name, recipe in plan.items():
        if recipe is None:
            continue
        lines += ["", f"[{name}]", f'recipe = "{recipe.name}"']
        for field in ("keep", "skip"):
            names = getattr(recipe, field, ())
            if names:
                lines += [f"{field} = [", *(f'  "{weight}",' for weight in names), "]"]
        if isinstance(recipe, MixedBits):
            lines += ["", f"[{name}.forms]"]
            lines += [f'"{weight}" = "{form}"' for weight, form in recipe.forms]
        if isinstance(recipe, Int8):
            lines.append(f"smoothing = {recipe.smoothing}")
            lines.append(f"norm_smoothing = {recipe.norm_smoothing}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _recipe(graph: str, table: Any, where: str) -> Recipe:
    name = table.get("recipe") if isinstance(table, dict) else None
    if not isinstance(name, str) or name not in RECIPES:
        raise UsageError(f"{where}: recipe must be one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if graph in DENOISERS and isinstance(recipe, IntegerWeights):
        recipe = in_steps(recipe)
    allowed = {field.name for field in dataclasses.fields(recipe)} - {"name", "bits", "islands"}
    for key, value in table.items():
        if key == "recipe":
            continue
        if key not in allowed:
            raise UsageError(f"{where}: unknown key {shown(key)} of {', '.join(sorted(allowed))}")
        recipe = dataclasses.replace(recipe, **{key: _typed(key, value, where)})
    return recipe


def _typed(key: str, value: Any, where: str) -> Any:
    if key == "forms":
        return _forms(value, where)
    if key in ("keep", "skip"):
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return tuple(value)
        raise UsageError(f"{where}: '{key}' must be a list of weight names")
    if key == "group" and type(value) is int and 0 <= value <= _MOST_GROUP:
        return value
    if key == "activation_bits" and value in (8, 32) and type(value) is int:
        return value
    if key in ("smoothing", "norm_smoothing") and type(value) in (int, float) and 0 <= value <= 1:
        return float(value)
    raise UsageError(f"{where}: '{key}' is {shown(value)}")


def _forms(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: 'forms' must be a table of weight names and forms")
    for weight, form in value.items():
        try:
            parse_form(form if isinstance(form, str) else "")
        except ValueError:
            raise UsageError(
                f"{where}: {shown(weight)} is {shown(form)}; a form is one such as int4/64, "
                "palette4 or fp16"
            ) from None
    return tuple(value.items())


def exceptions(recipe: Recipe) -> tuple[str, ...]:
    """The weights a recipe names."""
    if isinstance(recipe, MixedBits):
        return tuple(weight for weight, _ in recipe.forms)
    return (*getattr(recipe, "keep", ()), *getattr(recipe, "skip", ()))
