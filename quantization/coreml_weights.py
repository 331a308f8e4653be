"""Integer weights and palettes in Core ML packages, by coremltools.optimize.

Activations stay as they are, fp16 by default: Core ML widens the weights on the device.
"""

import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from quantization.bit_forms import BitForm, parse_form
from quantization.coreml_program import ProgramWeight, mil_name, takes_groups, weights
from quantization.integers import KEPT_GROUP, group_of
from quantization.palettes import table_of
from quantization.recipes import IntegerWeights, MixedBits, Palette, Recipe
from runtimes.bundle.coreml import WEIGHTS, quiet, rewrite
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors
from runtimes.engines.coreml import import_coremltools, read_specification
from runtimes.errors import RunError, UsageError

# Output channels that share a table, where the deployment target takes that: 2 dB in Stage C at 6
# bits, 4 dB at 4, for 3 % and 1 % of the bytes. Tables of 256 values would take a twelfth.
CHANNELS = 32
_MOST_BITS = 6
_SKIPPED = "the plan skips it"
MAIN = "main"


def check(source: Path, recipe: Recipe) -> None:
    """UsageError for a recipe that the package's deployment target cannot store."""
    if not isinstance(recipe, IntegerWeights) or recipe.bits == 8:
        return
    spec = read_specification(source)
    if not takes_groups(spec):
        target = spec.description.metadata.userDefined["deployment_target"]
        raise UsageError(
            f"{recipe.name} needs iOS 18, and {source.parent.name} is for {target}: take palette4, "
            "or export with --deployment-target iOS18"
        )


def weight_names(source: Path) -> Collection[str]:
    """The weights of a program that a plan may name, as the program spells them."""
    return {weight.name for weight in weights(read_specification(source))}


def compress(
    source: Path,
    target: Path,
    recipe: IntegerWeights | Palette | MixedBits,
    feeds: Sequence[Tensors] = (),
) -> list[Weight]:
    """Write a package with its weights as the recipe says; lists every weight, changed or not.

    Raises RunError when coremltools leaves a weight as it is.
    """
    spec, listed, configs = read_specification(source), [], {}
    for weight in weights(spec):
        if reason := weight.reason or _skipped(weight, recipe):
            listed.append(Weight(weight.name, weight.dtype, reason))
            continue
        stored, configs[weight.name] = _choice(weight, recipe, groups=takes_groups(spec))
        listed.append(Weight(weight.name, stored, ""))
    with _scratch(target.parent) as scratch:
        _write(spec, source, target, configs, scratch)
    written = read_specification(target)
    left = [weight.name for weight in weights(written) if weight.name in configs]
    if left:
        raise RunError(f"coremltools left {len(left)} weights as they are, such as '{left[0]}'")
    _describe(written, spec, recipe.name)
    rewrite(target, written)
    return listed


def choices(source: Path) -> dict[str, dict[str, int]]:
    """The forms that each weight of a package may have, and how many bytes it has in each."""
    spec = read_specification(source)
    groups, found = takes_groups(spec), {}
    for weight in weights(spec):
        if not weight.reason:
            wide = 4 if weight.dtype == "float32" else 2
            rest = weight.values // weight.outputs
            forms = [BitForm("fp", 8 * wide), *_palettes(weight, groups=groups)]
            sizes = {str(form): form.bytes(rest, weight.outputs, wide) for form in forms}
            found[weight.name] = sizes
    return found


def _palettes(weight: ProgramWeight, *, groups: bool) -> Iterator[BitForm]:
    """Tables of three bits, and for a part of the outputs, are there from iOS 18 on."""
    for bits in (1, 2, 3, 4, 6, 8):
        if groups or bits != 3:
            yield BitForm("palette", bits)
        divided = weight.outputs % CHANNELS == 0 and weight.outputs > CHANNELS
        if groups and bits <= _MOST_BITS and divided:
            yield BitForm("palette", bits, CHANNELS)


def _skipped(weight: ProgramWeight, recipe: IntegerWeights | Palette | MixedBits) -> str:
    if isinstance(recipe, MixedBits):
        named = {mil_name(name) for name, form in recipe.forms if not form.startswith("fp")}
        return "" if weight.name in named else _SKIPPED
    return _SKIPPED if weight.name in map(mil_name, recipe.skip) else ""


def _choice(
    weight: ProgramWeight, recipe: IntegerWeights | Palette | MixedBits, *, groups: bool
) -> tuple[str, Any]:
    """How a weight is stored, in words and as coremltools' configuration."""
    import_coremltools()
    from coremltools.optimize.coreml import OpLinearQuantizerConfig, OpPalettizerConfig

    if isinstance(recipe, MixedBits):
        forms = {mil_name(name): form for name, form in recipe.forms}
        form = parse_form(forms[weight.name])
        return _palette_words(form.bits, form.group), OpPalettizerConfig(
            mode="custom",
            lut_function=partial(table_of, bits=form.bits),
            granularity="per_grouped_channel" if form.group else "per_tensor",
            group_size=form.group or CHANNELS,
            weight_threshold=0,
        )
    kept = weight.name in map(mil_name, recipe.keep)
    if isinstance(recipe, Palette) and not kept:
        groups = groups and recipe.bits <= _MOST_BITS and weight.outputs % CHANNELS == 0
        return _palette_words(recipe.bits, CHANNELS if groups else 0), OpPalettizerConfig(
            mode="kmeans",
            nbits=recipe.bits,
            granularity="per_grouped_channel" if groups else "per_tensor",
            group_size=CHANNELS,
            weight_threshold=0,
        )
    bits, group = 8, KEPT_GROUP
    if isinstance(recipe, IntegerWeights) and not kept:
        bits, group = recipe.bits, recipe.group
    group = group_of(weight.inputs, group) if groups else 0
    blocks = f"groups of {group}" if group else "per channel"
    # Few values are rarely symmetric: a zero point is worth 2 dB in groups, and nothing without.
    return f"int{bits} weights, {blocks}", OpLinearQuantizerConfig(
        mode="linear" if group else "linear_symmetric",
        dtype=f"int{bits}",
        granularity="per_block" if group else "per_channel",
        block_size=group,
        weight_threshold=0,
    )


def _palette_words(bits: int, group: int) -> str:
    tables = f"a table per {group} channels" if group else "one table"
    return f"{bits}-bit palette, {tables}"


def _write(
    spec: Any, source: Path, target: Path, configs: Mapping[str, Any], scratch: Path
) -> None:
    """Compress each function by itself, coremltools takes no more, and put them together again."""
    ct = import_coremltools()
    folder = str(source / "Data" / WEIGHTS)
    functions = [function.name for function in spec.description.functions]
    with quiet(), _one_thread():
        if not functions:
            model = ct.models.MLModel(spec, weights_dir=folder, skip_model_load=True)
            _compressed(model, configs).save(str(target))
            return
        parts = ct.utils.MultiFunctionDescriptor()
        for name in functions:
            model = ct.models.MLModel(_alone(spec, name), weights_dir=folder, skip_model_load=True)
            part = str(scratch / f"{name}.mlpackage")
            _compressed(model, configs).save(part)
            parts.add_function(part, MAIN, name)
        parts.default_function_name = spec.description.defaultFunctionName
        ct.utils.save_multifunction(parts, str(target))


def _compressed(model: Any, configs: Mapping[str, Any]) -> Any:
    from coremltools.optimize import coreml

    for action, kind in (
        (coreml.palettize_weights, coreml.OpPalettizerConfig),
        (coreml.linear_quantize_weights, coreml.OpLinearQuantizerConfig),
    ):
        chosen = {name: config for name, config in configs.items() if isinstance(config, kind)}
        if chosen:
            before, config = model, coreml.OptimizationConfig(op_name_configs=chosen)
            model = action(before, config)
            shutil.rmtree(before.package_path)
    return model


def _alone(spec: Any, name: str) -> Any:
    """The specification of one function, as the 'main' of a package without others."""
    alone = type(spec)()
    alone.CopyFrom(spec)
    described = next(f for f in spec.description.functions if f.name == name)
    del alone.description.functions[:]
    alone.description.defaultFunctionName = ""
    alone.description.input.extend(described.input)
    alone.description.output.extend(described.output)
    alone.mlProgram.functions.clear()
    alone.mlProgram.functions[MAIN].CopyFrom(spec.mlProgram.functions[name])
    return alone


def _describe(written: Any, spec: Any, recipe: str) -> None:
    """What the source says about itself, but for its precision."""
    written.description.CopyFrom(spec.description)
    metadata = written.description.metadata
    before = metadata.userDefined["precision"]
    metadata.shortDescription = metadata.shortDescription.replace(f"({before})", f"({recipe})")
    metadata.userDefined["precision"] = recipe


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for all that coremltools leaves behind until the process ends: whole models.

    It takes no folder for them, but asks `tempfile` for one: while this lasts, and no longer, that
    gives places in here.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        before, tempfile.tempdir = tempfile.tempdir, scratch
        try:
            yield Path(scratch)
        finally:
            tempfile.tempdir = before


def _one_thread() -> Any:
    """k-means adds up in the order in which threads come: bytes would differ between runs."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)
