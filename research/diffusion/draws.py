"""What a loss draws for a batch: times, noise, and keys, each example its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from library.types import Array, Aux, Batch, Key, Params
from research.diffusion import predictions, weightings
from research.diffusion.curves import expand, wide
from research.diffusion.processes import Process

# apply(params, x [B, ...], t [B], labels [B] or None, rng [B] keys for dropout) -> [B, ...]
Apply = Callable[[Params, Array, Array, Array | None, Key], Array]


@dataclasses.dataclass(frozen=True)
class Draw:
    """What was drawn.

    Attributes:
        predict: the network on (x [B, ...], t [B]), its parameters, labels and masks bound.
        x_0: [B, ...] float32 or wider, the data.
        noise: [B, ...], standard normal.
        t: [B], times.
        factor: [B], see `weightings`.
        rngs: [B] keys that are not used yet.
    """

    predict: predictions.Predict
    x_0: Array
    noise: Array
    t: Array
    factor: Array
    rngs: Key


def draw(
    process: Process,
    apply: Apply,
    times: weightings.Times,
    params: Params,
    rng: Key,
    batch: Batch,
    stratified: bool = False,
) -> Draw:
    """Time and noise of each example, from one key or from one key an example."""
    image, labels = _without_masked(batch), batch.get("label")
    x_0 = floats(image)
    keys = example_keys(rng, x_0.shape[0], 4)  # [4, B]
    t, factor = times(process, _uniforms(keys[0], stratified))
    noise = normals(keys[1], x_0)

    def predict(x: Array, t: Array) -> Array:  # in the dtype of the batch, noised in float32
        return floats(apply(params, x.astype(image.dtype), t, labels, keys[2]))

    return Draw(predict, x_0, noise, t, factor, keys[3])


def noised(process: Process, drawn: Draw) -> Array:
    """alpha x_0 + sigma eps, [B, ...]."""
    alpha, sigma = process.alpha(drawn.t), process.sigma(drawn.t)
    return expand(alpha, drawn.x_0) * drawn.x_0 + expand(sigma, drawn.x_0) * drawn.noise


def normals(rngs: Key, like: Array) -> Array:
    """Standard normals of the shape and dtype of `like` [B, ...], each example from its key."""
    chex.assert_shape(rngs, like.shape[:1])
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(rngs)


def mean_square(x: Array) -> Array:
    """[B] means of squares over all but the first axis, float32 or wider."""
    return jnp.mean(jnp.square(wide(x)), axis=tuple(range(1, x.ndim)))


def example_keys(rng: Key, batch_size: int, num: int) -> Key:
    """[num, B] keys, from one key or from one key an example [B]."""
    chex.assert_shape(rng, (batch_size,) if rng.ndim else ())
    keys = (
        rng
        if rng.ndim
        else jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, jnp.arange(batch_size))
    )
    return jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(keys)


def masked_mean(losses: Array, mask: Array | None) -> tuple[Array, Aux]:
    """The mean of losses [B] under a mask [B] of weights >= 0, and its `Aux`.

    Both are float32 or wider: in half precision the sum of 257 masks of one would be 256.
    """
    losses = wide(losses)
    if mask is None:
        return losses.mean(), Aux(weight=losses.shape[0])
    mask = wide(mask)
    chex.assert_equal_shape([losses, mask])  # a mask [B, 1] would broadcast to [B, B]
    weight = mask.sum()
    return jnp.sum(losses * mask) / jnp.where(weight > 0, weight, 1), Aux(weight=weight)


def _without_masked(batch: Batch) -> Array:
    """The images, zero where masked: a nan there would survive a factor of 0 in the gradient."""
    image, mask = batch["image"], batch.get("mask")
    return image if mask is None else jnp.where(expand(mask > 0, image), image, 0)


def _uniforms(keys: Key, stratified: bool) -> Array:
    """[B] numbers in [0, 1): independent, or one in each of B equal intervals."""
    if not stratified:
        return jax.vmap(jax.random.uniform)(keys)
    num = keys.shape[0]
    return (jnp.arange(num) + jax.vmap(jax.random.uniform)(keys)) / num


def floats(x: Array) -> Array:
    """Float data in float32 or wider.

    Raises:
        ValueError: for data that are no floats.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"data of dtype {x.dtype}: expected floats in the units of the model")
    return wide(x)
