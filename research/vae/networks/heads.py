"""Numbers that a decoder gives for each pixel and channel, made into a likelihood.

A head is a count and a function: a network ends in [..., C * count] numbers, which the function
takes as [..., C, count].
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from library import checks
from library.types import Array
from research.vae import likelihoods


@dataclasses.dataclass(frozen=True)
class Head:
    """What a decoder ends in.

    Attributes:
        count: numbers for each pixel and channel.
        make: [..., count] -> likelihood of [...].
        see: data as the likelihood expects it -> floats as an encoder expects them.
    """

    count: int
    make: Callable[[Array], Any]
    see: Callable[[Array], Array] = lambda x: x.astype(jnp.result_type(x, jnp.float32))

    def __call__(self, out: Array) -> Any:
        """The likelihood of images [..., H, W, C] from [..., H, W, C * count]."""
        return self.make(out.reshape(*out.shape[:-1], -1, self.count))


def _bernoulli(h: Array) -> likelihoods.Bernoulli:
    return likelihoods.Bernoulli(h[..., 0])


def _learned(h: Array) -> likelihoods.Gaussian:
    return likelihoods.Gaussian(h[..., 0], h[..., 1])


BERNOULLI = Head(1, _bernoulli)
LEARNED_GAUSSIAN = Head(2, _learned)  # mean and log scale of each pixel


def _centred(x: Array, num_levels: int = 256) -> Array:
    """Whole levels in [-1, 1]."""
    return 2 * x.astype(jnp.float32) / (num_levels - 1) - 1


BYTES = Head(256, likelihoods.Bytes, _centred)


def gaussian(scale: float = 1.0) -> Head:
    """A Gaussian of one fixed standard deviation, in units of the pixels.

    Raises:
        ValueError: if the scale is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale={scale}: expected a positive standard deviation")
    return Head(1, lambda h: likelihoods.Gaussian(h[..., 0], jnp.log(jnp.asarray(scale, h.dtype))))


def logistics(num: int = 10, num_levels: int = 256) -> Head:
    """A mixture of `num` discretised logistics for each pixel and channel by itself."""
    checks.count("num", num, of="components")

    def make(h: Array) -> likelihoods.LogisticMixture:
        logits, means, log_scales = jnp.split(h, 3, axis=-1)
        return likelihoods.logistic_mixture(logits, means, log_scales, num_levels)

    return Head(3 * num, make, functools.partial(_centred, num_levels=num_levels))
