"""PyTorch's own ways to run the public module: eager fp32, bf16 autocast, torch.compile."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from runtimes.engine import Tensors
from validation.bench.cases import Case, named
from validation.bench.ready import Ready


@contextlib.contextmanager
def eager(case: Case) -> Iterator[Ready]:
    """The yardstick: the module as it is, fp32."""
    yield _ready(case, case.module, "f32")


@contextlib.contextmanager
def autocast(case: Case) -> Iterator[Ready]:
    """The same under torch.autocast, which picks what is computed in bf16."""

    def module(*inputs: torch.Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return case.module(*inputs)

    yield _ready(case, module, "bf16")


@contextlib.contextmanager
def compiled(case: Case) -> Iterator[Ready]:
    """torch.compile with its defaults; the first run compiles."""
    try:
        yield _ready(case, torch.compile(case.module), "f32")
    finally:
        torch.compiler.reset()


def why_not_compiled() -> str | None:
    """The reason why torch.compile does not work here, such as no C++ compiler; None if it does."""
    try:
        torch.compile(torch.sin)(torch.ones(3))
    except Exception as error:  # whatever the compiler's own tools raise
        return _one_line(error)
    return None


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _ready(case: Case, module: Callable[..., Any], precision: str) -> Ready:
    def run() -> Tensors:
        with torch.inference_mode():
            return named(case.file.graph, module(*case.inputs))

    return Ready(run, lambda: precision, case.module_flops)
