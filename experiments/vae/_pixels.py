"""Binary images from grey ones, and the log-likelihood of a test set by few and by many draws."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key
from research.vae import bounds


def binarise(rng: Key, images: Array) -> Array:
    """Bits [B, H, W, C]: 1 with the probability of the grey value in 0..255; `rng` is [B] keys."""
    draw = lambda key, image: jax.random.bernoulli(key, image.astype(jnp.float32) / 255)
    return jax.vmap(draw)(rng, images)


def binarised(rng: Key, images: np.ndarray) -> Array:
    """A test set [N, H, W, C] binarised once, each image by a key of its own."""
    return jax.jit(binarise)(jax.random.split(rng, len(images)), jnp.asarray(images))


@dataclasses.dataclass(frozen=True)
class LogLikelihood:
    """Of a test set, in nats an image.

    Attributes:
        value: with the fine number of draws.
        standard_error: of it, from the images that did not get them.
        bound: with one draw.
    """

    value: float
    standard_error: float
    bound: float


def log_likelihood(
    log_weights: Callable[[Array, Key, int], Array],
    x: Array,
    *,
    num_fine: int,
    coarse_draws: int,
    fine_draws: int,
    rng: Key,
    batch_size: int = 100,
    chunk: int = 50,
) -> LogLikelihood:
    """The bound of `fine_draws`: all images by `coarse_draws`, and the difference on some of them.

    The number of an image varies by tens of nats, what more draws add to it by tenths: so a
    thousand images tell the difference, and all of them the level.

    Args:
        log_weights: (x, key, num) -> [num, B] nats, for `bounds.log_likelihood`.
        x: [N, ...] test set.
        num_fine: images, the first ones, that get all draws.
        coarse_draws, fine_draws: numbers of draws.
        rng: key of all draws.
        batch_size: images at a time.
        chunk: draws at a time.
    """
    rngs = jax.random.split(rng, 3)

    @functools.partial(jax.jit, static_argnums=2)
    def score(x: Array, rng: Key, num: int) -> Array:
        return bounds.log_likelihood(log_weights, x, rng, num, chunk)

    def of(x: Array, rng: Key, num: int) -> np.ndarray:
        parts = [
            score(x[start : start + batch_size], jax.random.fold_in(rng, start), num)
            for start in range(0, len(x), batch_size)
        ]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])

    one = of(x, rngs[0], 1)
    coarse, fine = of(x, rngs[1], coarse_draws), of(x[:num_fine], rngs[2], fine_draws)
    added = fine - coarse[:num_fine]
    unseen = 1 - num_fine / len(x)  # no error is left where every image got all draws
    error = added.std(ddof=1) * np.sqrt(unseen / num_fine)
    return LogLikelihood(float(coarse.mean() + added.mean()), float(error), float(one.mean()))


def histogram_bits(train: np.ndarray, test: np.ndarray, num_levels: int) -> float:
    """Bits a dimension of independent pixels, each by its frequencies with one more of each level.

    Args:
        train, test: [N, ...] whole levels in 0 .. num_levels - 1.
        num_levels: of a pixel.
    """
    one_hot = lambda x: (x.reshape(len(x), -1, 1) == np.arange(num_levels)).astype(np.float64)
    shares = (one_hot(train).sum(0) + 1) / (len(train) + num_levels)  # [D, levels]
    return float(-(one_hot(test) * np.log2(shares)).sum(-1).mean())


def split(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Nine tenths to train on, and the rest, at random.

    Raises:
        ValueError: for fewer than 20 images.
    """
    if len(images) < 20:
        raise ValueError(f"{len(images)} images: expected 20 or more, of which a tenth is held out")
    order = np.random.default_rng(seed).permutation(len(images))
    held = len(images) // 10
    return images[order[held:]], images[order[:held]]
