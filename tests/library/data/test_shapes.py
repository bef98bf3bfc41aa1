"""Rendered scenes: areas and places by geometry, what the caption says, rules, refusals."""

import re

import numpy as np
import pytest

from library.data import shapes
from library.data.shapes import Object, Scene

NAMES = {"shape": shapes.SHAPES, "colour": list(shapes.COLOURS), "size": list(shapes.SIZES)}
NUM = 3000


@pytest.fixture(scope="module")
def drawn():
    return shapes.batch(np.arange(NUM))


def test_an_index_is_an_example_whatever_its_batch(drawn):
    image, caption, scene = shapes.example(7)
    np.testing.assert_array_equal(image, drawn["image"][7])
    assert caption == drawn["caption"][7] == shapes.caption(scene)
    backwards = shapes.batch([9, 7])
    np.testing.assert_array_equal(backwards["image"][1], image)
    assert shapes.scene(10**12) != shapes.scene(10**12 + 1)
    assert shapes.scene(7, seed=1) != shapes.scene(7)
    # frozen: what an index gives must not change between versions
    assert caption == "there is a medium yellow triangle right of a small orange star"


def _parse(caption):
    """Objects in the order of the scene, and the relation, read from the words alone."""
    words = re.sub(r"[,.]", "", caption).split()
    found = [
        {key: names.index(word) for key, names in NAMES.items() if word in names} for word in words
    ]
    objects, current = [], {}
    for each in found:
        current |= each
        if len(current) == 3:
            objects.append(current)
            current = {}
    relation = [i for i, name in enumerate(shapes.RELATIONS) if name in caption]
    if " it " in caption:
        objects.reverse()
    return objects, relation


def test_captions_say_the_whole_scene(drawn):
    forms = set()
    for index in range(400):
        scene = shapes.scene(index)
        objects, relation = _parse(drawn["caption"][index])
        assert relation == ([] if scene.relation is None else [scene.relation])
        for said, each in zip(objects, scene.objects, strict=True):
            assert said == {key: getattr(each, key) for key in NAMES}
        forms.add((len(objects), scene.form))
    assert len(forms) == 2 * shapes.NUM_FORMS
    assert not any(re.search(r"\ba [aeiou]", caption) for caption in drawn["caption"])


def test_relations_hold_in_the_picture(drawn):
    for index in np.flatnonzero(drawn["relation"] >= 0)[:200]:
        first, second = shapes.scene(int(index)).objects
        name = shapes.RELATIONS[drawn["relation"][index]]
        lower, upper = {
            "left of": (first.x + first.radius, second.x - second.radius),
            "right of": (second.x + second.radius, first.x - first.radius),
            "above": (first.y + first.radius, second.y - second.radius),
            "below": (second.y + second.radius, first.y - first.radius),
        }[name]
        assert lower <= 0.5 + 1e-9 <= upper + 2e-9  # each in its own half
        sideways, down = abs(first.x - second.x), abs(first.y - second.y)
        assert (sideways > down) == (drawn["relation"][index] < 2)  # no other relation is meant
    for index in range(200):
        for each in shapes.scene(index).objects:
            assert each.radius < each.x + 0.02 and each.x < 1 - each.radius + 0.02


def test_every_value_has_its_share(drawn):
    """Counts within five standard deviations of a fair draw: one false alarm in a million."""
    first = {name: drawn[name][:, 0] for name in NAMES}
    pairs = np.bincount(8 * first["shape"] + first["colour"], minlength=40)
    allowed = [8 * s + c for s in range(5) for c in range(8) if (s, c) not in shapes.HELD_OUT]
    share = NUM / 35
    assert (
        np.all(abs(pairs[allowed] - share) < 5 * share**0.5) and pairs.sum() == pairs[allowed].sum()
    )
    sizes = np.bincount(first["size"])
    assert np.all(abs(sizes - NUM / 3) < 5 * (NUM * 2 / 9) ** 0.5)
    two = (drawn["relation"] >= 0).sum()
    assert abs(two - NUM / 2) < 5 * (NUM / 4) ** 0.5
    np.testing.assert_array_equal(drawn["relation"] >= 0, drawn["shape"][:, 1] >= 0)


def test_held_out_pairs_are_one_colour_a_shape():
    assert shapes.HELD_OUT == ((0, 7), (1, 4), (2, 1), (3, 6), (4, 3))
    other = shapes.batch(np.arange(300), held_out=True, num_objects=2)
    for shape, colour in zip(other["shape"].reshape(-1), other["colour"].reshape(-1)):
        assert (shape, colour) in shapes.HELD_OUT
    assert {tuple(pair) for pair in zip(other["shape"][:, 0], other["colour"][:, 0])} == set(
        shapes.HELD_OUT
    )


def test_number_of_objects():
    assert np.all(shapes.batch(np.arange(50), num_objects=1)["relation"] == -1)
    assert np.all(shapes.batch(np.arange(50), num_objects=2)["relation"] >= 0)


@pytest.mark.parametrize("size", shapes.PIXELS)
def test_areas_and_colours_are_those_of_the_shapes(size):
    """Brightness summed over a white object is its area; the star's from its ten corners."""
    r = 0.23
    angles = np.arange(10) * np.pi / 5
    corners = np.where(np.arange(10) % 2, 0.42, 1.0)[:, None] * np.stack(
        [np.sin(angles), np.cos(angles)], 1
    )
    x, y = corners.T
    star = 0.5 * abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    areas = [
        np.pi * 0.92**2,
        (2 * 0.82) ** 2,
        3 * 3**0.5 * 0.56**2,
        star,
        4 * 0.3 * 0.95 * 2 - 4 * 0.3**2,
    ]
    white = list(shapes.COLOURS).index("white")
    for shape, area in enumerate(areas):
        one = Object(shape, white, 2, 0.47, 0.52, r)
        image = shapes.render([Scene((one,), None, 0)], size)[0].astype(float) / 245
        # antialiased by distance: a thin tip or an inner corner costs up to this much of an area
        assert image[..., 0].sum() / size**2 == pytest.approx(area * r**2, rel=0.04)
        np.testing.assert_allclose(image[..., 0], image[..., 2])
        middle = np.average(np.arange(size) + 0.5, weights=image[..., 0].sum(0)) / size
        assert middle == pytest.approx(0.47, abs=2e-3)
    red = shapes.render([Scene((Object(1, 0, 2, 0.5, 0.5, r),), None, 0)], size)[0]
    assert red[size // 2, size // 2].tolist() == list(shapes.COLOURS["red"])
    assert red[0, 0].tolist() == [0, 0, 0] and red.dtype == np.uint8


def test_triangles_and_stars_point_up():
    for shape in (2, 3):
        one = Scene((Object(shape, 7, 2, 0.5, 0.5, 0.23),), None, 0)
        image = shapes.render([one], 64)[0, ..., 0].astype(float)
        widths = (image > 100).sum(1)
        rows = np.flatnonzero(widths)
        top = image[rows[0]]
        assert widths[rows[0]] <= 3 and abs(np.average(np.arange(64), weights=top) - 31.5) < 0.1
        assert widths.argmax() > 40 if shape == 2 else widths.argmax() < 30  # base, or arms


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shapes.example(-1), "index=-1: expected a whole number >= 0"),
        (lambda: shapes.example(1.5), "index=1.5"),
        (lambda: shapes.example(0, 33), "size=33: expected one of 32, 64 pixels"),
        (lambda: shapes.example(0, num_objects=3), "num_objects=3: expected 1, 2 or None"),
        (lambda: shapes.batch([]), "indices: got none"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
