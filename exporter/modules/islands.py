"""What computes in fp32 inside an fp16 module, and how to have less of it.

Only Core ML exports choose: its Neural Engine has fp16 alone, so that each island is a change of
device. Which ones can go was searched (docs/quantization.md); an fp32 module has none.
"""

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn

Island = Literal["norm", "grn", "softmax", "stream", "end"]
# Norms over channels and of the text; GlobalResponseNorm's squares, sums and factors; attention's
# softmax; the residual stream and the timestep's product with it; epsilon's norm, projection and
# quotient.
ISLANDS: tuple[Island, ...] = ("norm", "grn", "softmax", "stream", "end")
SMALLEST = 2.0**-14  # the least number that fp16 has all its digits for


class WithIslands(nn.Module):
    """A module that computes some of what it does in fp32: all of `ISLANDS`, unless told."""

    islands: Collection[Island] = ISLANDS

    def widened(self, x: Tensor, island: Island) -> Tensor:
        """`x` in fp32 where this module has that island, else in the type it has."""
        return x.float() if island in self.islands else x


def keep_islands(module: nn.Module, islands: Collection[Island]) -> None:
    """Compute nothing in fp32 but what is named; for modules in fp16."""
    for part in module.modules():
        if isinstance(part, WithIslands):
            part.islands = islands


def half_norm(x: Tensor, axis: int, eps: float) -> Tensor:
    """Layer norm over an axis without its affine part, of numbers that fp16 holds.

    Squares are of shares of the largest value, whatever that is: the scale falls out again.
    """
    centred = x - x.mean(dim=axis, keepdim=True)
    share = inverse(centred.abs().amax(dim=axis, keepdim=True) + SMALLEST)
    squares = (centred * share).square().mean(dim=axis, keepdim=True)
    deviation = torch.rsqrt(squares + (share * eps**0.5).square())
    return centred * (deviation * share)


def inverse(x: Tensor) -> Tensor:
    """1 / x of positive numbers; coremltools 9 divides in fp32, and its inverse adds 1e-4 to x."""
    return torch.rsqrt(x).square()


SAFE, LEAST = "safe", "least"
# What each graph keeps by the name of `--islands`; a graph that is not named keeps nothing.
SETS: dict[str, dict[str, tuple[Island, ...]]] = {
    SAFE: dict.fromkeys(
        ("text_encoder", "decoder_text_encoder", "stage_c", "stage_b", "stage_a"), ISLANDS
    ),
    LEAST: {"stage_c": ("stream", "end"), "stage_b": ("end",)},
}
