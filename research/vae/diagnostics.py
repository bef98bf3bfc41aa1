"""What a trained model does with its latents: which it uses, how much they tell, what they draw.

The aggregate posterior q(z) is the mean of q(z | x) over the N examples given, so that every number
here is about these examples, and none is a limit of many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key
from research.vae import gaussians
from research.vae.checks import positive, wide


def active_units(mean: Array, threshold: float = 0.01) -> Array:
    """Which latents move with the data: variance over examples of the posterior mean above 0.01.

    Burda et al. 2016, arXiv:1509.00519, section 5.2.

    Args:
        mean: [N, ...] posterior means of N >= 2 examples.
        threshold: of the variance, in units of the prior's.
    Returns:
        [...] bool.
    Raises:
        ValueError: for fewer than two examples, or a threshold that is not positive.
    """
    positive("threshold", threshold)
    if mean.ndim < 2 or mean.shape[0] < 2:
        raise ValueError(f"mean {list(mean.shape)}: expected [N >= 2, ...]")
    (mean,) = wide(mean)
    return mean.var(0) > threshold


@flax.struct.dataclass
class Surgery:
    """The parts of an average bound, Hoffman and Johnson 2016 ("ELBO surgery"), in nats.

    elbo = log_likelihood - information - marginal_kl; the last two add up to the mean KL.

    Attributes:
        log_likelihood: [], mean log p(x | z).
        information: [], I_q(x; z) between an example, uniform among N, and its draw; 0 to log N.
        marginal_kl: [], KL(q(z), p(z)), which a better prior could remove.
        standard_error: [], of `information` over the draws.
    """

    log_likelihood: Array
    information: Array
    marginal_kl: Array
    standard_error: Array


def surgery(
    rng: Key, log_likelihood: Array, mean: Array, log_var: Array, num: int = 10, block: int = 100
) -> Surgery:
    """Splits the mean KL of N examples into what they tell of themselves and what is left.

    Args:
        rng: key of the draws.
        log_likelihood: [N] nats, of the examples.
        mean, log_var: [N, L] of their posteriors; the prior is a standard normal.
        num: draws of each posterior.
        block: posteriors that are drawn from at a time; memory is block x num x N.
    Raises:
        ValueError: if the shapes do not belong together, or a count is not positive.
    """
    if mean.ndim != 2 or log_var.shape != mean.shape or log_likelihood.shape != mean.shape[:1]:
        raise ValueError(
            f"log_likelihood {list(log_likelihood.shape)}, mean {list(mean.shape)}, log_var "
            f"{list(log_var.shape)}: expected [N], [N, L] and [N, L]"
        )
    log_likelihood, mean, log_var = wide(log_likelihood, mean, log_var)
    information = mutual_information(rng, mean, log_var, num, block)
    mean_kl = gaussians.kl(mean, log_var).sum(1).mean()
    return Surgery(
        log_likelihood=log_likelihood.mean(),
        information=information.value,
        marginal_kl=mean_kl - information.value,
        standard_error=information.standard_error,
    )


@flax.struct.dataclass
class Estimate:
    """A number by random draws.

    Attributes:
        value: [].
        standard_error: [], over the draws.
    """

    value: Array
    standard_error: Array


def mutual_information(
    rng: Key, mean: Array, log_var: Array, num: int = 10, block: int = 100
) -> Estimate:
    """I_q(x; z) = E log q(z | x) / q(z) in nats, q(z) the mean over the N examples; at most log N.

    Without bias for these N examples; for the law that they come from it is too low once it nears
    log N.

    Args:
        rng: key of the draws.
        mean, log_var: [N, L] of the posteriors.
        num: draws of each.
        block: posteriors that are drawn from at a time.
    Raises:
        ValueError: if the shapes differ or are not [N, L], or a count is not positive.
    """
    checks.count("num", num, of="draws")
    checks.count("block", block)
    if mean.ndim != 2 or log_var.shape != mean.shape:
        raise ValueError(
            f"mean {list(mean.shape)}, log_var {list(log_var.shape)}: expected [N, L] both"
        )
    mean, log_var = wide(mean, log_var)
    count = len(mean)

    def gain(inputs: tuple[Key, Array, Array]) -> Array:  # [num] of one example
        key, m, v = inputs
        z = gaussians.sample(key, m, v, (num,))  # [num, L]
        every = gaussians.log_prob(z[:, None], mean[None], log_var[None]).sum(-1)  # [num, N]
        own = gaussians.log_prob(z, m[None], v[None]).sum(-1)
        return own - jax.nn.logsumexp(every, -1) + math.log(count)

    keys = jax.random.split(rng, count)
    gains = jax.lax.map(gain, (keys, mean, log_var), batch_size=block)  # [N, num]
    # Examples are all there; only the draws within each are random.
    spread = gains.var(1, ddof=1).sum() / num if num > 1 else jnp.nan
    return Estimate(gains.mean(), jnp.sqrt(spread) / count)


def traversal(decode: Callable[[Array], Any], z: Array, index: int, values: Array) -> Any:
    """What the decoder makes of one latent moved along `values`, the others held.

    Args:
        decode: [V, L] -> anything [V, ...].
        z: [L] where from.
        index: of the latent that moves.
        values: [V] that it takes.
    Returns:
        decode's answer for the V latents.
    Raises:
        ValueError: if there is no such latent, or `z` or `values` have other axes.
    """
    if z.ndim != 1 or values.ndim != 1:
        raise ValueError(f"z {list(z.shape)}, values {list(values.shape)}: expected [L] and [V]")
    if not 0 <= index < len(z):
        raise ValueError(f"index={index}: expected one of {len(z)} latents, from 0")
    rows = jnp.broadcast_to(z[None], (len(values), len(z)))
    return decode(rows.at[:, index].set(values.astype(z.dtype)))
