"""Two kinds of image classifier behind one face, trained on a subset of labels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library.train_step import init_state, make_train_step
from library.types import Array, Aux, Key, PyTree
from research.vision import augmentation, resnet, vit

CALL = 50  # updates in one compiled call


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


def make_fit(
    learner: Learner,
    train: dict[str, np.ndarray],
    augment: augmentation.Augment,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
) -> Callable[[int, int, bool], Any]:
    """(seed, number of labels, whether to augment) -> the state after training; compiles once.

    The labelled examples are the first of an order that the seed draws; a batch is drawn from them
    with replacement.

    Args:
        train: {"image": [N, H, W, C] in [0, 1], "label": [N]}.
        augment: of each image in training, where it is asked for.
    """

    def loss_fn(params: PyTree, model_state: PyTree, rng: Key, batch: dict) -> tuple[Array, Aux]:
        changed = augmentation.each(augment, rng, batch["image"])
        images = jnp.where(batch["augmented"], changed, batch["image"])
        logits, model_state = learner.apply(params, model_state, images, True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), Aux(len(losses), {}, model_state)

    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, num_steps // 10, num_steps, end_value=0.0
    )
    optimizer = optax.adamw(schedule, weight_decay=0.05)
    step = make_train_step(loss_fn, optimizer, rng_per_example=True)
    data = jax.tree.map(jnp.asarray, train)

    @jax.jit
    def start(rng: Key) -> Any:
        init_rng, train_rng = jax.random.split(rng)
        params, model_state = learner.init(init_rng, train["image"].shape[1:])
        return init_state(params, optimizer, train_rng, model_state)

    @functools.partial(jax.jit, donate_argnums=0, static_argnums=4)
    def advance(state: Any, data: dict, order: Array, limits: tuple, length: int) -> Any:
        num_labels, augmented = limits

        def body(state: Any, _: None) -> Any:
            rng = jax.random.fold_in(jax.random.key(1), state.step)
            places = jax.random.randint(rng, (batch_size,), 0, num_labels)
            batch = jax.tree.map(lambda leaf: leaf[order[places]], data)
            flags = jnp.full((batch_size, 1, 1, 1), augmented)
            return step(state, {**batch, "augmented": flags})

        return jax.lax.scan(body, state, length=length)[0]

    def fit(seed: int, num_labels: int, augmented: bool) -> Any:
        rng = jax.random.key(seed)
        order = jax.random.permutation(jax.random.fold_in(rng, 1), len(train["label"]))
        state = start(rng)
        limits = (jnp.int32(num_labels), jnp.asarray(augmented))
        for _ in range(num_steps // CALL):
            state = advance(state, data, order, limits, CALL)
        if num_steps % CALL:
            state = advance(state, data, order, limits, num_steps % CALL)
        return state

    return fit


def accuracy(learner: Learner, state: Any, test: dict[str, np.ndarray], batch: int = 500) -> float:
    """Share of the test images that are classified rightly, %."""
    predict = _predictor(learner)
    right = 0
    for first in range(0, len(test["label"]), batch):
        images = test["image"][first : first + batch]
        labels = predict(state.params, state.model_state, images)
        right += int((np.asarray(labels) == test["label"][first : first + batch]).sum())
    return 100 * right / len(test["label"])


@functools.cache
def _predictor(learner: Learner) -> Callable:
    return jax.jit(
        lambda params, model_state, images: jnp.argmax(
            learner.apply(params, model_state, images, False)[0], axis=-1
        )
    )
