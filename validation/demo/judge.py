"""The judge: reads a picture of shapes back into words, and scores pictures against scenes.

The network is trained on drawings by the demo's recipe and ships as ONNX with the checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.manifest import Graph, Tensor
from runtimes.engines.base import Execution, GraphFile
from runtimes.engines.onnxruntime import OnnxRuntimeEngine
from validation.demo.drawing import SIDE
from validation.demo.scenes import Scene

JUDGE_FILE = Path(__file__).parents[2] / "exporter/demo_checkpoint/judge/model.onnx"
OUTPUTS = ("shape", "colour", "size", "background", "features")
_BATCH = 50

# Each share, and the count it is a share of.
SHARE_OF = {
    "pair": "named",
    "shape": "named",
    "colour": "named",
    "size": "pair",
    "place": "pair",
    "background": "pictures",
    "exact": "pictures",
}
COUNTS = (*SHARE_OF, "named", "pictures")


@dataclass(frozen=True)
class Readings:
    """What the judge sees per picture and place, indices (N,9); `shape` -1: an empty place."""

    shape: NDArray[np.int64]
    colour: NDArray[np.int64]
    size: NDArray[np.int64]
    background: NDArray[np.int64]
    features: NDArray[np.float32]


class Judge:
    """Reads pictures (N,128,128,3) uint8."""

    def __init__(self, path: Path = JUDGE_FILE) -> None:
        outputs = tuple(Tensor(name, "float32", ()) for name in OUTPUTS)
        inputs = (Tensor("pictures", "float32", ("batch", 3, SIDE, SIDE)),)
        graph = Graph(path.name, "fp32", inputs, outputs)
        self._engine = OnnxRuntimeEngine(GraphFile(path, graph, ""), Execution())

    def __call__(self, pictures: NDArray[np.uint8]) -> Readings:
        parts = []
        for at in range(0, len(pictures), _BATCH):
            chunk = pictures[at : at + _BATCH].transpose(0, 3, 1, 2).astype(np.float32) / 255
            parts.append(self._engine.run({"pictures": np.ascontiguousarray(chunk)}))
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS}
        return Readings(
            shape=outputs["shape"].argmax(-1) - 1,
            colour=outputs["colour"].argmax(-1),
            size=outputs["size"].argmax(-1),
            background=outputs["background"].argmax(-1),
            features=outputs["features"].astype(np.float32),
        )


def score(readings: Readings, scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares in 0..1 over everything the scenes name.

    `pair`: colour + shape found anywhere in the picture, each reading counted once; `shape` and
    `colour` likewise alone. `size` and `place`: of the pairs found, those of the right size, and
    at their place. `exact`: pictures with every pair found, nothing else, and the background
    right. `background`: over pictures.
    """
    shares_of = shares(tally(readings, scenes).sum(axis=0))
    return {name: float(share) for name, share in shares_of.items()}


def tally(readings: Readings, scenes: Sequence[Scene]) -> NDArray[np.int64]:
    """What each picture adds to `shares`: counts (N, len(COUNTS))."""
    rows = []
    for index, scene in enumerate(scenes):
        seen = np.flatnonzero(readings.shape[index] >= 0)
        shapes, colours = readings.shape[index][seen], readings.colour[index][seen]
        pairs = list(zip(shapes.tolist(), colours.tolist(), strict=True))
        wanted = [(thing.shape, thing.colour) for thing in scene.things]
        size = place = 0
        for thing in scene.things:
            spots = [
                s for s, p in zip(seen, pairs, strict=True) if p == (thing.shape, thing.colour)
            ]
            place += thing.place in spots
            size += any(readings.size[index][spot] == thing.size for spot in spots)
        background = bool(readings.background[index] == scene.background)
        counts = {
            "pair": matched(wanted, pairs),
            "shape": matched([w[0] for w in wanted], [p[0] for p in pairs]),
            "colour": matched([w[1] for w in wanted], [p[1] for p in pairs]),
            "size": size,
            "place": place,
            "background": background,
            "exact": background and sorted(pairs) == sorted(wanted),
            "named": len(wanted),
            "pictures": 1,
        }
        rows.append([int(counts[name]) for name in COUNTS])
    return np.array(rows, np.int64)


def shares(totals: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """The shares of `score` from sums of tallies (..., len(COUNTS)), each of shape (...)."""
    count = dict(zip(COUNTS, np.moveaxis(totals, -1, 0), strict=True))
    return {name: count[name] / np.maximum(count[of], 1) for name, of in SHARE_OF.items()}


def matched(wanted: Sequence[object], seen: Sequence[object]) -> int:
    """How many of `wanted` are in `seen`, each entry of `seen` used once."""
    left = list(seen)
    count = 0
    for item in wanted:
        if item in left:
            left.remove(item)
            count += 1
    return count
