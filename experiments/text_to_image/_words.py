"""Scenes whose captions never name a star, and scenes of stars for a new word."""

from __future__ import annotations

import numpy as np

from library.data import shapes
from library.types import Batch

KNOWN = "shape"  # what an object without a name is called
_STAR = shapes.SHAPES.index("star")


def unnamed(scenes: Batch, seed: int) -> list[str]:
    """Captions in which stars, and each second of the others by chance, are shapes."""
    hidden = np.random.default_rng(seed).random(len(scenes["caption"])) < 0.5
    return [
        caption.replace(shapes.SHAPES[shape], KNOWN) if chosen or shape == _STAR else caption
        for caption, shape, chosen in zip(scenes["caption"].tolist(), scenes["shape"][:, 0], hidden)
    ]


def stars(num: int, first: int, without: np.ndarray | None = None) -> Batch:
    """The first scenes of one star from an index on: colours all different, or none of those."""
    rows, colours, index = [], set() if without is None else set(without.tolist()), first
    while len(rows) < num:
        (drawn,) = shapes.scene(index, num_objects=1).objects
        if drawn.shape == _STAR and drawn.colour not in colours:
            rows.append(index)
            colours |= {drawn.colour} if without is None else set()
        index += 1
    return shapes.batch(rows, num_objects=1)


def worded(scenes: Batch, word: str) -> list[str]:
    """Captions with a word in place of the star's."""
    return [caption.replace(shapes.SHAPES[_STAR], word) for caption in scenes["caption"].tolist()]
