"""Rendered scenes with captions: one or two coloured shapes, each a pure function of its index.

    image, caption, scene = shapes.example(7)
    batch = shapes.batch(np.arange(64), size=64)      # {"image", "caption", "shape", ...}

A scene has one object, or two in a relation; an object is one of 5 shapes in one of 8 colours and 3
sizes. Its caption is one of 5 sentence forms that say all of it. Five of the 40 pairs of shape and
colour are held out by rule (`HELD_OUT`): no scene shows one unless `held_out` asks for them, and
then every object is one of the five: what does a model make of a pair that it has never seen?
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from library import checks

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = {
    "red": (230, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 80, 240),
    "yellow": (250, 220, 30),
    "purple": (150, 50, 200),
    "orange": (250, 130, 20),
    "cyan": (40, 210, 220),
    "white": (245, 245, 245),
}
SIZES = {"small": 0.135, "medium": 0.18, "large": 0.235}  # radius over the image's side
RELATIONS = ("left of", "right of", "above", "below")
PIXELS = (32, 64)  # sides of the images

# One colour a shape: the pairs (shape, colour) with 3 shape + colour = 7 modulo 8.
HELD_OUT = tuple((shape, (7 - 3 * shape) % 8) for shape in range(len(SHAPES)))
_PAIRS = tuple(
    (shape, colour)
    for shape in range(len(SHAPES))
    for colour in range(len(COLOURS))
    if (shape, colour) not in HELD_OUT
)

_ONE = (
    "a {size} {colour} {shape}",
    "{article} {colour} {shape} that is {size}",
    "there is a {size} {colour} {shape}",
    "a picture of a {size} {colour} {shape}",
    "one {shape}, {size} and {colour}",
)
_TWO = (
    "{a} {relation} {b}",
    "there is {a} {relation} {b}",
    "a picture of {a} {relation} {b}",
    "{a} is {relation} {b}",
    "{b}, and {relation} it {a}",
)
NUM_FORMS = len(_ONE)

_JITTER = 0.05  # of a radius
_ACROSS = 0.1  # how far either of two objects may be off the line of their relation
_MARGIN = 0.02  # between an object and the border, or the middle


@dataclasses.dataclass(frozen=True)
class Object:
    """One object, by numbers into `SHAPES`, `COLOURS` and `SIZES`.

    Attributes:
        shape, colour, size: the numbers.
        x, y: its centre, from the left and from the top, in units of the image's side.
        radius: of the circle around it, in the same units.
    """

    shape: int
    colour: int
    size: int
    x: float
    y: float
    radius: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """What an image shows.

    Attributes:
        objects: one or two.
        relation: of the first to the second, a number into `RELATIONS`; None for one object.
        form: of the sentence, 0 to 4.
    """

    objects: tuple[Object, ...]
    relation: int | None
    form: int


def example(
    index: int,
    size: int = 32,
    *,
    num_objects: int | None = None,
    held_out: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, str, Scene]:
    """The image, caption and scene of one index.

    Args:
        index: any whole number from 0 on; train and test are ranges of it.
        size: pixels of a side, 32 or 64.
        num_objects: 1 or 2; None leaves it to the index.
        held_out: draw the pairs that are held out, instead of the others.
        seed: of another set of scenes.
    Returns:
        [size, size, 3] uint8, the caption, and the `Scene`.
    Raises:
        ValueError: for a negative index, another size or number of objects.
    """
    drawn = scene(index, num_objects=num_objects, held_out=held_out, seed=seed)
    return render([drawn], size)[0], caption(drawn), drawn


def batch(
    indices: Sequence[int] | np.ndarray,
    size: int = 32,
    *,
    num_objects: int | None = None,
    held_out: bool = False,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The examples of many indices; arguments as `example`.

    Returns:
        "image" [B, size, size, 3] uint8; "caption" [B] str; "shape", "colour", "size" [B, 2] int,
        -1 for the second of one object; "relation" [B] int, -1 for one object.
    Raises:
        ValueError: as `example`, or for no index.
    """
    scenes = [
        scene(index, num_objects=num_objects, held_out=held_out, seed=seed)
        for index in np.asarray(indices).tolist()
    ]
    if not scenes:
        raise ValueError("indices: got none, expected at least one")

    def numbers(name: str) -> np.ndarray:
        rows = [[getattr(each, name) for each in drawn.objects] for drawn in scenes]
        return np.asarray([row + [-1] * (2 - len(row)) for row in rows])

    return {
        "image": render(scenes, size),
        "caption": np.asarray([caption(drawn) for drawn in scenes]),
        **{name: numbers(name) for name in ("shape", "colour", "size")},
        "relation": np.asarray(
            [-1 if drawn.relation is None else drawn.relation for drawn in scenes]
        ),
    }


def scene(
    index: int, *, num_objects: int | None = None, held_out: bool = False, seed: int = 0
) -> Scene:
    """The scene of an index; arguments and errors as `example`."""
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or index < 0:
        raise ValueError(f"index={index!r}: expected a whole number >= 0")
    if num_objects not in (None, 1, 2):
        raise ValueError(f"num_objects={num_objects}: expected 1, 2 or None")
    bits = np.random.Philox(key=[seed, held_out], counter=[0, index, 0, 0])
    u = np.random.Generator(bits).random(16)
    num = 1 + int(u[0] < 0.5) if num_objects is None else num_objects
    relation = int(len(RELATIONS) * u[1]) if num == 2 else None
    objects = tuple(_object(u[3 + 6 * i : 9 + 6 * i], relation, i, held_out) for i in range(num))
    return Scene(objects, relation, int(NUM_FORMS * u[2]))


def caption(scene: Scene) -> str:
    """The sentence of a scene."""
    words = [_words(each) for each in scene.objects]
    if scene.relation is None:
        return _ONE[scene.form].format(**words[0])
    a, b = ("a {size} {colour} {shape}".format(**each) for each in words)
    return _TWO[scene.form].format(a=a, b=b, relation=RELATIONS[scene.relation])


def render(scenes: Sequence[Scene], size: int = 32) -> np.ndarray:
    """Images [B, size, size, 3] uint8 of scenes, on black; the share of a pixel is its brightness.

    Raises:
        ValueError: for a size that is not 32 or 64.
    """
    if checks.count("size", size, of="pixels") not in PIXELS:
        raise ValueError(f"size={size}: expected one of {', '.join(map(str, PIXELS))} pixels")
    images = np.zeros((len(scenes), size, size, 3), np.float32)
    palette = np.asarray(list(COLOURS.values()), np.float32)
    for number in range(2):
        for shape in range(len(SHAPES)):
            rows = [
                (row, drawn.objects[number])
                for row, drawn in enumerate(scenes)
                if number < len(drawn.objects) and drawn.objects[number].shape == shape
            ]
            if not rows:
                continue
            where = [row for row, _ in rows]
            cover = _cover(shape, [each for _, each in rows], size)[..., None]
            colours = palette[[each.colour for _, each in rows]][:, None, None]
            images[where] = images[where] * (1 - cover) + colours * cover
    return np.rint(images).astype(np.uint8)


def _words(one: Object) -> dict[str, str]:
    colour = list(COLOURS)[one.colour]
    return {
        "article": "an" if colour[0] in "aeiou" else "a",
        "size": list(SIZES)[one.size],
        "colour": colour,
        "shape": SHAPES[one.shape],
    }


def _object(u: np.ndarray, relation: int | None, number: int, held_out: bool) -> Object:
    """An object from six uniform numbers; the number says which of the two sides it takes."""
    pairs = HELD_OUT if held_out else _PAIRS
    shape, colour = pairs[int(len(pairs) * u[0])]
    size = int(len(SIZES) * u[1])
    radius = list(SIZES.values())[size] * (1 + _JITTER * (2 * u[2] - 1))
    low, high = radius + _MARGIN, 1 - radius - _MARGIN
    x, y = low + (high - low) * u[3], low + (high - low) * u[4]
    if relation is not None:
        near = number if relation in (1, 3) else 1 - number  # 0: the right or lower half
        start = 0.5 * (1 - near)
        along = start + radius + (0.5 - 2 * radius) * u[5]
        across = 0.5 + _ACROSS * (2 * u[3] - 1)
        x, y = (along, across) if relation < 2 else (across, along)
    return Object(shape, colour, size, float(x), float(y), float(radius))


def _cover(shape: int, objects: Sequence[Object], size: int) -> np.ndarray:
    """[N, size, size], the share of each pixel that lies in the shape, by its signed distance."""
    x, y, radius = (
        np.asarray([getattr(each, name) for each in objects])[:, None, None] * size
        for name in ("x", "y", "radius")
    )
    places = np.arange(size) + 0.5
    across, down = places[None, None, :] - x, places[None, :, None] - y
    return np.clip(0.5 - _DISTANCES[shape](across, down, radius), 0, 1).astype(np.float32)


def _circle(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.92 * r


def _square(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) - 0.82 * r


def _triangle(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Its point up: three half planes at a third of a turn, at half the radius."""
    sides = [np.sin(a) * x + np.cos(a) * (y - 0.15 * r) for a in 2 * np.pi / 3 * np.arange(3)]
    return np.maximum.reduce(sides) - 0.56 * r


def _star(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Five points: in the fifth of a turn around each point, the edge to the inner corner."""
    inner = 0.42
    angle = np.abs((np.arctan2(x, -y) / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * (2 * np.pi / 5)
    far = np.hypot(x, y)
    along, beside = far * np.cos(angle), far * np.sin(angle)
    corner = inner * np.cos(np.pi / 5), inner * np.sin(np.pi / 5)
    normal = np.array([corner[1], 1 - corner[0]]) / np.hypot(corner[1], 1 - corner[0])
    return normal[0] * (along - r) + normal[1] * beside


def _cross(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Two bars."""
    arm, half = 0.95 * r, 0.3 * r
    bars = [np.maximum(abs(a) - arm, abs(b) - half) for a, b in ((x, y), (y, x))]
    return np.minimum(*bars)


_DISTANCES = (_circle, _square, _triangle, _star, _cross)
