"""How much of a graph a phone's accelerators take, by ONNX Runtime's own checker.

It asks for each node whether its operator is on the accelerator's list, its shapes are fixed and
its ranks small enough; that a driver takes a node is not tried. It has no list for XNNPACK.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
from onnxruntime.tools.mobile_helpers import usability_checker

from exporter.mobile.optimised import write_optimised
from runtimes.bundle.manifest import Quantization

_CHECKS = {
    "NNAPI": usability_checker.check_nnapi_partitions,
    "Core ML NeuralNetwork": partial(
        usability_checker.check_coreml_partitions,
        config_filename="coreml_supported_neuralnetwork_ops.md",
    ),
    "Core ML MLProgram": partial(
        usability_checker.check_coreml_partitions,
        config_filename="coreml_supported_mlprogram_ops.md",
    ),
}


@dataclass(frozen=True)
class Support:
    """What an accelerator takes of a graph: `supported` of `nodes`, in so many `partitions`.

    The others: for their `operators`, for shapes that are not known (`open_shapes`), or for ranks.
    `verdict` is the checker's: YES, MAYBE or NO.
    """

    nodes: int
    supported: int
    partitions: int
    operators: tuple[str, ...]
    open_shapes: int
    ranks: int
    verdict: str


def support(graph: Path, done: Quantization | None, scratch: Path) -> dict[str, Support]:
    """By accelerator, of the graph as ONNX Runtime hands it over: at the level 'basic'."""
    basic = scratch / "basic.onnx"
    write_optimised(graph, basic, "basic", done)
    model = onnx.load(basic, load_external_data=False)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return {name: _support(check(model, True)) for name, check in _CHECKS.items()}


def as_json(found: dict[str, Support]) -> dict[str, dict[str, object]]:
    """For `mobile.json`."""
    return {name: dataclasses.asdict(value) for name, value in found.items()}


def _support(found: usability_checker.PartitioningInfo) -> Support:
    return Support(
        nodes=found.num_nodes,
        supported=found.num_supported_nodes,
        partitions=found.num_partitions,
        operators=tuple(sorted(found.unsupported_ops)),
        open_shapes=found.nodes_unsupported_due_to_dynamic_input,
        ranks=found.num_unsupported_nodes_due_to_rank,
        verdict=found.suitability().name,
    )
