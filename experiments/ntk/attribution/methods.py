"""Retraining on halves of the data, and the scores of every method of attribution."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.ntk import _networks
from library.train_step import init_state, make_train_step, scan_steps
from library.types import Array, Aux, Batch, Key, Params, PyTree
from research import ntk
from research.ntk import attribution


@dataclasses.dataclass(frozen=True)
class Training:
    """How every network is trained.

    Attributes:
        width: hidden units of each of two layers.
        num_steps: of Adam, on all examples at once.
        learning_rate: of Adam.
        weight_decay: of the squared parameters, in the loss.
    """

    width: int
    num_steps: int
    learning_rate: float
    weight_decay: float


def halves(rng: Key, num: int, size: int) -> np.ndarray:
    """[S, N] bool, each row true in half of its places."""
    permute = jax.jit(jax.vmap(lambda key: jax.random.permutation(key, size)))
    order = permute(jax.random.split(rng, num))
    return np.asarray(order) < size // 2


def fit(training: Training, train: _networks.Digits, rng: Key, weight: Array) -> Params:
    """One network, trained on the examples of weight 1."""
    model, optimizer = _networks.MLP(training.width), optax.adam(training.learning_rate)
    params = model.init(rng, train.x[:1])

    def loss_fn(params: Params, model_state: PyTree, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        logits = model.apply(params, train.x)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, train.label)
        decay = training.weight_decay * optax.tree.norm(params, squared=True)
        return jnp.vdot(weight, each) / weight.sum() + decay, Aux(1.0)

    # Under vmap, where a loop of the host can't be: the shared step, scanned.
    state = init_state(params, optimizer, rng)
    steps = {"step": jnp.zeros((training.num_steps, 1))}  # all examples are in every update
    return scan_steps(make_train_step(loss_fn, optimizer))(state, steps)[0].params


def outputs(
    training: Training,
    train: _networks.Digits,
    test: _networks.Digits,
    subsets: np.ndarray,
    rngs: Key,
) -> np.ndarray:
    """Margins of the test digits after every retraining, [S, starts, M]."""
    apply = _networks.MLP(training.width).apply

    @jax.jit
    def retrain(weight: Array, rngs: Key) -> Array:
        params = jax.vmap(lambda key: fit(training, train, key, weight))(rngs)
        return jax.vmap(lambda p: attribution.margin(apply(p, test.x), test.label))(params)

    weights = subsets.astype(np.float32)
    return np.stack([np.asarray(retrain(w, keys)) for w, keys in zip(weights, rngs)])


def gradients(
    training: Training,
    train: _networks.Digits,
    test: _networks.Digits,
    rngs: Key,
    *,
    num_features: int,
    ridge: float,
) -> Array:
    """Scores [M, N], means over networks, one a key, each with a projection of its own."""
    apply = _networks.MLP(training.width).apply

    def margin(params: Params, batch: dict) -> Array:
        return attribution.margin(apply(params, batch["x"]), batch["label"])

    everything = jnp.ones(len(train.x))
    slope = jax.jit(lambda params, batch: 1 - jax.nn.sigmoid(margin(params, batch)))
    score = jax.jit(functools.partial(attribution.scores, ridge=ridge))
    trained = jax.jit(functools.partial(fit, training, train))
    total = 0.0
    for key in rngs:
        start, project = jax.random.split(key)
        params = trained(start, everything)
        features = [
            ntk.projection.features(
                margin, params, {"x": data.x, "label": data.label}, num_features, rng=project
            )
            for data in (train, test)
        ]
        total += score(*features, slope(params, {"x": train.x, "label": train.label}))
    return total / len(rngs)


def neighbours(train: _networks.Digits, test: _networks.Digits, signed: bool) -> Array:
    """Cosines of pixels [M, N]; signed: minus for a training digit of another class."""
    unit = lambda x: x.reshape(len(x), -1) / np.linalg.norm(x.reshape(len(x), -1), axis=1)[:, None]
    cosines = unit(test.x) @ unit(train.x).T
    same = test.label[:, None] == train.label[None]
    return jnp.asarray(np.where(same, cosines, -cosines) if signed else cosines)
