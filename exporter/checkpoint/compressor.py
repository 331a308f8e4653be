"""The semantic compressor's file: an EfficientNet's features, a 1x1 convolution, a batch norm.

Its names are those of torchvision's `efficientnet_v2_s().features` under `backbone.`; names and
shapes say what the network is, all but the strides. The public file is Stable Cascade's
effnet_encoder.safetensors.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exporter.checkpoint import ranges as r
from exporter.checkpoint.layer_shapes import LayerShapes, Shape, norm_shapes
from runtimes.errors import UsageError

STRIDES = "strides"  # in the file's metadata: '2,1,2,2,2', the stem's and one a stage
# EfficientNetV2-S, which has six stages: torchvision's `_efficientnet_conf`.
_V2_S_STRIDES = (2, 1, 2, 2, 2, 1, 2)
_MOST_STAGES = 30  # seven in the largest that there is
_KIND = "an EfficientNet as torchvision names it"


@dataclass(frozen=True)
class Convolution:
    """A convolution with a batch norm and no bias; `activated`: SiLU follows."""

    name: str
    c_in: int
    c_out: int
    kernel: int
    stride: int = 1
    depthwise: bool = False
    activated: bool = True

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Its weight and its norm's."""
        c_in = 1 if self.depthwise else self.c_in
        yield f"{self.name}.0.weight", (self.c_out, c_in, self.kernel, self.kernel)
        yield from norm_shapes(f"{self.name}.1", self.c_out)


@dataclass(frozen=True)
class Squeeze:
    """Squeeze-and-excitation over `width` channels, through `inner` ones."""

    name: str
    width: int
    inner: int

    @property
    def c_out(self) -> int:
        return self.width

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Two 1x1 convolutions with biases."""
        for part, c_out, c_in in (("fc1", self.inner, self.width), ("fc2", self.width, self.inner)):
            yield f"{self.name}.{part}.weight", (c_out, c_in, 1, 1)
            yield f"{self.name}.{part}.bias", (c_out,)


@dataclass(frozen=True)
class Block:
    """Layers one behind the other; `residual`: what they read is added to what they give."""

    layers: tuple[Convolution | Squeeze, ...]
    residual: bool


@dataclass(frozen=True)
class CompressorConfig:
    """What a file's names, shapes and metadata say. `normalised`: it has the picture's mean, std.

    `affine`: the mapper's norm has a scale and a shift, which the public one has not.
    """

    blocks: tuple[Block, ...]
    strides: tuple[int, ...]
    width: int
    c_latent: int
    affine: bool
    normalised: bool

    @property
    def stride(self) -> int:
        """Pixels per cell of the image embedding."""
        return math.prod(self.strides)


def read_compressor(
    shapes: Mapping[str, Shape], metadata: Mapping[str, str], where: str
) -> CompressorConfig:
    """The config of a file with tensors of these shapes. UsageError naming what does not fit."""
    layers = LayerShapes(where, _KIND, shapes)
    stages = layers.count("backbone.", _MOST_STAGES) - 2
    if stages < 1 or "mapper.0.weight" not in shapes:
        raise UsageError(
            f"{where} is no semantic compressor, whose weights are 'backbone.0.0.weight' and on "
            "and 'mapper.0.weight'; the public file is effnet_encoder.safetensors"
        )
    strides = _strides(metadata, stages, where)
    stem = layers.odd_kernel("backbone.0.0")
    blocks = [Block((Convolution("backbone.0", 3, stem[0], stem[2], strides[0]),), False)]
    width, count = stem[0], 0
    for stage in range(1, stages + 1):
        prefix = f"backbone.{stage}."
        here = layers.count(prefix, r.MOST_BLOCKS - count)
        count += here
        for i in range(max(here, 1)):
            stride = strides[stage] if i == 0 else 1
            blocks.append(_block(layers, f"{prefix}{i}.block", width, stride))
            width = blocks[-1].layers[-1].c_out
    name = f"backbone.{stages + 1}"
    head = layers.odd_kernel(f"{name}.0")
    blocks.append(Block((Convolution(name, width, head[0], head[2]),), False))
    return CompressorConfig(
        blocks=tuple(blocks),
        strides=strides,
        width=head[0],
        c_latent=layers.kernel("mapper.0")[0],
        affine="mapper.1.weight" in shapes,
        normalised="mean" in shapes,
    )


def _strides(metadata: Mapping[str, str], stages: int, where: str) -> tuple[int, ...]:
    text = metadata.get(STRIDES)
    if text is None and stages + 1 == len(_V2_S_STRIDES):
        return _V2_S_STRIDES
    if text is None:
        raise UsageError(
            f"{where} has {stages} stages and does not say their strides: give its metadata "
            f"'{STRIDES}', the stem's and one a stage, such as '2,1,2,2,2'"
        )
    parts = text.split(",")
    if len(parts) != stages + 1 or any(part not in ("1", "2") for part in parts):
        raise UsageError(
            f"{where}: its metadata '{STRIDES}' is {text[:60]!r}, not {stages + 1} numbers of 1 "
            "and 2, the stem's and one a stage"
        )
    if parts.count("2") > 10:
        raise UsageError(f"{where}: '{STRIDES}' make cells of more than 1,024 pixels")
    return tuple(map(int, parts))


def _block(layers: LayerShapes, name: str, c_in: int, stride: int) -> Block:
    """MBConv where it squeezes, else FusedMBConv; what expands nothing has no layer for it."""
    count = layers.count(f"{name}.", 4)
    squeezes = f"{name}.{count - 2}.fc1.weight" in layers.shapes
    if not squeezes and count < 3:
        found = _fused(layers, name, count, c_in, stride)
    elif squeezes and count > 2:
        found = _squeezing(layers, name, count, c_in, stride)
    else:
        raise UsageError(f"{layers.where}: '{name}' has {count} layers; {layers.kind} has not")
    return Block(found, stride == 1 and found[-1].c_out == c_in)


def _fused(
    layers: LayerShapes, name: str, count: int, c_in: int, stride: int
) -> tuple[Convolution | Squeeze, ...]:
    first = layers.odd_kernel(f"{name}.0.0")
    found = Convolution(f"{name}.0", c_in, first[0], first[2], stride)
    if count < 2:
        return (found,)
    last = layers.odd_kernel(f"{name}.1.0")
    return found, Convolution(f"{name}.1", first[0], last[0], last[2], activated=False)


def _squeezing(
    layers: LayerShapes, name: str, count: int, c_in: int, stride: int
) -> tuple[Convolution | Squeeze, ...]:
    found: list[Convolution | Squeeze] = []
    width, at = c_in, 0
    if count == 4:
        first = layers.odd_kernel(f"{name}.0.0")
        found.append(Convolution(f"{name}.0", c_in, first[0], first[2]))
        width, at = first[0], 1
    depthwise = layers.odd_kernel(f"{name}.{at}.0")
    inner = layers.kernel(f"{name}.{at + 1}.fc1")[0]
    last = layers.odd_kernel(f"{name}.{at + 2}.0")
    found.append(Convolution(f"{name}.{at}", width, width, depthwise[2], stride, depthwise=True))
    found.append(Squeeze(f"{name}.{at + 1}", width, inner))
    found.append(Convolution(f"{name}.{at + 2}", width, last[0], last[2], activated=False))
    return tuple(found)


def compressor_shapes(config: CompressorConfig) -> dict[str, Shape]:
    """Every weight that a file of this config must have."""
    items = [pair for block in config.blocks for layer in block.layers for pair in layer.shapes()]
    items.append(("mapper.0.weight", (config.c_latent, config.width, 1, 1)))
    items += norm_shapes("mapper.1", config.c_latent, affine=config.affine)
    if config.normalised:
        items += [("mean", (3,)), ("std", (3,))]
    return dict(items)
