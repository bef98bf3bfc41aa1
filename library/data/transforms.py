"""Explicit conversions of examples or batches, to be passed as `transform`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from library.data.pipeline import Batch

Transform = Callable[[Batch], Batch]


def to_unit_range(max_value: float, key: str = "image") -> Transform:
    """Maps the leaf `key` from 0..max_value to float32 in [-1, 1]; other leaves pass unchanged.

    Args:
        max_value: what becomes 1: 255 for bytes, 16 for scikit-learn's digits.
        key: of the leaf, of any shape.
    Raises:
        ValueError: if `max_value` is not positive and finite; when called, for a batch without the
            leaf.
    """
    if not 0 < max_value < np.inf:
        raise ValueError(f"max_value={max_value}: expected a positive number")
    limit = np.float32(max_value)

    def transform(batch: Batch) -> Batch:
        if key not in batch:
            raise ValueError(f"the batch has no leaf {key!r}: it has {', '.join(batch)}")
        # Exact up to the division: 2 x - max is a whole number for whole pixels.
        return {**batch, key: (2 * batch[key].astype(np.float32) - limit) / limit}

    return transform


def from_unit_range(values: np.ndarray, max_value: int) -> np.ndarray:
    """The inverse for pictures: [-1, 1] clipped and rounded to uint8 in 0..max_value.

    Raises:
        ValueError: for nan, which no byte stands for.
    """
    if np.isnan(values).any():
        raise ValueError("values hold nan: expected numbers, to be clipped to [-1, 1]")
    scaled = (np.asarray(values, np.float32) + 1) * np.float32(max_value / 2)
    return np.clip(np.rint(scaled), 0, max_value).astype(np.uint8)


def chain(*transforms: Callable[[Any], Any]) -> Transform:
    """The transforms one after the other, from left to right."""

    def transform(batch: Batch) -> Batch:
        for each in transforms:
            batch = each(batch)
        return batch

    return transform
