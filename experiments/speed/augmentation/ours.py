"""Our side: one compiled program that makes views of a batch, on all devices."""

from __future__ import annotations

from collections.abc import Callable

import jax

from library import sharding
from research.self_supervised import views


def maker(size: int, batch: int, blur: bool) -> Callable[[], jax.Array]:
    """Makes two views [2, B, S, S, 3] of each of B random images of `size` pixels.

    The batch lies on as many devices as divide it.
    """
    recipe = jax.jit(views.simclr(size, strength=0.5, blur=blur))
    images = jax.random.uniform(jax.random.key(0), (batch, size, size, 3))
    rngs = jax.random.split(jax.random.key(1), batch)
    _, given = sharding.split_over_devices({}, {"images": images, "rngs": rngs})
    return lambda: recipe(given["rngs"], given["images"])


def one_at_a_time(size: int, count: int) -> Callable[[], list[jax.Array]]:
    """The same without blur of `count` images, each in a call of its own."""
    recipe = jax.jit(views.simclr(size, strength=0.5, blur=False))
    images = list(jax.random.uniform(jax.random.key(0), (count, size, size, 3)))
    rngs = list(jax.random.split(jax.random.key(1), count))
    return lambda: [recipe(*pair) for pair in zip(rngs, images)]
