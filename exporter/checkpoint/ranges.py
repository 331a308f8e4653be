"""The one table of what numbers a checkpoint's configs may hold, with the reason for each limit.

Names of types for the fields of configs.py, open.py and lora_config.py. A limit is far above what
any checkpoint of this family has, and low enough that the tables of weights which follow from a
config, and modules without weights, are made in seconds.
"""

from typing import Annotated, Any

from runtimes.bundle import values
from runtimes.bundle.ranges import Entries, Items, OneOf, Range, Text
from runtimes.bundle.typed_json import decode
from runtimes.errors import RunError, UsageError

# The public checkpoint's widest layer has 5,120.
Width = Annotated[int, Range(1, 65_536)]
Channels = Annotated[int, Range(1, 4_096)]  # of latents and embeddings of pictures: 4 and 16
# Of a timestep embedding: 64. A sine and a cosine for each of at least two frequencies.
TimestepWidth = Annotated[int, Range(4, 16_384)]
Heads = Annotated[int, Range(1, 1_024)]
HeadsOrNone = Annotated[int, Range(-1, 1_024)]  # -1: a level without attention
Blocks = Annotated[int, Range(1, 128)]  # 16 at most; a hundred take a second to put together
MOST_BLOCKS = 512  # of all levels together: 74
Factor = Annotated[int, Range(1, 8)]  # of pixels: 2; with as many levels as there may be, 1,024
Kernel = Annotated[int, Range(1, 63)]  # 3
Levels = Annotated[int, Range(1, 8)]  # each halves the sides: 4
A_LEVEL = Items(1, 8)  # values, one a level
# Blocks of a level: CTA.
Kinds = Annotated[str, Text(1, 6, "[CTA]*")]
ScaleFactor = Annotated[float, Range(0, 1e6, above=True)]
Rows = Annotated[int, Range(1, 1 << 20)]  # of a table of embeddings: 49,408
# A square of them is every attention's: 77, in models of longer prompts 248.
Positions = Annotated[int, Range(2, 4_096)]
Activation = Annotated[str, OneOf(("gelu", "quick_gelu"))]
Epsilon = Annotated[float, Range(0, 1)]
Offset = Annotated[float, Range(0, 1, above=True)]  # `s`: 0.008
Exponent = values.Exponent
Positive = Annotated[float, Range(0, 1e6, above=True)]  # what multiplies latents: 42

# Of an embedding, each a token: a prompt holds 75. Its word ends in messages and in the manifest.
Vectors = Annotated[int, Range(1, 100)]
Token = Annotated[str, Text(1, 200, "[^\\u0000-\\u001f\\u007f\\u2028\\u2029]*")]
Rank = Annotated[int, Range(1, 65_536)]  # of an adapter
MOST_STRENGTH = 1e6
Strength = Annotated[float, Range(-MOST_STRENGTH, MOST_STRENGTH)]
# Of single layers: the public prior and its text encoder have some 500.
Ranks = Annotated[dict[str, Rank], Entries(0, 2_000)]
Strengths = Annotated[dict[str, Strength], Entries(0, 2_000)]


def checked(kind: Any, value: Any, where: str) -> Any:
    """A value from JSON, if it is of a type and within its range; UsageError says what is wrong."""
    try:
        return decode(kind, value, where)
    except RunError as error:
        raise UsageError(str(error)) from None
