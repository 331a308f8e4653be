"""What a checkpoint would cost, from its configs alone: parameters, bytes, FLOPs, memory, disk.

The export-form modules run on PyTorch's meta device, where tensors have shapes and no memory.
"""

import math
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from exporter.checkpoint.compressor import compressor_shapes
from exporter.checkpoint.open import Checkpoint
from exporter.checkpoint.previewer import previewer_shapes
from exporter.checkpoint.shapes import (
    Shapes,
    stage_a_decoder_shapes,
    stage_b_shapes,
    stage_c_shapes,
    text_shapes,
)
from exporter.dimensions import example_inputs, make_static, named_sizes
from exporter.graphs import GraphPlan, default_modules, plan_graphs, plan_pictures
from exporter.sampling import sampling
from runtimes.bundle.manifest import PICTURE_GRAPHS, Sampling
from runtimes.dimensions import HEIGHT, WIDTH, sizes_at
from runtimes.sizes import Sizes, sizes


@dataclass(frozen=True)
class GraphCost:
    """One graph: its parameters, FLOPs of one run, and bytes of weights plus live activations.

    `runs` is how often it runs for a picture made of a prompt.
    """

    name: str
    runs: int
    parameters: int
    flops: int
    peak_bytes: int


@dataclass(frozen=True)
class Inspection:
    """A checkpoint's components (parameters in the checkpoint) and what they export to."""

    components: dict[str, int]
    graphs: tuple[GraphCost, ...]
    height: int
    width: int

    @property
    def disk_bytes(self) -> dict[str, int]:
        """Size of the weights on disk per precision; conditions stay fp32 in both."""
        conditions = sum(g.parameters for g in self.graphs if g.name.endswith("_condition"))
        rest = sum(g.parameters for g in self.graphs) - conditions
        return {"fp32": 4 * (conditions + rest), "fp16": 4 * conditions + 2 * rest}


def inspect(checkpoint: Checkpoint, height: int, width: int, *, text: bool) -> Inspection:
    """Costs of one picture of height x width pixels, guidance as by default, no weights read.

    The picture side's graphs do not run where a picture is made of a prompt alone.
    """
    constants = sampling(checkpoint, height, width)
    picture_sizes = sizes(height, width, constants)
    graphs = []
    plans = [*plan_graphs(checkpoint, "nchw", text=text), *plan_pictures(checkpoint, "nchw")]
    named = default_modules(checkpoint)
    for plan in (plan for plan in plans if plan.name in named):
        denoiser = {"stage_c": constants.stage_c, "stage_b": constants.stage_b}.get(plan.name)
        runs = len(denoiser.schedule) if denoiser else int(plan.name not in PICTURE_GRAPHS)
        graphs.append(_cost(one_picture(plan, constants, picture_sizes), runs))
    return Inspection(_components(checkpoint), tuple(graphs), *picture_sizes.picture)


def one_picture(plan: GraphPlan, constants: Sampling, picture: Sizes) -> GraphPlan:
    """The plan at the sizes of one picture, guidance as by default."""
    return make_static(plan, named_sizes(plan, 1, constants, picture))


def peak_bytes(plan: GraphPlan) -> int:
    """Bytes of a static graph's weights in fp32 plus its live activations."""
    module = plan.meta_module().requires_grad_(False)
    with torch.device("meta"), _LiveBytes(module) as live:
        _run(module, plan)
    return live.peak


def activations(plan: GraphPlan, default: Sizes) -> tuple[float, ...]:
    """Bytes one row of the batch keeps alive: in any case, per position of its latents, per pair.

    Counted as fp32 at about half the default sides, at these, and at twice; attention's scores are
    what grows with the square. Empty for graphs without latents. Of a picture, positions are those
    of the latents that are made of it.
    """
    if all(tensor.name not in ("latents", "image") for tensor in plan.inputs):
        return ()
    # In steps of what Stage B's levels divide by; a step at least, for the smallest of models.
    steps = max(min(default.latent(plan.name)) // plan.multiple, 2)
    sides = [n * plan.multiple for n in (steps // 2, steps, 2 * steps)]
    positions = [float(side**2) for side in sides]
    counted = [float(_bytes(plan, side, default)) for side in sides]
    powers = np.vander(positions, increasing=True)
    factors = np.linalg.solve(powers, np.array(counted))
    # Less than a byte at the largest size is the solver's rounding, which differs between machines.
    return tuple(
        float(x) if x * positions[-1] ** power >= 1 else 0.0 for power, x in enumerate(factors)
    )


def _bytes(plan: GraphPlan, side: int, default: Sizes) -> int:
    named = sizes_at(plan.name, 1, default) | {HEIGHT: side, WIDTH: side}
    return peak_bytes(make_static(plan, named)) - 4 * graph_parameters(plan)


def graph_parameters(plan: GraphPlan) -> int:
    """Parameters of a graph in export form."""
    return sum(parameter.numel() for parameter in plan.meta_module().parameters())


def count(shapes: Shapes) -> int:
    """Parameters in a table of shapes."""
    return sum(math.prod(shape) for shape in shapes.values())


def _components(checkpoint: Checkpoint) -> dict[str, int]:
    compressor, preview = checkpoint.compressor, checkpoint.preview
    components = {
        "text_encoder": count(text_shapes(checkpoint.text_encoder.config)),
        "stage_c": count(stage_c_shapes(checkpoint.stage_c.config)),
        "decoder_text_encoder": count(text_shapes(checkpoint.decoder_text_encoder.config)),
        "stage_b": count(stage_b_shapes(checkpoint.stage_b.config)),
        "stage_a": count(stage_a_decoder_shapes(checkpoint.stage_a.config)),
    }
    if compressor is not None:
        components["compressor"] = count(compressor_shapes(compressor.config))
    if preview is not None:
        components["preview"] = count(previewer_shapes(preview.config))
    return components


def _cost(plan: GraphPlan, runs: int) -> GraphCost:
    module = plan.meta_module().requires_grad_(False)
    live = _LiveBytes(module)
    with torch.device("meta"), FlopCounterMode(display=False) as flops, live:
        _run(module, plan)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return GraphCost(plan.name, runs, parameters, flops.get_total_flops(), live.peak)


def _run(module: nn.Module, plan: GraphPlan) -> None:
    with torch.no_grad():
        module(*(tensor.to("meta") for tensor in example_inputs(plan)))


class _LiveBytes(TorchDispatchMode):
    """Bytes of a module's weights and the tensors alive at once, by their storages' lifetimes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._seen: set[int] = set()
        for parameter in module.parameters():
            self._track(parameter.untyped_storage())

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._track(value.untyped_storage())
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
