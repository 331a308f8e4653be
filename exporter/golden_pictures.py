"""What the golden run's own picture and latents give in the picture side's graphs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.checkpoint.compressor import CompressorConfig
from runtimes.engines.base import Tensors

if TYPE_CHECKING:
    from exporter.graphs import GraphPlan

Values = NDArray[np.float32]
# Of the variance of a channel, for as many cells as channels: how much a weight costs in the fit.
# It keeps weights small where there are few cells: of the demo's 36 it gives up 1.6 dB of 41.6 on
# the picture that was fitted. On five other pictures it changes nothing, for better or worse.
RIDGE = 0.1


def picture_tensors(
    plans: "Sequence[GraphPlan]", latents: Values, image: Values
) -> Iterator[tuple[str, Tensors]]:
    """Inputs and outputs of each graph, by its name.

    `latents` (1,C,h,w) are Stage C's last, `image` (1,3,H,W) the picture that was made of them. The
    compressor reads it as large as its stride makes Stage C's cells.
    """
    import torch

    from exporter.torch_engine import TorchGraphs

    graphs = TorchGraphs(plans)
    for plan in plans:
        feeds: Tensors = {"image": image}
        if plan.name == "preview":
            feeds = {"latents": latents}
        elif isinstance(plan.component.config, CompressorConfig):
            stride = plan.component.config.stride
            size = [stride * side for side in latents.shape[2:]]
            resized = torch.nn.functional.interpolate(
                torch.from_numpy(image), size=size, mode="bilinear", antialias=True
            )
            feeds = {"image": resized.numpy()}
        engine = graphs.open(plan.name)
        try:
            yield plan.name, feeds | engine.run(feeds)
        finally:
            engine.close()


def linear_preview(latents: Values, image: Values) -> tuple[tuple[float, ...], ...]:
    """Red, green and blue as sums of the channels of a cell: (3, C + 1), the constant last.

    Least squares over the mean colours of the cells of all pictures: latents (B,C,h,w), pictures
    (B,3,H,W) in 0..1. The fewer cells there are, the more large weights
    cost: `RIDGE`.
    """
    import torch

    height, width = latents.shape[2:]
    colours = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(image), (height, width))
    x, y = (np.moveaxis(values, 1, -1).reshape(-1, values.shape[1]).astype(np.float64)
            for values in (latents, colours.numpy()))  # fmt: skip
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x, y = x - x_mean, y - y_mean
    cells, channels = x.shape
    penalty = RIDGE * channels / cells * np.mean(x * x) + 1e-12
    weights = np.linalg.solve(x.T @ x / cells + penalty * np.eye(channels), x.T @ y / cells)
    constant = y_mean - x_mean @ weights
    # Six digits, so that the manifest does not depend on the machine's last bits.
    rows = np.concatenate([weights, constant[None]]).T
    return tuple(tuple(float(f"{value:.6g}") for value in row) for row in rows)
