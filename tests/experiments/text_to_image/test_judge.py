"""The judge of scenes: what it should say, and its verdicts on what it sees."""

import numpy as np

from experiments.text_to_image import _judge
from library.data import shapes

ASKED = {  # one object; a red circle left of a blue square; a red circle below a blue square
    "shape": np.array([[2, -1], [0, 1], [0, 1]]),
    "colour": np.array([[4, -1], [0, 2], [0, 2]]),
    "size": np.array([[1, -1], [2, 0], [2, 0]]),
    "relation": np.array([-1, 0, 3]),
}
SEEN = {
    "number": np.array([0, 1, 1]),
    "axis": np.array([0, 1, 2]),
    "shape": np.array([[2, 0], [0, 1], [1, 0]]),
    "colour": np.array([[4, 0], [0, 2], [2, 0]]),
    "size": np.array([[1, 0], [2, 0], [0, 2]]),
}


def _verdict(**changes):
    seen = {name: array.copy() for name, array in SEEN.items()}
    for name, (place, value) in changes.items():
        seen[name][place] = value
    right = _judge.Judge(lambda images: seen).right(np.zeros((3, 2, 2, 3)), ASKED)
    return {name: each.tolist() for name, each in right.items()}


def test_targets_put_the_left_or_upper_object_first():
    found = _judge.targets(ASKED)
    assert {name: found[name].tolist() for name in SEEN} == {
        name: array.tolist() for name, array in SEEN.items()
    }


def test_everything_right():
    assert _verdict() == {name: [True] * 3 for name in (*_judge.NAMES, "all")}


def test_what_a_second_object_would_be_counts_for_nothing():
    assert _verdict(shape=((0, 1), 3))["all"] == [True] * 3


def test_one_wrong_attribute():
    found = _verdict(colour=((1, 1), 3))
    assert found["colour"] == found["all"] == [True, False, True]
    assert found["shape"] == found["relation"] == [True] * 3


def test_wrong_number_and_axis():
    found = _verdict(number=(1, 0), axis=(1, 0))
    assert found["number"] == found["relation"] == found["all"] == [True, False, True]


def test_objects_on_each_others_side_are_a_wrong_relation():
    """Colours that look like the other's decide, where shapes agree with both."""
    swapped = {"shape": (1, [1, 0]), "colour": (1, [2, 0]), "size": (1, [0, 2])}
    assert _verdict(**swapped)["relation"] == [True, False, True]
    assert _verdict(shape=(1, [1, 0]))["relation"] == [True] * 3  # colour and size say otherwise


def test_a_short_training_tells_one_from_two():
    """Two objects light twice as many pixels, in the mean over sizes."""
    judge = _judge.train(32, num_steps=100, batch_size=32, width=4)
    scenes = shapes.batch(np.arange(500))
    right = judge.right(np.asarray(_judge.to_range(scenes["image"])), scenes)
    assert right["number"].mean() > 0.7  # 0.5 +- 0.022 by chance
    found = _judge.accuracy(judge, 32, 50)
    assert found.keys() == {*_judge.NAMES, "all"} and 0 <= found["all"] <= found["number"] <= 1


def test_bytes_to_range():
    np.testing.assert_allclose(_judge.to_range(np.array([0, 255], np.uint8)), [-1, 1])
