"""Bytes to [-1, 1] and back, exactly; chains apply from left to right."""

import numpy as np
import pytest

from library.data import transforms


@pytest.mark.parametrize("max_value", [16, 255])
def test_unit_range(max_value):
    pixels = np.arange(max_value + 1, dtype=np.uint8).reshape(1, -1, 1)
    batch = transforms.to_unit_range(max_value)({"image": pixels, "label": np.array([1])})
    assert batch["image"].dtype == np.float32 and batch["label"][0] == 1
    exact = (np.arange(max_value + 1) * 2.0 - max_value) / max_value
    np.testing.assert_array_equal(batch["image"].ravel(), exact.astype(np.float32))
    np.testing.assert_array_equal(transforms.from_unit_range(batch["image"], max_value), pixels)
    assert transforms.from_unit_range(np.array([-3.0, 3.0]), max_value).tolist() == [0, max_value]
    with pytest.raises(ValueError, match="max_value=0"):
        transforms.to_unit_range(0)


def test_chain_applies_from_left_to_right():
    plus_one, double = lambda x: {"x": x["x"] + 1}, lambda x: {"x": x["x"] * 2}
    assert transforms.chain(plus_one, double)({"x": np.array(3)})["x"] == 8


def test_what_makes_no_picture_is_named():
    with pytest.raises(ValueError, match="max_value=inf"):
        transforms.to_unit_range(np.inf)
    with pytest.raises(ValueError, match="no leaf 'image': it has img, label"):
        transforms.to_unit_range(255)({"img": np.ones(2), "label": np.ones(2)})
    with pytest.raises(ValueError, match="values hold nan"):
        transforms.from_unit_range(np.array([np.nan, 0.0]), 255)
