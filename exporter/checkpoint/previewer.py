"""The previewer's file: convolutions, each but the last with GELU and a batch norm behind it.

`blocks.N.…` of one `Sequential`: at every third place a convolution of an odd kernel, or one of 2x2
that doubles the sides; two places on, its norm. The public file is Stable Cascade's
previewer.safetensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.checkpoint import ranges as r
from exporter.checkpoint.layer_shapes import LayerShapes, Shape, norm_shapes
from runtimes.errors import UsageError

_KIND = "a previewer"
_EACH = 3  # convolution, GELU, norm
_MOST_DOUBLINGS = 6  # three in the public one


@dataclass(frozen=True)
class PreviewLayer:
    """A convolution at `blocks.{at}`; `doubles`: a transposed one of 2x2, stride 2.

    `normed`: GELU and a batch norm follow.
    """

    at: int
    c_in: int
    c_out: int
    kernel: int
    doubles: bool
    normed: bool

    @property
    def name(self) -> str:
        return f"blocks.{self.at}"

    @property
    def norm(self) -> str:
        """The name of the norm behind it."""
        return f"blocks.{self.at + 2}"


@dataclass(frozen=True)
class PreviewConfig:
    """What a file's names and shapes say: its convolutions in order."""

    layers: tuple[PreviewLayer, ...]

    @property
    def c_latent(self) -> int:
        """Channels of the latents that it reads."""
        return self.layers[0].c_in

    @property
    def scale(self) -> int:
        """Pixels per cell."""
        return int(2 ** sum(layer.doubles for layer in self.layers))


def read_previewer(shapes: Mapping[str, Shape], where: str) -> PreviewConfig:
    """The config of a file with tensors of these shapes. UsageError naming what does not fit."""
    found = LayerShapes(where, _KIND, shapes)
    places = found.count("blocks.", _EACH * r.MOST_BLOCKS)
    if places % _EACH != 1 or "blocks.0.weight" not in shapes:
        raise UsageError(
            f"{where} is no previewer, whose weights are 'blocks.0.weight' and on, a convolution "
            "at every third place and the last; the public file is previewer.safetensors"
        )
    c_in = found.kernel("blocks.0")[1]
    layers = []
    for at in range(0, places, _EACH):
        layers.append(_layer(found, at, c_in, normed=at < places - 1))
        c_in = layers[-1].c_out
    config = PreviewConfig(tuple(layers))
    if c_in != 3:
        raise UsageError(f"{where} gives {c_in} channels; a picture has 3")
    if sum(layer.doubles for layer in layers) > _MOST_DOUBLINGS:
        raise UsageError(
            f"{where} makes {config.scale} x {config.scale} pixels of a cell: too many"
        )
    return config


def _layer(found: LayerShapes, at: int, c_in: int, *, normed: bool) -> PreviewLayer:
    kernel = found.kernel(f"blocks.{at}")
    doubles = kernel[2] == 2
    if not doubles:
        kernel = found.odd_kernel(f"blocks.{at}")
    # A transposed convolution's weight has its input channels first.
    c_out = kernel[1] if doubles else kernel[0]
    return PreviewLayer(at, c_in, c_out, kernel[2], doubles, normed)


def previewer_shapes(config: PreviewConfig) -> dict[str, Shape]:
    """Every weight that a file of this config must have."""
    items: list[tuple[str, Shape]] = []
    for layer in config.layers:
        channels = (layer.c_in, layer.c_out) if layer.doubles else (layer.c_out, layer.c_in)
        items.append((f"{layer.name}.weight", (*channels, layer.kernel, layer.kernel)))
        items.append((f"{layer.name}.bias", (layer.c_out,)))
        if layer.normed:
            items += norm_shapes(layer.norm, layer.c_out)
    return dict(items)
