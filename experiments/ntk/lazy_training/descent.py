"""Gradient descent of a network and of its linearisation, and the closed form of its flow."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Params
from research import ntk
from research.ntk import layers


def three_ways(
    net: layers.Layer, rng: Array, x: Array, y: np.ndarray, rate: float, times: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], float]:
    """Outputs [T, N] at the chosen steps by name, and learning rate * largest eigenvalue."""
    params = jax.jit(net.init, static_argnums=1)(rng, x.shape[1:])
    apply = lambda params, x: net.apply(params, x)[:, 0]
    linear = ntk.linearize(apply, params)
    num = len(y)
    kernel = ntk.empirical(net.apply, params, x, x[:num], outputs="trace")  # [N, num]
    start = np.asarray(apply(params, x))
    flow = ntk.predict.network_flow(kernel[:num], y, start[:num], learning_rate=rate)
    paths = {
        "trained": _descend(apply, params, x, y, rate, times),
        "linear": _descend(linear, params, x, y, rate, times),
        "flow": np.asarray(flow(np.array(times, float), kernel, start)),
    }
    return paths, rate * float(flow.eigen.values[-1])


def _descend(
    apply: Callable, params: Params, x: Array, y: np.ndarray, rate: float, times: tuple[int, ...]
) -> np.ndarray:
    """Outputs [T, N] of gradient descent on 1/2 sum (f - y)^2 over the first examples.

    By hand, not by the shared step, which takes the loss beside the gradient: compiled together
    they round differently, and two paths are compared here down to the error of Euler's method.
    """
    loss = lambda params: 0.5 * jnp.sum((apply(params, x[: len(y)]) - y) ** 2)

    @jax.jit
    def advance(params: Params, num: Array) -> tuple[Params, Array]:
        step = lambda _, p: jax.tree.map(lambda w, g: w - rate * g, p, jax.grad(loss)(p))
        params = jax.lax.fori_loop(0, num, step, params)
        return params, apply(params, x)

    outputs, done = [], 0
    for time in times:
        params, found = advance(params, jnp.asarray(time - done))
        outputs.append(np.asarray(found))
        done = time
    return np.stack(outputs)


def euler_bound(stiffest: float, times: tuple[int, ...]) -> float:
    """How far Euler's method can be from the flow, relative to the start's distance to y."""
    modes = np.linspace(0, stiffest, 2001)[:, None]
    steps = np.arange(max(times) + 1)
    return float(np.max(np.abs(np.exp(-modes * steps) - (1 - modes) ** steps)))
