"""The interpreter as an engine: the program of a saved .mlpackage, operation by operation."""

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from runtimes.bundle.manifest import Graph
from runtimes.engines.base import Feeds, Placement, Tensors
from runtimes.engines.coreml import Shapes, computed_precision, coreml_input, function_for
from runtimes.errors import RunError, one_line
from validation.mil.compressed import COMPRESSED
from validation.mil.operations import OPERATIONS
from validation.mil.program import Constant, Function, Operation, Value, read_program

VARIADIC = {"concat": "values", "stack": "values"}  # the parameters that take several tensors
Environment = dict[str, Constant]
_KNOWN: dict[str, Callable[..., Any]] = OPERATIONS | COMPRESSED


class MilEngine:
    """One package, on the CPU in PyTorch. What a device would compute, it does not say."""

    def __init__(self, path: Path, graph: Graph) -> None:
        start = time.perf_counter()
        functions = read_program(path)
        for function in functions.values():
            check_operations(function)
        self._functions = {name: widened(function) for name, function in functions.items()}
        self._shapes: dict[str, Shapes] = {
            name: {value.name: value.shape for value in function.inputs}
            for name, function in self._functions.items()
        }
        self._outputs = [tensor.name for tensor in graph.outputs]
        precision = computed_precision(graph.precision)
        name = f"MIL interpreter (no Core ML), PyTorch {torch.__version__}"
        self.placement = Placement(name, "CPU", precision)
        self.load_seconds = time.perf_counter() - start

    def run(self, feeds: Feeds) -> Tensors:
        return self.bind({})(feeds)

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        def run(feeds: Feeds) -> Tensors:
            arguments = {name: coreml_input(v) for name, v in {**constants, **feeds}.items()}
            function = self._functions[function_for(self._shapes, arguments)]
            outputs = interpret(function, {k: torch.tensor(v) for k, v in arguments.items()})
            return {name: outputs[name].numpy() for name in self._outputs}

        return run

    def close(self) -> None:
        self._functions = {}


def check_operations(function: Function) -> None:
    """RunError when a function has an operation that the interpreter does not know."""
    unknown = sorted({o.kind for o in function.operations} - _KNOWN.keys())
    if unknown:
        raise RunError(
            f"the interpreter does not know the MIL operation {', '.join(unknown)}; add it to "
            "validation/mil/operations.py with a test"
        )


def widened(function: Function) -> Function:
    """The function with its compressed weights as plain constants: computed once, not per run."""
    constants, rest = dict(function.constants), []
    for operation in function.operations:
        if operation.kind in COMPRESSED:
            constants.update(_run(operation, constants))
        else:
            rest.append(operation)
    return replace(function, constants=constants, operations=tuple(rest))


@torch.inference_mode()
def interpret(function: Function, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run a function on its inputs. RunError names the operation that fails, or whose result has
    another type or shape than the program declares."""
    values: Environment = dict(function.constants)
    for declared in function.inputs:
        values[declared.name] = _checked("input", declared, feeds[declared.name])
    last_use = {
        name: index
        for index, operation in enumerate(function.operations)
        for names in operation.inputs.values()
        for name in names
    }
    kept = {*function.outputs, *function.constants}
    for index, operation in enumerate(function.operations):
        values.update(_run(operation, values))
        for name in {name for names in operation.inputs.values() for name in names} - kept:
            if last_use[name] == index:
                del values[name]
    return {name: value for name, value in values.items() if name in function.outputs}  # type: ignore[misc]


def _run(operation: Operation, values: Environment) -> dict[str, Constant]:
    compute, variadic = _KNOWN[operation.kind], VARIADIC.get(operation.kind)
    arguments: dict[str, Constant | list[Constant]] = {}
    for parameter, names in operation.inputs.items():
        passed = [values[name] for name in names]
        arguments[parameter] = passed if parameter == variadic else passed[0]
    try:
        inspect.signature(compute).bind(**arguments)
        results = compute(**arguments)
    except (RunError, RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
        what = one_line(error)
        raise RunError(f"MIL operation {operation.kind} '{operation.name}': {what}") from error
    results = results if isinstance(results, tuple) else (results,)
    return {
        declared.name: _checked(operation.kind, declared, value)
        for declared, value in zip(operation.outputs, results, strict=True)
    }


def _checked(kind: str, declared: Value, result: torch.Tensor) -> torch.Tensor:
    if result.dtype != declared.dtype or tuple(result.shape) != declared.shape:
        actual = Value(declared.name, result.dtype, tuple(result.shape))
        raise RunError(f"MIL {kind} '{declared.name}' is {actual}, the program declares {declared}")
    return result
