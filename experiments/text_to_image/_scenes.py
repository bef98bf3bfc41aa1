"""Scenes for a chain: sentences, batches, what is asked of a model, and its pictures."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from experiments.text_to_image import _judge
from library import figure_style
from library.data import shapes
from library.types import Batch, Params
from research.text_to_image import model, pipeline

MAX_LENGTH = 20  # of a row of tokens: the longest caption has 14 words and a comma
KINDS = {  # what is asked for: options of `shapes.batch`
    "one": {"num_objects": 1},
    "held_out": {"num_objects": 1, "held_out": True},
    "two": {"num_objects": 2},
}
ASKED = 5 * 10**8  # indices of scenes that are asked for, and that nothing learns from


def sentences(num: int = 1000) -> list[str]:
    """Captions in which every word of the scenes occurs."""
    return [shapes.caption(shapes.scene(index)) for index in range(num)]


def many(num: int, size: int, seed: int = 0) -> Batch:
    """The first `num` scenes of a seed, as `shapes.batch`: every third has two objects."""
    indices = np.arange(num)
    rows = [indices[indices % 3 < 2], indices[indices % 3 == 2]]
    parts = [
        shapes.batch(some[start : start + 2000], size, num_objects=number, seed=seed)
        for number, some in enumerate(rows, 1)
        for start in range(0, len(some), 2000)
    ]
    order = np.argsort(np.concatenate(rows))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def batch_at(batch_size: int, size: int, seed: int = 0) -> Callable[[int], Batch]:
    """Fresh scenes at every step: {"image": [B, size, size, 3] uint8}."""

    def at(step: int) -> Batch:
        indices = batch_size * step + np.arange(batch_size)
        return {"image": shapes.batch(indices, size, seed=seed)["image"]}

    return at


@dataclasses.dataclass(frozen=True)
class Asked:
    """A model and its judge, with how many images of how many steps are asked for."""

    model: model.Model
    params: Params
    judge: _judge.Judge
    size: int
    num: int
    sample_steps: int

    def images(
        self, kind: str, guidance: float, num: int | None = None
    ) -> tuple[np.ndarray, Batch]:
        """Samples [N, H, W, 3] of the captions of one of `KINDS`, and the scenes asked for."""
        num = self.num if num is None else num
        scenes = shapes.batch(ASKED + np.arange(num), self.size, **KINDS[kind])
        blocks = [scenes["caption"][start : start + 250].tolist() for start in range(0, num, 250)]
        drawn = [
            pipeline.generate(
                self.model, self.params, texts, jax.random.key(0), self.sample_steps, guidance,
                first_index=250 * index,
            )[0]
            for index, texts in enumerate(blocks)
        ]  # fmt: skip
        return np.concatenate([np.asarray(each) for each in drawn]), scenes

    def all(self, guidance: float) -> dict[str, dict[str, float]]:
        """How often each attribute is right, for each kind of question."""
        return {
            kind: {
                name: float(right.mean())
                for name, right in self.judge.right(*self.images(kind, guidance)).items()
            }
            for kind in KINDS
        }


def picture(asked: Asked, guidance: float, scenes: Batch, columns: int = 6):
    """Rows of rendered scenes, and of samples of each kind, with the words they were asked by."""
    rows = {"rendered": (scenes["image"][:columns], scenes["caption"][:columns])}
    for kind in KINDS:
        images, wanted = asked.images(kind, guidance, columns)
        rows[kind.replace("_", " ")] = (bytes_of(images), wanted["caption"])
    return captioned(rows)


def captioned(rows: Mapping[str, tuple[np.ndarray, Sequence[str]]]):
    """Rows of images [N, H, W, 3] uint8, each image above its words."""
    columns = max(len(images) for images, _ in rows.values())
    figure = figure_style.empty(1.35 * columns, 1.75 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (name, (images, texts)) in zip(grid, rows.items()):
        for one in axes:
            figure_style.bare(one, "")
        for one, image, text in zip(axes, images, texts):
            one.imshow(image, interpolation="nearest")
            words = textwrap.fill(text, 24)
            one.text(
                0.5, -0.04, words, transform=one.transAxes, ha="center", va="top", fontsize=6.5
            )
        axes[0].set_title(name, fontsize=figure_style.FONT_SIZE, color=figure_style.INK, loc="left")
    return figure


def curves(found: Mapping[float, Mapping[str, Mapping[str, float]]]):
    """Shares that are right by guidance."""
    weights = sorted(found)
    figure, (left, right) = figure_style.row(2, width=1.5 * figure_style.WIDTH)
    shown = [(left, kind.replace("_", " "), kind, "all") for kind in KINDS]
    shown += [(right, name, "two", name) for name in ("shape", "colour", "size", "relation")]
    for axes, label, kind, name in shown:
        shares = [found[weight][kind][name] for weight in weights]
        axes.plot(weights, shares, "o-", label=label)
    for axes, title in ((left, "All right"), (right, "Two objects")):
        figure_style.style(axes, title, "guidance", "share of samples")
        axes.set_ylim(0, 1.02)
        figure_style.legend(axes)
    return figure


def bytes_of(images: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] as bytes."""
    return np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)
