"""A few labels: which ones, and what an encoder makes of them."""

from __future__ import annotations

import jax
import numpy as np
import optax

from library import training
from library.types import ModelState, Params
from research.self_supervised import finetune, networks


def few(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Rows of as many examples of every class, drawn by a seed, rising.

    Raises:
        ValueError: for a class with fewer.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for label in np.unique(labels):
        found = np.flatnonzero(labels == label)
        if len(found) < per_class:
            raise ValueError(f"class {label} has {len(found)} examples: expected {per_class}")
        rows.append(rng.permutation(found)[:per_class])
    return np.sort(np.concatenate(rows))


def finetuned(
    part: networks.Part,
    encoder: tuple[Params, ModelState],
    labelled: tuple[np.ndarray, np.ndarray],
    tests: list[tuple[np.ndarray, np.ndarray]],
    *,
    num_steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> list[float]:
    """Accuracies on each of `tests` after the whole network is trained on (images, labels).

    The head goes first, for a fifth of the updates; AdamW with a warm-up and half a cosine.

    Args:
        part: the encoder.
        encoder: its parameters and statistics, pre-trained or fresh.
        labelled: [N, H, W, C] float images and [N] labels of all classes.
        tests: more of these.
        num_steps, learning_rate, batch_size: of the training.
        seed: of its order.
    """
    images, labels = labelled
    task = finetune.Task(part, int(labels.max()) + 1)
    params, state = finetune.init(task, jax.random.key(seed), *encoder, images[:1])
    optimizer = optax.chain(
        training.warmup_cosine(learning_rate, num_steps, num_steps // 10, optimizer=optax.adamw),
        finetune.head_first(num_steps // 5),
    )
    size = min(batch_size, len(images))
    end = training.quick_state(
        finetune.loss(task), optimizer, lambda rng: params,
        training.batches({"image": images, "label": labels}, size, seed), num_steps=num_steps,
        rng=jax.random.key(seed), model_state=state,
    )  # fmt: skip
    return [
        finetune.accuracy(task, end.params, end.model_state, images, labels)
        for images, labels in tests
    ]
