"""The pictures of the study: error by number of labels, and where a ViT looks."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from experiments.vision.vit_vs_cnn import sets
from library import figure_style, plots
from library.types import TrainState
from research.vision import vit


def labels(title: str, counts: tuple[int, ...], results: dict[tuple[str, bool], np.ndarray]) -> Any:
    """Test error by number of labels, mean over seeds with one standard deviation.

    Args:
        title: of the set.
        counts: numbers of labels.
        results: accuracies in %, [labels, seeds], by classifier and augmentation.
    """
    names = {key: f"{key[0]}{', crops' if key[1] else ''}" for key in results}
    errors = {key: 100 - table for key, table in results.items()}
    figure = plots.curves(
        [
            {"labels": count} | {names[key]: table[i].mean() for key, table in errors.items()}
            for i, count in enumerate(counts)
        ],
        list(names.values()),
        x="labels",
        log_x=len(counts) > 1,
        log_y=True,
        title=f"{title}: error by number of labels",
        x_label="labelled examples",
        y_label="test error, %",
    )
    for index, table in enumerate(errors.values()):
        mean, spread = table.mean(1), table.std(1)
        colour = figure_style.PALETTE[index % len(figure_style.PALETTE)]
        band = (np.maximum(mean - spread, 0.5 * mean), mean + spread)
        figure.axes[0].fill_between(counts, *band, color=colour, alpha=0.15, linewidth=0)
    return figure


def attention(which: sets.Set, state: TrainState) -> Any:
    """Ten test images, and where the class token of the first ViT looks in its last block."""
    first = [np.flatnonzero(which.test["label"] == label)[0] for label in range(10)]
    images = which.test["image"][np.array(first)]  # [10, H, W, 1]
    params = jax.tree.map(lambda leaf: leaf[0], state.params)
    maps = jax.jit(lambda params, x: vit.attention_maps(which.vit, params, x))(params, images)
    size = images.shape[1] // which.vit.patch
    looks = np.asarray(maps[-1][:, :, 0, 1:].mean(1)).reshape(10, size, size, 1)  # mean over heads
    looks = looks / looks.max((1, 2, 3), keepdims=True)
    looks = looks.repeat(which.vit.patch, axis=1).repeat(which.vit.patch, axis=2)
    return plots.image_grid(
        np.concatenate([images, looks]),
        2,
        10,
        title=f"{which.title}, and where the class token looks",
        row_labels=("image", "attention"),
    )
