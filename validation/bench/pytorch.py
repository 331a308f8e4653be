"""PyTorch's own ways to run the public module: eager, rounded, bf16 autocast, torch.compile."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

from runtimes.engines.base import Tensors
from validation.bench.cases import Case, named
from validation.bench.ready import Prepare, Ready

NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def eager(device: str) -> Prepare:
    """The yardstick: the module as it is, fp32."""

    @contextlib.contextmanager
    def prepare(case: Case) -> Iterator[Ready]:
        with _on(case, device, torch.float32) as (module, inputs):
            yield _ready(case, module, inputs, "f32")

    return prepare


def rounded(device: str, dtype: torch.dtype) -> Prepare:
    """The module with its weights and inputs in another type, as diffusers' torch_dtype has it."""

    @contextlib.contextmanager
    def prepare(case: Case) -> Iterator[Ready]:
        with _on(case, device, dtype) as (module, inputs):
            yield _ready(case, module, inputs, NAMES[dtype])

    return prepare


@contextlib.contextmanager
def autocast(case: Case) -> Iterator[Ready]:
    """Under torch.autocast, on the CPU; it picks what is computed in bf16."""

    def module(*inputs: torch.Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return case.module(*inputs)

    yield _ready(case, module, case.inputs, "bf16")


def compiled(device: str, dtype: torch.dtype) -> Prepare:
    """torch.compile with its defaults; the first run compiles."""

    @contextlib.contextmanager
    def prepare(case: Case) -> Iterator[Ready]:
        with _on(case, device, dtype) as (module, inputs):
            try:
                yield _ready(case, torch.compile(module), inputs, NAMES[dtype])
            finally:
                torch.compiler.reset()

    return prepare


def why_not_compiled(device: str) -> str | None:
    """The reason why torch.compile does not work here, such as no C++ compiler; None if it does."""
    try:
        torch.compile(torch.sin)(torch.ones(3, device=device))
    except Exception as error:  # whatever the compiler's own tools raise
        return _one_line(error)
    return None


@contextlib.contextmanager
def _on(
    case: Case, device: str, dtype: torch.dtype
) -> Iterator[tuple[torch.nn.Module, tuple[torch.Tensor, ...]]]:
    """The case's module and inputs on a device, in a type; a copy, unless that is what they are."""
    if (device, dtype) == ("cpu", torch.float32):
        yield case.module, case.inputs
        return
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, as in our graphs
    module = copy.deepcopy(case.module).to(device, dtype)
    moved = tuple(x.to(device, dtype if x.is_floating_point() else x.dtype) for x in case.inputs)
    yield module, moved


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _ready(
    case: Case, module: Callable[..., Any], inputs: tuple[torch.Tensor, ...], precision: str
) -> Ready:
    def run() -> Tensors:
        with torch.inference_mode():
            return named(case.file.graph, module(*inputs))

    return Ready(run, lambda: precision, case.module_flops)
