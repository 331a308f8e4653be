"""One graph to a Core ML package (ML Program) through torch.export.

The program computes in the types of the PyTorch module: after `module.half()`, everything heavy
runs in fp16, while GlobalResponseNorm, norms, softmax, the residual stream and the denoisers' end
stay fp32 by their own `.float()`, those that `keep_islands` left. So coremltools is asked for fp32,
which means: change no types.

Several picture sizes become one function each, static, in one package with the weights shared.
Enumerated shapes do not work: coremltools 9 takes them for Stage B's several related inputs, but
folds sizes that are numbers inside the graph, the resize's scale, to a constant NaN.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporter.dimensions import example_inputs, make_static
from exporter.graphs import GraphPlan
from runtimes.bundle.coreml import quiet, rewrite
from runtimes.bundle.manifest import Tensor as TensorSpec
from runtimes.engines.coreml import import_coremltools
from runtimes.errors import UsageError

PACKAGE_NAME = "model.mlpackage"
# ML Programs with typed operator parameters start at iOS 17; iPadOS goes by iOS.
TARGETS = ("iOS17", "iOS18", "iOS26", "macOS14", "macOS15", "macOS26")
DEFAULT_TARGET = "iOS17"
# Packages of several functions came with iOS 18.
FUNCTIONS_TARGETS = ("iOS18", "iOS26", "macOS15", "macOS26")
_aten = torch.ops.aten
MAIN = "main"  # the function of a package that has one
_DTYPES = {"int64": np.int32, "float32": np.float32}  # Core ML has no int64 inputs
# coremltools' notes that differ from day to day.
_VOLATILE = ("com.github.apple.coremltools.conversion_date",)


def check_target(target: str, *, sizes: int = 1) -> None:
    """UsageError for an unknown deployment target, or one that does not take that many sizes.

    Also when coremltools is not installed: nothing can be exported then.
    """
    if target not in TARGETS:
        raise UsageError(f"--deployment-target {target}: there are {', '.join(TARGETS)}")
    if sizes > 1 and target not in FUNCTIONS_TARGETS:
        raise UsageError(
            f"--deployment-target {target} takes one picture size; several need one of "
            f"{', '.join(FUNCTIONS_TARGETS)}"
        )
    import_coremltools()


def write_coreml(
    plan: GraphPlan,
    module: nn.Module,
    folder: Path,
    *,
    license: str,
    metadata: Mapping[str, str],
    target: str = DEFAULT_TARGET,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
) -> Path:
    """Write `module` as `folder/model.mlpackage` and return that path.

    Inputs and outputs are fp32, token ids and masks int32. Without `sizes`, `plan` must be static.
    With them, each is a function of that name, its values those of the plan's named dimensions;
    the first is the default, and a graph that is the same at all sizes has one function, 'main'.
    `metadata` goes into the package's user-defined metadata.
    """
    folder.mkdir(parents=True)
    path = folder / PACKAGE_NAME
    plans = {name: make_static(plan, named) for name, named in (sizes or {}).items()}
    if len({(static.inputs, static.outputs) for static in plans.values()}) < 2:
        plans = {MAIN: next(iter(plans.values()), plan)}
        spec = _convert(plans[MAIN], module, path, target)
    else:
        spec = _convert_functions(plans, module, path, target)
    _describe(spec, plans, precision_of(module), license, metadata)
    rewrite(path, spec)
    return path


def precision_of(module: nn.Module) -> str:
    """'fp16' or 'fp32', by a module's weights; one without any computes in fp32."""
    first = next(module.parameters(), None)
    return "fp16" if first is not None and first.dtype == torch.float16 else "fp32"


def _convert(plan: GraphPlan, module: nn.Module, path: Path, target: str) -> Any:
    """Write one static program and return its specification."""
    ct = import_coremltools()
    inputs = tuple(
        value.int() if value.dtype == torch.int64 else value for value in example_inputs(plan)
    )
    with quiet(), torch.no_grad():
        program = torch.export.export(module, inputs).run_decompositions(DECOMPOSITIONS)
        model = ct.convert(
            program,
            inputs=[ct.TensorType(t.name, t.shape, _DTYPES[t.dtype]) for t in plan.inputs],
            outputs=[ct.TensorType(t.name) for t in plan.outputs],
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            convert_to="mlprogram",
            skip_model_load=True,
            package_dir=str(path),
        )
    return model.get_spec()


def _convert_functions(
    plans: Mapping[str, GraphPlan], module: nn.Module, path: Path, target: str
) -> Any:
    """Write one package with a static program per plan and return its specification."""
    ct = import_coremltools()
    functions = ct.utils.MultiFunctionDescriptor()
    with tempfile.TemporaryDirectory(dir=path.parent) as parts:
        for name, plan in plans.items():
            part = Path(parts) / f"{name}.mlpackage"
            _convert(plan, module, part, target)
            functions.add_function(str(part), MAIN, name)
        functions.default_function_name = next(iter(plans))
        with quiet():
            ct.utils.save_multifunction(functions, str(path))
    return ct.utils.load_spec(str(path))


def _describe(
    spec: Any,
    plans: Mapping[str, GraphPlan],
    precision: str,
    license: str,
    metadata: Mapping[str, str],
) -> None:
    """Fill in what Xcode shows and a host reads: license, descriptions, user-defined metadata.

    `plans` has the static graph of each function; `metadata` comes on top of `graph`, `precision`
    and `functions` (JSON: the functions' inputs and outputs with name, dtype and shape).
    """
    graph = next(iter(plans.values())).name
    notes = spec.description.metadata
    for key in _VOLATILE:
        notes.userDefined.pop(key, None)
    notes.shortDescription = f"Wuerstchen, graph {graph} ({precision})"
    notes.author = "wuerstchen-export"
    notes.license = license
    functions = {
        name: {"inputs": _listed(plan.inputs), "outputs": _listed(plan.outputs)}
        for name, plan in plans.items()
    }
    described = {"graph": graph, "precision": precision, "functions": json.dumps(functions)}
    notes.userDefined.update({**described, **metadata})


def _listed(tensors: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    return [{**vars(tensor), "dtype": np.dtype(_DTYPES[tensor.dtype]).name} for tensor in tensors]


def _typed(operator: Any) -> Callable[..., Tensor]:
    """The operator with a number as its second argument in the first one's type."""

    def decomposed(x: Tensor, other: Tensor | float, **options: Any) -> Tensor:
        if isinstance(other, Tensor) or x.dtype != torch.float16:
            return NotImplemented
        return operator(x, torch.full((), other, dtype=x.dtype), **options)

    return decomposed


# PyTorch operators that coremltools 9 does not take, or would run in another type; given to
# ExportedProgram.run_decompositions with each program, where NotImplemented leaves one as it is.
#
# coremltools types a Python number as fp32 and promotes the fp16 tensor beside it, and with it
# all that follows: the attention's `query * scale` would make the product with the keys fp32. Here
# such a number takes the tensor's type, so that the program has the types of the PyTorch module.
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    _aten.__and__.Tensor: torch.logical_and,
    **{
        operator: _typed(operator)
        for operator in (
            _aten.add.Tensor,
            _aten.sub.Tensor,
            _aten.mul.Tensor,
            _aten.div.Tensor,
        )
    },
}
