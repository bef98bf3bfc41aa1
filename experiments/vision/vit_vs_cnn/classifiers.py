"""Two kinds of image classifier behind one face, and many runs of one trained side by side.

The runs of a fleet share a model, a schedule and a number of labels and differ by seed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import fleet, report, training
from library.data import pipeline
from library.types import Array, Aux, Key, LossFn, PyTree, TrainState
from research.vision import augmentation, resnet, vit


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """`init(rng, image_shape) -> (params, model_state)` and
    `apply(params, model_state, images, train) -> (logits, model_state)`."""

    init: Callable[..., tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[Array, PyTree]]

    def num_parameters(self, image_shape: tuple[int, int, int]) -> int:
        """Counted by tracing."""
        make = functools.partial(self.init, image_shape=image_shape)
        params = jax.eval_shape(make, jax.random.key(0))[0]
        return sum(leaf.size for leaf in jax.tree.leaves(params))


def cnn(model: resnet.ResNet) -> Learner:
    """A residual network with its running statistics."""
    return Learner(functools.partial(resnet.init, model), functools.partial(resnet.apply, model))


def transformer(model: vit.ViT) -> Learner:
    """A vision transformer, which has no model state."""

    def init(rng: Key, image_shape: tuple[int, int, int]) -> tuple[PyTree, PyTree]:
        return jax.jit(model.init)(rng, jnp.zeros((1, *image_shape))), {}

    def apply(params: PyTree, state: PyTree, x: Array, train: bool) -> tuple[Array, PyTree]:
        return model.apply(params, x), state

    return Learner(init, apply)


def train(
    learner: Learner,
    data: dict[str, np.ndarray],
    augment: augmentation.Augment | None,
    out: report.RunDir,
    *,
    seeds: Sequence[int],
    num_labels: int,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    options: training.RunOptions,
) -> TrainState:
    """The state of a fleet after training; parameters and model state have leaves [R, ...].

    Args:
        learner: the model of all runs.
        data: {"image": [N, H, W, C] in [0, 1], "label": [N]}.
        augment: of each image in training; None leaves them.
        out: folder of the fleet.
        seeds: [R], of the parameters, of which examples are labelled, and of their order.
        num_labels: labelled examples of a run, the first of an order that its seed draws.
        num_steps, batch_size, learning_rate: of every run; the rate's peak.
        options: of the shared loop; its seed is that of the augmentation.
    """
    optimizer = training.warmup_cosine(
        learning_rate,
        num_steps,
        num_steps // 10,
        optimizer=functools.partial(optax.adamw, weight_decay=0.05),
    )
    return fleet.train(
        _loss(learner, augment),
        optimizer,
        functools.partial(learner.init, image_shape=data["image"].shape[1:]),
        [labelled(data, seed, num_labels, batch_size) for seed in seeds],
        seeds=seeds,
        num_steps=num_steps,
        run=options,
        out=out,
        rng_per_example=True,
    )


def accuracies(
    learner: Learner, state: TrainState, test: dict[str, np.ndarray], batch_size: int = 500
) -> np.ndarray:
    """Share of the test images that each run classifies rightly, %, [R]."""
    predict, right = _predictor(learner), []
    for index in range(fleet.size(state)):
        one = fleet.pick((state.params, state.model_state), index)
        labels = [
            np.asarray(predict(*one, test["image"][first : first + batch_size]))
            for first in range(0, len(test["label"]), batch_size)
        ]
        right.append((np.concatenate(labels) == test["label"]).mean())
    return 100 * np.array(right)


@functools.cache
def _predictor(learner: Learner) -> Callable:
    return jax.jit(
        lambda params, model_state, images: jnp.argmax(
            learner.apply(params, model_state, images, False)[0], axis=-1
        )
    )


def labelled(
    data: dict[str, np.ndarray], seed: int, num_labels: int, batch_size: int
) -> pipeline.BatchAt:
    """Batches of the labelled examples of one run: the first of an order that its seed draws."""
    order = np.random.default_rng(seed).permutation(len(data["label"]))[:num_labels]
    subset = {name: leaf[order] for name, leaf in data.items()}
    return training.batches(subset, batch_size, seed)


def _loss(learner: Learner, augment: augmentation.Augment | None) -> LossFn:
    """Cross-entropy of one run, each image augmented by a key of its own."""

    def loss_fn(params: PyTree, model_state: PyTree, rngs: Key, batch: dict) -> tuple[Array, Aux]:
        images = batch["image"]
        if augment is not None:
            images = augmentation.each(augment, rngs, images)
        logits, model_state = learner.apply(params, model_state, images, True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), Aux(len(rngs), model_state=model_state)

    return loss_fn
