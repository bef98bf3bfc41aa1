"""Penalties of how steep a critic or a generator is, one number an example, without a factor.

A critic is a function [B, ...] -> [B] that looks at each example alone, as its slope at one example
is what is penalised. One that mixes the batch (batch norm by the batch's statistics, minibatch
deviation) has no such slope and is refused; `mixes=True` takes the gradient of the sum of its
logits instead, as StyleGAN2's code does with its minibatch deviation.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from library.types import Array, Key, Params, at_least_float32
from research.gan import mixing

Critic = Callable[[Array], Array]  # [B, ...] -> [B]


def r1(critic: Critic, x: Array, mixes: bool = False) -> Array:
    """The squared slope of the critic at data; Mescheder et al. 2018, arXiv:1801.04406, eq. (9).

    A loss adds gamma/2 times its mean.

    Args:
        critic: [B, ...] -> [B] logits.
        x: [B, ...] float, data.
        mixes: see the module.
    Returns:
        [B], the sum of squares of dD(x_i)/dx_i, float32 at least.
    Raises:
        ValueError: for a critic that mixes the batch, or whose output is not [B].
    """
    return _squares(_slopes(critic, x, mixes, "R1"))


def r2(critic: Critic, x: Array, mixes: bool = False) -> Array:
    """The squared slope of the critic at samples x [B, ...]; eq. (10), else as `r1`."""
    return _squares(_slopes(critic, x, mixes, "R2"))


def gradient_penalty(
    critic: Critic, real: Array, fake: Array, rng: Key, target: float = 1.0, mixes: bool = False
) -> Array:
    """(|slope| - target)^2 at a random point between data and sample of each pair.

    Gulrajani et al. 2017, arXiv:1704.00028, eq. (3), whose loss adds 10 times its mean.

    Args:
        critic: [B, ...] -> [B].
        real, fake: [B, ...] float, of one shape.
        rng: one key, or one an example [B]; the place is uniform on the segment.
        target: slope without penalty; 0 draws the critic flat.
        mixes: see the module.
    Returns:
        [B], float32 at least; where the critic is flat its gradient is 0.
    Raises:
        ValueError: as `r1`, for shapes that differ, or another number of keys.
    """
    if real.shape != fake.shape:
        raise ValueError(f"real {real.shape}, fake {fake.shape}: expected one shape [B, ...]")
    wide = at_least_float32(real, fake)
    draw = jax.vmap(lambda key: jax.random.uniform(key, (), wide))
    place = draw(each_key(rng, len(real))).reshape(-1, *(1,) * (real.ndim - 1))
    between = (place * real.astype(wide) + (1 - place) * fake.astype(wide)).astype(real.dtype)
    return jnp.square(_norms(_slopes(critic, between, mixes, "a gradient penalty")) - target)


def orthogonal(params: Params, pattern: str = r"(kernel|embedding)$") -> Array:
    """How far the filters of weights are from orthogonal, whatever their lengths.

    Brock et al. 2019, arXiv:1809.11096, eq. (3): |W'W o (1 - I)|^2 in the Frobenius norm, filters
    in the columns of W [.., N]. The gradient of the authors' code is half of this one's.

    Args:
        params: pytree of weights.
        pattern: regular expression, searched in the path of a leaf, e.g. "Dense_0/kernel".
    Returns:
        [] float32 at least, the sum over all leaves of two axes or more whose path matches.
    Raises:
        ValueError: if none does.
    """
    total, found = 0.0, False
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if leaf.ndim < 2 or not re.search(pattern, name):
            continue
        matrix = leaf.astype(at_least_float32(leaf)).reshape(-1, leaf.shape[-1])
        products = jnp.einsum("mi,mj->ij", matrix, matrix)
        total += jnp.sum(jnp.square(products * (1 - jnp.eye(len(products), dtype=matrix.dtype))))
        found = True
    if not found:
        raise ValueError(f"pattern={pattern!r} matches no weight of two axes or more")
    return total


def path_length(
    synthesize: Callable[[Array], Array], w: Array, rng: Key, mean: Array, decay: float = 0.01
) -> tuple[Array, Array]:
    """How far the length of the image's change with w is from its running mean, squared.

    Karras et al. 2020, arXiv:1912.04958, sec. 3.2 and app. B: the length of J'y for a random image
    y of variance 1 / (H W), by the norm over D and the root mean square over layers. The mean is
    the new one, as in the authors' code, so the penalty of one example depends on the others.

    Args:
        synthesize: [B, L, D] -> images [B, H, W, C], each of its own w.
        w: [B, L, D] styles of the L layers.
        rng: one key, or one an example [B].
        mean: [] running mean of lengths, 0 at first.
        decay: share of the batch in the new mean.
    Returns:
        [B] penalties and the new mean [], float32 at least.
    Raises:
        ValueError: for styles or images of other shapes, or another number of keys.
    """
    shape = jax.eval_shape(synthesize, w)
    if w.ndim != 3 or shape.ndim != 4 or shape.shape[0] != w.shape[0]:
        raise ValueError(
            f"w {w.shape} gives images {shape.shape}: expected [B, L, D] and [B, H, W, C]"
        )
    wide = at_least_float32(w, shape.dtype)
    scale = 1 / (shape.shape[1] * shape.shape[2]) ** 0.5
    draw = jax.vmap(lambda key: jax.random.normal(key, shape.shape[1:], wide))
    noise = draw(each_key(rng, len(w))) * scale  # [B, H, W, C]
    slopes = jax.grad(lambda w: jnp.sum(synthesize(w).astype(wide) * noise))(w)  # [B, L, D]
    lengths = _norms(slopes) / w.shape[1] ** 0.5
    mean = jnp.asarray(mean, wide)
    new_mean = mean + decay * (lengths.mean() - mean)
    return jnp.square(lengths - new_mean), jax.lax.stop_gradient(new_mean)


def each_key(rng: Key, num: int) -> Key:
    """One key an example, [num]: `rng` where it has that shape, else its children.

    Raises:
        ValueError: for another number of keys.
    """
    if rng.shape == ():
        return jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(num))
    if rng.shape != (num,):
        raise ValueError(f"rng has shape {rng.shape}: expected one key, or one of {num} examples")
    return rng


def _slopes(critic: Critic, x: Array, mixes: bool, what: str) -> Array:
    """[B, ...], of each logit in its own example."""
    shape = jax.eval_shape(critic, x).shape
    if shape != x.shape[:1]:
        raise ValueError(f"critic gives {shape} for {x.shape}: expected one logit an example, [B]")
    if not mixes:
        mixing.refuse(critic, x, "critic", what)
    return jax.grad(lambda x: critic(x).astype(at_least_float32(x)).sum())(x)


def _squares(slopes: Array) -> Array:
    wide = slopes.astype(at_least_float32(slopes))
    return jnp.square(wide).sum(tuple(range(1, wide.ndim)))


def _norms(slopes: Array) -> Array:
    """Lengths [B], with gradient 0 rather than nan where one is 0."""
    squares = _squares(slopes)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
