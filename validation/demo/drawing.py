"""Draw a scene as pixels, antialiased, from signed distances; NumPy only."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from validation.demo.scenes import Scene

Array = NDArray[np.floating]

SIDE = 128  # pixels
COLOUR_RGB = np.array(
    [(220, 40, 40), (245, 140, 25), (245, 215, 45), (45, 165, 70), (45, 90, 220), (140, 60, 180)],
    dtype=np.float32,
)
BACKGROUND_RGB = np.array(
    [(250, 250, 250), (20, 20, 24), (128, 128, 128), (250, 190, 205)], dtype=np.float32
)
RADIUS = ((9.5, 11.5), (16.0, 19.0))  # pixels, per size
JITTER = 3.0  # pixels around the middle of the place


def _circle(x: Array, y: Array, r: float) -> Array:
    return np.hypot(x, y) - r


def _square(x: Array, y: Array, r: float) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88 * r


def _polygon(x: Array, y: Array, corners: Array) -> Array:
    """Signed distance to a closed polygon, by the distance to edges and the crossing number."""
    distance = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, np.hypot(x - ax - along * ex, y - ay - along * ey))
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / ey + ax)
    return np.where(inside, -distance, distance).astype(np.float32)


def _regular(count: int, radii: tuple[float, ...]) -> Array:
    angle = np.arange(count) * (2 * np.pi / count) - np.pi / 2
    radius = np.resize(radii, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def _triangle(x: Array, y: Array, r: float) -> Array:
    return _polygon(x, y - 0.2 * r, _regular(3, (1.15 * r,)))


def _star(x: Array, y: Array, r: float) -> Array:
    return _polygon(x, y, _regular(10, (1.15 * r, 0.48 * r)))


def _cross(x: Array, y: Array, r: float) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - 0.33 * r, np.maximum(x, y) - r)


def _ring(x: Array, y: Array, r: float) -> Array:
    return np.abs(np.hypot(x, y) - 0.78 * r) - 0.24 * r


# In the order of scenes.SHAPES.
_DISTANCES: tuple[Callable[[Array, Array, float], Array], ...] = (
    _circle,
    _square,
    _triangle,
    _star,
    _cross,
    _ring,
)


def draw(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of the scene, uint8 (SIDE, SIDE, 3); `rng` jitters place and size."""
    picture = np.broadcast_to(BACKGROUND_RGB[scene.background], (SIDE, SIDE, 3)).copy()
    centres = (np.arange(SIDE) + 0.5).astype(np.float32)
    for thing in scene.things:
        row, column = divmod(thing.place, 3)
        cx, cy = (np.array([column, row]) + 0.5) * (SIDE / 3) + rng.uniform(-JITTER, JITTER, 2)
        radius = rng.uniform(*RADIUS[thing.size])
        x, y = np.meshgrid(centres - cx, centres - cy)
        cover = np.clip(0.5 - _DISTANCES[thing.shape](x, y, radius), 0, 1)[..., None]
        picture += cover * (COLOUR_RGB[thing.colour] - picture)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
