"""Classifiers of images by kernels, by plain baselines and by a finite network.

Each takes training images [N, D], labels [N] and test images [M, D], and returns classes [M].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import training
from library.types import Array, Aux, Batch, Key, Params, PyTree
from research import ntk
from research.ntk import layers

NUM_CLASSES = 10
STEPS_PER_CALL = 20  # updates of a compiled call
LARGEST_PART = 1000  # test images that are predicted at once: no larger kernel is held


def network(num_hidden: int, width: int = 1) -> layers.Layer:
    """The dense network whose kernel regresses, and which is trained at a finite width."""
    wide = layers.dense(width, weight_std=2**0.5, bias_std=0.1)
    last = layers.dense(NUM_CLASSES, weight_std=1.0, bias_std=0.1)
    return layers.serial(*(wide, layers.relu()) * num_hidden, last)


def targets(label: np.ndarray) -> np.ndarray:
    """One-hot less its mean over classes, [N, 10]."""
    return np.eye(NUM_CLASSES, dtype=np.float32)[label] - np.float32(1 / NUM_CLASSES)


def nearest_neighbour(x: np.ndarray, label: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Label of the closest training image; all norms are equal, so that of the largest product."""
    return label[np.argmax(x_test @ x.T, axis=1)]


def linear(x: np.ndarray, label: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Ridge regression on pixels, the ridge by the closed-form leave-one-out error."""
    gram = x.astype(np.float64) @ x.T
    values, vectors = np.linalg.eigh(gram)
    rotated = vectors.T @ targets(label)
    errors, solutions = [], []
    for ridge in np.mean(np.diag(gram)) * 10.0 ** np.arange(-3, 3):
        inverse = vectors / (values + ridge)
        solution = inverse @ rotated
        # Leave-one-out residual: solution / diag of the inverse; Rasmussen and Williams, (5.12).
        errors.append(np.mean((solution / np.sum(inverse * vectors, 1, keepdims=True)) ** 2))
        solutions.append(solution)
    return np.argmax((x_test @ x.T) @ solutions[int(np.argmin(errors))], axis=1)


BASELINES = {"nearest neighbour": nearest_neighbour, "linear": linear}


def kernels(
    x: np.ndarray, label: np.ndarray, x_test: np.ndarray, *, num_hidden: int, ridge: float
) -> dict[str, np.ndarray]:
    """Classes that gradient flow of an infinitely wide network ends in, by kernel.

    The ridge is in units of the kernel's mean diagonal.
    """
    net = network(num_hidden)
    parts = np.array_split(x_test, -(-len(x_test) // LARGEST_PART))
    found = {}
    for kind in ("ntk", "nngp"):
        diagonal = net.kernel(jnp.asarray(x[:1]), get=kind)
        flow = ntk.predict.gradient_flow(
            net.kernel, x, targets(label), ridge=ridge * float(diagonal[0, 0]), kinds=(kind,)
        )
        predicted = [flow.mean(part, kind=kind) for part in parts]
        found[kind] = np.argmax(np.concatenate(predicted), axis=1)
    return found


def finite_network(
    x: np.ndarray,
    label: np.ndarray,
    x_test: np.ndarray,
    *,
    rng: Key,
    num_hidden: int,
    width: int,
    num_steps: int,
    batch_size: int,
) -> np.ndarray:
    """Classes by one finite network, trained by momentum on the squared error."""
    net, y = network(num_hidden, width), targets(label)
    init_rng, batch_rng = jax.random.split(rng)
    start = jax.jit(net.init, static_argnums=1)(init_rng, x.shape[1:])
    batch = min(batch_size, len(x))
    # Half of the largest stable step on a batch without momentum, by the infinite kernel.
    kernel = network(num_hidden).kernel(jnp.asarray(x[:batch]), get="ntk")
    largest = ntk.dynamics.largest_learning_rate(
        jnp.linalg.eigvalsh(kernel)[-1], loss="mean", num_targets=batch * NUM_CLASSES
    )
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.5 * largest, num_steps), 0.9)

    rngs = jax.random.split(batch_rng, num_steps)
    draw = jax.vmap(lambda rng: jax.random.randint(rng, (batch,), 0, len(x)))
    rows = np.asarray(jax.jit(draw)(rngs))  # [num_steps, B]

    def learned(params: Params, x: Array) -> Array:
        # Less the function at the start, whose values have a variance of one (the targets' 0.09):
        # kernel regression is the mean over starts, in which it cancels.
        return net.apply(params, x) - net.apply(start, x)

    def loss_fn(params: Params, model_state: PyTree, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        error = learned(params, batch["image"]) - batch["target"]
        return 0.5 * jnp.mean(error**2), Aux(1.0)

    params = training.quick(
        loss_fn,
        optimizer,
        lambda _: start,
        lambda step: {"image": x[rows[step]], "target": y[rows[step]]},
        num_steps=num_steps,
        rng=rng,
        steps_per_call=STEPS_PER_CALL,
    )
    return np.argmax(jax.jit(learned)(params, jnp.asarray(x_test)), axis=1)
