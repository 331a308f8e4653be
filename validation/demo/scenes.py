"""Scenes of one to three coloured shapes: what can be in a picture, and how it is said.

A scene is plain data. `drawing.py` turns it into pixels, `caption` into a prompt. Combinations
that `is_held_out` names never enter training, so that the demo model is scored on what it has
not seen.
"""

import hashlib
from dataclasses import dataclass
from itertools import combinations

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SIZES = ("small", "large")
BACKGROUNDS = ("white", "black", "gray", "pink")
# Row-major over a 3 x 3 grid of the picture.
PLACES = (
    "at the top left",
    "at the top",
    "at the top right",
    "on the left",
    "in the middle",
    "on the right",
    "at the bottom left",
    "at the bottom",
    "at the bottom right",
)
HELD_OUT_FRACTION = 10  # one combination in ten


@dataclass(frozen=True)
class Thing:
    """One shape of a scene, its attributes as indices into the tuples above."""

    shape: int
    colour: int
    size: int
    place: int


@dataclass(frozen=True)
class Scene:
    """Things in distinct places on a background, in the order a caption names them."""

    things: tuple[Thing, ...]
    background: int


def _bucket(*key: object) -> int:
    """A stable bucket in [0, HELD_OUT_FRACTION): `hash()` differs between processes."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") % HELD_OUT_FRACTION


def is_held_out(scene: Scene) -> bool:
    """Whether training must not see this scene.

    A single thing is held out by its four attributes; several things are held out when any two
    of their colour + shape pairs are one of the held-out combinations, so that such a pair of
    things never shares a training picture.
    """
    if len(scene.things) == 1:
        thing = scene.things[0]
        return _bucket("one", thing.shape, thing.colour, thing.size, thing.place) == 0
    pairs = sorted((thing.shape, thing.colour) for thing in scene.things)
    return any(_bucket("two", first, second) == 0 for first, second in combinations(pairs, 2))


def sample_scene(rng: np.random.Generator, *, held_out: bool, most_things: int = 3) -> Scene:
    """Draw a scene that is held out of training, or one that is not."""
    while True:
        count = int(rng.integers(1, most_things + 1))
        places = rng.choice(len(PLACES), size=count, replace=False)
        things = tuple(
            Thing(
                shape=int(rng.integers(len(SHAPES))),
                colour=int(rng.integers(len(COLOURS))),
                size=int(rng.integers(len(SIZES))),
                place=int(place),
            )
            for place in places
        )
        scene = Scene(things, int(rng.integers(len(BACKGROUNDS))))
        if is_held_out(scene) == held_out:
            return scene


def describe(thing: Thing, *, size: bool = True, place: bool = True) -> str:
    """One thing in words: 'a large red circle on the left'."""
    words = [SIZES[thing.size]] * size + [COLOURS[thing.colour], SHAPES[thing.shape]]
    words += [PLACES[thing.place]] * place
    return " ".join(["an" if words[0] == "orange" else "a", *words])


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """The scene in words; with `rng`, sizes, places and the background are left out at times."""

    def said(chance: float) -> bool:
        return rng is None or rng.random() < chance

    say_size, say_place = said(0.7), said(0.85)
    parts = [describe(thing, size=say_size, place=say_place) for thing in scene.things]
    text = " and ".join(parts)
    return f"{text} on a {BACKGROUNDS[scene.background]} background" if said(0.7) else text


def held_out_scenes(count: int, seed: int = 0, most_things: int = 2) -> list[Scene]:
    """The fixed evaluation list: `count` different held-out scenes of one or two things."""
    rng = np.random.default_rng(seed)
    scenes: dict[Scene, None] = {}
    while len(scenes) < count:
        scenes[sample_scene(rng, held_out=True, most_things=most_things)] = None
    return list(scenes)
