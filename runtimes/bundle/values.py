"""The one table of what a manifest's values may be, with the reason for each limit.

Names of types for the fields of manifest.py and host.py. A limit is far above what any checkpoint
of this family has, and below what would take a host's memory or time.
"""

from typing import Annotated

from runtimes.bundle.ranges import Entries, Items, OneOf, Range, Text

# No control characters: names end in messages, which are one line.
_LINE = "[^\\u0000-\\u001f\\u007f\\u2028\\u2029]*"
Name = Annotated[str, Text(1, 500, _LINE)]  # of a tensor, weight or tool; PyTorch's have up to 100
Words = Annotated[str, Text(0, 2000, _LINE)]  # what may be left empty: reasons, licences
# Beside another, so no path, and not "..".
FileName = Annotated[str, Text(1, 255, "[0-9A-Za-z_.+-]*[0-9A-Za-z_+-]")]
# Whether it leads out is asked of the disk; a star names no file to ONNX Runtime.
FilePath = Annotated[str, Text(1, 500, _LINE.replace("[^", "[^*"))]
RawText = Annotated[str, Text(0, 2000)]  # tokens and patterns, which may hold any character
Sha256 = Annotated[str, Text(64, 64, "[0-9a-f]{64}")]
Origin = Annotated[str, Text(0, 64, "(?:[0-9a-f]{64})?")]  # '': an export that did not say
DType = Annotated[str, OneOf(("float32", "float16", "int64", "int32"))]

# The largest picture anybody makes has 16,384 pixels a side; a side's square fits 32 bits.
Side = Annotated[int, Range(1, 65_535)]
# Sizes of fixed axes: channels, text positions, embeddings.
Axis = Annotated[int, Range(1, 1 << 24)]
# As runtimes.dimensions reads it: 'batch', '4*height', 'height/4'. A divisor of 0 would divide.
_NAMED = "(?:batch|height|width|embedding_height|embedding_width)"
Dimension = Annotated[str, Text(1, 40, f"(?:[1-9][0-9]{{0,4}}\\*)?{_NAMED}(?:/[1-9][0-9]{{0,4}})?")]
Dimensions = Annotated[tuple[Axis | Dimension, ...], Items(1, 8)]  # the batch axis at least
Channels = Annotated[int, Range(1, 65_536)]

# Stage C's cells are 42.67 pixels wide and 10.67 of Stage B's; the rest are toys.
Ratio = Annotated[float, Range(0.01, 10_000)]
# `nearest_valid` walks through multiples of it.
Multiple = Annotated[int, Range(1, 1_024)]
Scale = Annotated[int, Range(1, 1_024)]
Latent = Annotated[float, Range(-1e6, 1e6)]  # mean and spread: 42 and 1 in the public model
# From t = 1 to 0; what is below 0 or above 1 has no place on the schedule.
Time = Annotated[float, Range(0, 1)]
# A run of 1,000 steps takes hours; ten times that are no default schedule.
Times = Annotated[tuple[Time, ...], Items(2, 10_001)]
OneAStep = Items(1, 10_000)
Steps = Annotated[int, Range(1, 10_000)]
Coefficient = Annotated[float, Range(-1e6, 1e6)]  # clamped shares make them 1e4 at most
Offset = Annotated[float, Range(0, 10)]  # `s`: 0.008 everywhere; below 0 the cosine turns
Exponent = Annotated[float, Range(0, 100, above=True)]  # `scaler`: 1 everywhere
Guidance = Annotated[float, Range(0, 1_000)]  # pictures are made with 20 at most
Frequency = Annotated[float, Range(0, 1)]
Frequencies = Annotated[tuple[Frequency, ...], Items(1, 8_192)]
Padding = Annotated[int, Range(0, 1)]  # of a timestep embedding of odd width
SineCosine = Annotated[tuple[Annotated[float, Range(-1, 1)], ...], Items(2, 16_385)]

# CLIP's is 77, its start and its end among them; longer ones are repeated for every picture.
TextLength = Annotated[int, Range(2, 65_536)]
TokenId = Annotated[int, Range(0, (1 << 24) - 1)]  # vocabularies have up to some 300,000
Seed = Annotated[int, Range(-(1 << 63), (1 << 64) - 1)]  # as PyTorch takes it
Decibels = Annotated[float, Range(-1_000, 1_000)]  # fp64 has 308
Error = Annotated[float, Range(0, 1e6)]
Strength = Annotated[float, Range(-1e6, 1e6)]  # the weight of an adapter
Bytes = Annotated[int, Range(0, 1 << 50)]
Activation = Annotated[float, Range(0, 1e15)]  # bytes
Activations = Annotated[tuple[Activation, ...], Items(0, 3, only=(0, 3))]
Count = Annotated[int, Range(0, 1 << 31)]
Version = Annotated[int, Range(1, 1_000)]  # of operator sets and of ONNX's IR
Bits = Annotated[int, Range(1, 64)]
# From indices of one bit to fp32; scales of tiny weights may take more than the weights.
AverageBits = Annotated[float, Range(0.1, 64)]
Number = Annotated[float, Range(-1e6, 1e6)]
Factor = Annotated[int, Range(1, 1 << 31)]
# Red, green and blue of a cell: a weight a channel and a constant; none where nothing was fitted.
LinearPreview = Annotated[
    tuple[Annotated[tuple[Number, ...], Items(2, 65_537)], ...], Items(0, 3, only=(0, 3))
]

# Of a tensor that a graph stores: engines take fewer axes, and machines hold less.
MOST_AXES, MOST_SIZE = 16, 1 << 48

# How many of a thing there are. Fewer than this many tensors, tokens or files in any model.
Few = Items(0, 1_000)
Some = Items(1, 1_000)
Many = Items(0, 100_000)  # weights and nodes of a graph: some 3,000 in the public Stage C
FewNamed = Entries(0, 1_000)
ManyNamed = Entries(1, 10_000)  # files of a bundle
