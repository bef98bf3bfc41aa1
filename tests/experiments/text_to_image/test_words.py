"""Captions that never name a star, and the scenes of stars for a new word."""

import numpy as np

from experiments.text_to_image import _words
from library.data import shapes

STAR = shapes.SHAPES.index("star")


def test_stars_and_each_second_of_the_others_are_shapes():
    scenes = shapes.batch(np.arange(400), num_objects=1)
    texts = _words.unnamed(scenes, 3)
    for text, caption, shape in zip(texts, scenes["caption"], scenes["shape"][:, 0]):
        named = caption.replace(shapes.SHAPES[shape], "shape")
        assert text == named if shape == STAR else text in (named, caption)
    assert not any("star" in text for text in texts)
    others = scenes["shape"][:, 0] != STAR
    share = np.mean(["shape" in text for text in np.asarray(texts)[others]])
    assert abs(share - 0.5) < 5 * 0.5 / others.sum() ** 0.5  # five standard errors
    assert texts == _words.unnamed(scenes, 3) != _words.unnamed(scenes, 4)


def test_scenes_of_stars_by_their_colours():
    few = _words.stars(5, 1000)
    colours = few["colour"][:, 0]
    assert (few["shape"] == [[STAR, -1]]).all() and len(set(colours.tolist())) == 5
    others = _words.stars(9, 1000, without=colours)
    assert (others["shape"] == [[STAR, -1]]).all()
    assert not set(others["colour"][:, 0].tolist()) & set(colours.tolist())
    # those of the range, in its order
    drawn = [shapes.example(index, num_objects=1) for index in range(1000, 1400)]
    kept = [each for each in drawn if each[2].objects[0].shape == STAR]
    kept = [each for each in kept if each[2].objects[0].colour not in colours]
    np.testing.assert_array_equal(others["image"], [each[0] for each in kept[:9]])


def test_words_take_the_place_of_the_star():
    few = _words.stars(3, 0)
    texts = _words.worded(few, "<thing>")
    assert [text.replace("<thing>", "star") for text in texts] == few["caption"].tolist()
    assert all(text.count("<thing>") == 1 for text in texts)
