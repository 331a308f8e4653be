"""Who is timed: PyTorch eager, and each engine at each precision this machine has."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from runtimes.engine import Engine, Execution, Tensors, engine_for
from runtimes.errors import RunError, UsageError
from validation.bench.cases import Case

Run = Callable[[], Tensors]


@dataclass(frozen=True)
class Contender:
    """A way to run a case: `prepare` gives a call that runs it once, and releases it after."""

    name: str
    prepare: Callable[[Case], contextlib.AbstractContextManager[Run]]


def contenders(report: Callable[[str], None]) -> list[Contender]:
    """All that this machine has, PyTorch first; what it has not is reported with the reason."""
    found = [Contender("PyTorch fp32", _eager), Contender("PyTorch bf16 autocast", _autocast)]
    for name, execution in EXECUTIONS.items():
        try:
            engine_for("onnx", execution.engine).check(execution)
        except UsageError as error:
            report(f"without {name}: {error}")
            continue
        found.append(Contender(name, _on(execution)))
    return found


EXECUTIONS = {
    "ONNX Runtime fp32": Execution(engine="onnxruntime"),
    "OpenVINO f32": Execution(engine="openvino", precision="f32"),
    "OpenVINO bf16": Execution(engine="openvino", precision="bf16"),
    "OpenVINO f16": Execution(engine="openvino", precision="f16"),
}


@contextlib.contextmanager
def _eager(case: Case) -> Iterator[Run]:
    inputs = [torch.from_numpy(case.feeds[t.name]) for t in case.file.graph.inputs]

    def run() -> Tensors:
        with torch.inference_mode():
            outputs = case.module(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        names = [tensor.name for tensor in case.file.graph.outputs]
        return {name: value.float().numpy() for name, value in zip(names, outputs, strict=True)}

    yield run


@contextlib.contextmanager
def _autocast(case: Case) -> Iterator[Run]:
    with _eager(case) as eager:

        def run() -> Tensors:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return eager()

        yield run


def _on(execution: Execution) -> Callable[[Case], contextlib.AbstractContextManager[Run]]:
    @contextlib.contextmanager
    def prepare(case: Case) -> Iterator[Run]:
        engine: Engine = engine_for("onnx", execution.engine).open(case.file, execution)
        steady = {k: v for k, v in case.feeds.items() if k not in ("latents", "timestep_embedding")}
        bound = engine.bind(steady)
        fed = {name: value for name, value in case.feeds.items() if name not in steady}
        try:
            yield lambda: bound(fed)
        except UsageError as error:  # a precision that this very graph does not get
            raise RunError(str(error)) from error
        finally:
            engine.close()

    return prepare
