"""Whether errors of a denoiser's epsilon mean anything: its last division and its activations."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_common import (
    AttnBlock,
    TimestepBlock,
)
from torch import Tensor, nn

from runtimes.bundle.manifest import DENOISERS

# Above this |b|, Stage C's division by |1 - b| may come near 0 somewhere and magnify any rounding.
LARGEST_B = 0.9
LARGEST_ACTIVATION = 1e3  # far from fp16's 65504, squares included in fp32


@dataclass
class Conditioning:
    """Epsilon divides by |1 - b| in Stage C and by sigmoid(b) in Stage B.

    `activation` is the largest of the residual stream, `rms` its root mean square at the end.
    """

    b: float = 0.0
    activation: float = 0.0
    rms: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether relative errors of epsilon say something about the graph that made it."""
        return self.b < LARGEST_B and self.rms > 0.01 and self.activation < LARGEST_ACTIVATION

    def __str__(self) -> str:
        return (
            f"|b| of epsilon's division is at most {self.b:.2f}, activations at most "
            f"{self.activation:.1f} (RMS {self.rms:.2f})"
        )


@contextlib.contextmanager
def watched(module: nn.Module, graph: str) -> Iterator[Conditioning]:
    """Fill a Conditioning while a public denoiser runs once; other modules leave it at 0."""
    conditioning = Conditioning()

    def last(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        conditioning.b = float(output.chunk(2, dim=1)[1].abs().max())

    def block(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        conditioning.activation = max(conditioning.activation, float(output.abs().max()))
        conditioning.rms = float(output.square().mean().sqrt())

    blocks = [m for m in module.modules() if isinstance(m, AttnBlock | TimestepBlock)]
    hooks = [m.register_forward_hook(block) for m in blocks]
    if graph in DENOISERS:
        projection = module.get_submodule({"stage_c": "out", "stage_b": "clf"}[graph])
        hooks.append(projection.register_forward_hook(last))
    try:
        yield conditioning
    finally:
        for hook in hooks:
            hook.remove()
