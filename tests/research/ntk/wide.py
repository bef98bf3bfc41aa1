"""Inputs for infinitely wide networks, a small one, and moments of pairs of Gaussians."""

import jax.numpy as jnp
import numpy as np

from research import ntk

RELU = {"weight_std": 2**0.5}
VARIANCES = np.array([[0.3, 0.3], [1.0, 1.0], [0.4, 1.9]])[:, None]  # [3, 1, 2]
COSINES = np.array([-1.0, -0.8, 0.0, 0.4, 0.97, 1.0])[None]  # [1, 6]


def points(num, *shape, seed=0):
    """Standard normal inputs [num, *shape], in float64 where it is switched on."""
    drawn = np.random.default_rng(seed).normal(size=(num, *shape))
    return drawn.astype(jnp.result_type(float))


def relu_net(depth):
    layers = ntk.layers
    hidden = [layer for _ in range(depth) for layer in (layers.dense(8, **RELU), layers.relu())]
    return layers.serial(*hidden, layers.dense(1))


def moments():
    """v1, v2, q, d of pairs of Gaussians, each [3, 6]."""
    var1, var2 = (np.broadcast_to(VARIANCES[..., i], (3, 6)) for i in (0, 1))
    nngp = np.sqrt(var1 * var2) * COSINES
    return var1, var2, nngp, var1 + var2 - 2 * nngp
