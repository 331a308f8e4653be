"""The graph formats behind one call: write a graph's file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.checkpoint.weights import Deferred
from exporter.graphs import GraphPlan
from exporter.modules.islands import Island, keep_islands
from exporter.modules.layout import Layout


@dataclass(frozen=True)
class Target:
    """What a graph is written as; `license` and `metadata` go into formats that have a place.

    `fused_attention`: ONNX, the denoisers' attention as one operator each. `islands`: Core ML in
    fp16, what the graph computes in fp32.

    `sizes` has the named dimensions' values for each of several fixed sizes in one file, by name.
    """

    precision: str
    static: bool
    license: str
    metadata: Mapping[str, str]
    deployment_target: str
    fused_attention: bool
    islands: tuple[Island, ...]
    sizes: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Backend:
    """One format: how a graph is written, and what is fixed about it.

    `layout` was measured on its engine (docs/performance.md); `layouts` has the precisions that
    take another. `always_static`: its graphs have fixed sizes. `ids`: the integer type of token
    ids. `packages`: what writing needs. `precisions`: what it can be exported in.
    """

    write: Callable[[GraphPlan, Deferred, Path, Target], Path]
    layout: Layout
    precision: str
    packages: tuple[str, ...] = ()
    extra: str = "export"
    always_static: bool = False
    ids: str = "int64"
    precisions: tuple[str, ...] = ("fp32", "fp16")
    layouts: Mapping[str, Layout] = field(default_factory=dict)

    def layout_of(self, precision: str) -> Layout:
        """The memory layout of graphs in a precision."""
        return self.layouts.get(precision, self.layout)


def _onnx(plan: GraphPlan, deferred: Deferred, folder: Path, target: Target) -> Path:
    from exporter.formats.onnx import write_onnx

    if target.precision == "fp16":
        deferred.module.half()  # norms, softmax and the last division stay fp32 by themselves
    fused = target.fused_attention
    return write_onnx(plan, deferred, folder, static=target.static, fused_attention=fused)


def _openvino(plan: GraphPlan, deferred: Deferred, folder: Path, target: Target) -> Path:
    from exporter.formats.openvino import write_openvino

    # fp16 is the type of the stored weights: what is computed in which type is the device's affair.
    compress = target.precision == "fp16"
    return write_openvino(plan, deferred, folder, static=target.static, compress_to_fp16=compress)


def _coreml(plan: GraphPlan, deferred: Deferred, folder: Path, target: Target) -> Path:
    from exporter.formats.coreml import write_coreml

    metadata = dict(target.metadata)
    if target.precision == "fp16":
        keep_islands(deferred.module.half(), target.islands)
        metadata["islands"] = " ".join(target.islands) or "none"
    return write_coreml(
        plan,
        deferred.load(),
        folder,
        license=target.license,
        metadata=metadata,
        target=target.deployment_target,
        sizes=target.sizes,
    )


def _executorch(plan: GraphPlan, deferred: Deferred, folder: Path, target: Target) -> Path:
    from exporter.formats.executorch import write_executorch

    dynamic = target.precision == "int8-dynamic"
    return write_executorch(plan, deferred.load(), folder, dynamic=dynamic)


def _litert(plan: GraphPlan, deferred: Deferred, folder: Path, target: Target) -> Path:
    from exporter.formats.litert import write_litert

    return write_litert(plan, deferred.load(), folder)


BACKENDS = {
    "onnx": Backend(_onnx, "nchw", "fp32"),
    "openvino": Backend(_openvino, "nchw", "fp32", ("openvino",), "openvino"),
    "coreml": Backend(
        _coreml, "nchw", "fp16", ("coremltools",), "coreml", always_static=True, ids="int32"
    ),
    "executorch": Backend(
        *(_executorch, "nchw", "fp32", ("executorch",), "executorch"),
        always_static=True,
        precisions=("fp32", "int8-dynamic"),
        # Only matrix products have activations with a scale for each position.
        layouts={"int8-dynamic": "nhwc"},
    ),
    "litert": Backend(
        *(_litert, "nchw", "fp32", ("litert_torch",), "litert-export"),
        always_static=True,
        ids="int32",
        precisions=("fp32",),
    ),
}
