"""Who is timed: PyTorch, plain exports of its modules, and our graphs on every engine."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from runtimes.bundle.manifest import Tensor
from runtimes.bundle.read import Bundle
from runtimes.engines.base import Execution, GraphFile, Tensors
from runtimes.engines.table import ENGINES, graph_file
from runtimes.errors import RunError, UsageError
from validation.bench import plain, pytorch
from validation.bench.cases import Case
from validation.bench.devices import DEVICES, Device
from validation.bench.ready import Prepare, Ready
from validation.bench.settings import Report, Settings

# Copies of the weights: an engine's own layout and part of the file; a plain export leaves its
# exporter's copies besides. At full size, groups that add up to 25 GB peaked at 21 and 25.
ENGINE_COPIES, PLAIN_COPIES = 1.5, 2.5


@dataclass(frozen=True)
class Contender:
    """A way to run a case: `prepare` gives what runs it, and releases it after.

    `copies` of the weights are held besides PyTorch's. A `peer` is somebody else's way: where it
    fails on a graph it is left out, and that is said.
    """

    name: str
    prepare: Prepare
    takes: Callable[[Case], bool] = lambda case: True
    copies: float = 0.0
    peer: bool = False


@dataclass(frozen=True)
class Source:
    """Graphs of one backend: what their rows start with, and the file for a case, if it has one."""

    label: str
    backend: str
    file: Callable[[Case], GraphFile | None]


def own_graphs() -> Source:
    """The ONNX graphs that the cases are made of."""
    return Source("", "onnx", lambda case: case.file)


def graphs_of(bundle: Bundle) -> Source:
    """Another bundle's graphs, called by the name of its folder."""

    def file(case: Case) -> GraphFile | None:
        if case.name not in bundle.manifest.graphs:
            return None
        return graph_file(bundle, case.name)

    return Source(f"{bundle.folder.name}: ", bundle.manifest.backend, file)


def contenders(sources: Sequence[Source], settings: Settings) -> list[Contender]:
    """All that this machine has, the yardstick first; what it has not is reported, and why."""
    without, report = settings.without, settings.report
    device = DEVICES[settings.device]
    entries = _pytorch(device, settings)
    if "plain" not in without and device.name == "cpu":
        for name, prepare in plain.peers(report).items():
            entries.append(Contender(name, prepare, lambda case: case.public, PLAIN_COPIES, True))
    executions = available(device, {source.backend for source in sources}, without, report)
    for source in sources:
        for name, execution in executions.items():
            if source.backend in ENGINES[execution.engine or ""].backends:
                prepare, takes = _on(source, execution), _takes(source)
                entries.append(Contender(f"{source.label}{name}", prepare, takes, ENGINE_COPIES))
    return entries


def _pytorch(device: Device, settings: Settings) -> list[Contender]:
    """PyTorch's own ways to run a module on the device, eager fp32 first."""
    entries = [Contender("PyTorch eager", pytorch.eager(device.name))]
    if device.autocast and "autocast" not in settings.without:
        entries.append(Contender("PyTorch bf16 autocast", pytorch.autocast, peer=True))
    for name, dtype in device.rounded.items():
        entries.append(Contender(name, pytorch.rounded(device.name, dtype), peer=True))
    if "compile" not in settings.without:
        reason = pytorch.why_not_compiled(device.name)
        if reason is None:
            compiled = pytorch.compiled(device.name, device.compiled)
            entries.append(Contender("torch.compile", compiled, peer=True))
        else:
            settings.report(f"without torch.compile: {reason}")
    return entries


def available(
    device: Device, backends: set[str], without: Sequence[str], report: Report
) -> Mapping[str, Execution]:
    """The executions for these backends that this machine has, those of `without` left out."""
    executions = {}
    for name, execution in device.executions.items():
        kind = ENGINES[execution.engine or ""]
        if execution.engine in without or not backends & set(kind.backends):
            continue
        try:
            kind.check(execution)
        except UsageError as error:
            report(f"without {name}: {error}")
        else:
            executions[name] = execution
    return executions


def _takes(source: Source) -> Callable[[Case], bool]:
    """Whether it has the graph; UsageError, before anything runs, where that takes other inputs."""

    def takes(case: Case) -> bool:
        file = source.file(case)
        if file is not None:
            _check_shapes(file, case)
        return file is not None

    return takes


def _on(source: Source, execution: Execution) -> Prepare:
    @contextlib.contextmanager
    def prepare(case: Case) -> Iterator[Ready]:
        file = source.file(case)
        assert file is not None
        engine = ENGINES[execution.engine or ""].open_graph(file, execution)
        steady = {k: v for k, v in case.feeds.items() if k not in ("latents", "timestep_embedding")}
        bound = engine.bind(steady)
        fed = {name: value for name, value in case.feeds.items() if name not in steady}

        def run() -> Tensors:
            try:
                return bound(fed)
            except UsageError as error:  # a precision that this very graph does not get
                raise RunError(str(error)) from error

        try:
            yield Ready(
                run,
                lambda: engine.placement.precision,
                case.cost.flops,
                lambda: engine.placement.notes,
            )
        finally:
            engine.close()

    return prepare


def _check_shapes(file: GraphFile, case: Case) -> None:
    """UsageError where a graph does not take the case's inputs: another model's, or fixed sizes."""

    def fits(tensor: Tensor) -> bool:
        shape = case.feeds[tensor.name].shape if tensor.name in case.feeds else ()
        pairs = list(zip(tensor.shape, shape, strict=False))
        return len(pairs) == len(shape) == len(tensor.shape) and all(
            isinstance(dimension, str) or dimension == size for dimension, size in pairs
        )

    for tensor in file.graph.inputs:
        if not fits(tensor):
            raise UsageError(
                f"{file.path}: '{tensor.name}' is {tensor.shape}, which does not take the inputs "
                "of the graph it is compared with; give bundles of one model, of the same or of "
                "open sizes"
            )
