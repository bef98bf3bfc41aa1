"""Estimators of the gradient of an expectation over latents, as surrogates for jax.grad.

Each function returns what `jax.grad` turns into the estimator; its value is the estimate of the
expectation itself. With z = mean + std noise (`gaussians.sample`) the gradient is pathwise; the
score function needs no path, the Gumbel softmax makes one for categories, and the last two take the
score of q out of a path, which leaves less variance where q is near the posterior.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from library.types import Array, Key, Params
from research.vae import bounds, gaussians
from research.vae.checks import positive, wide

LogDensity = Callable[[Array], Array]  # latents [K, B, ...] -> [K, B] nats
LogDensityOf = Callable[[Params, Array], Array]  # the same, of parameters too


def pathwise(
    function: Callable[[Array], Array], rng: Key, mean: Array, log_var: Array, num_samples: int = 1
) -> Array:
    """function(z) of draws z ~ N(mean, e^log_var) that carry the gradient to both.

    Kingma and Welling 2014, arXiv:1312.6114, sec. 2.4; exact in expectation for smooth functions.

    Args:
        function: [K, ...] -> [K, ...].
        rng: key of the draws.
        mean, log_var: [...] float.
        num_samples: K.
    Returns:
        What the function gives; its mean over K estimates the expectation.
    """
    return function(gaussians.sample(rng, mean, log_var, (num_samples,)))


def score_function(values: Array, log_probs: Array, baseline: Array | float = 0.0) -> Array:
    """`values`, with the gradient (values - baseline) grad log_probs + grad values.

    The score function or REINFORCE estimator, Williams 1992, doi:10.1007/BF00992696. Unbiased for
    whatever baseline does not depend on the same draw: a constant such as the mean of the values
    seen so far, or `leave_one_out(values)`. Draws themselves carry no gradient here: take z through
    jax.lax.stop_gradient.

    Args:
        values: [K, ...] f(z), which may depend on the parameters too.
        log_probs: [K, ...] log q(z) in nats, of the parameters to learn; of the same shape.
        baseline: scalar or of that shape.
    Returns:
        [K, ...] float; its mean over K is the surrogate.
    Raises:
        ValueError: if the shapes differ.
    """
    if values.shape != log_probs.shape or jnp.shape(baseline) not in ((), values.shape):
        raise ValueError(
            f"values, log_probs, baseline have shapes {values.shape}, {log_probs.shape}, "
            f"{jnp.shape(baseline)}: expected one shape"
        )
    values, log_probs, baseline = wide(values, log_probs, baseline)
    # log_probs - stop(log_probs) is 0 with the gradient of log_probs: the value stays.
    score = log_probs - jax.lax.stop_gradient(log_probs)
    return values + jax.lax.stop_gradient(values - baseline) * score


def leave_one_out(values: Array) -> Array:
    """The baseline of a draw that is the mean of the other K - 1, [K, ...] -> [K, ...].

    Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".

    Raises:
        ValueError: if there are fewer than two draws.
    """
    if not values.ndim or len(values) < 2:
        raise ValueError(f"values have shape {values.shape}: expected [K >= 2, ...], draws first")
    (values,) = wide(values)
    return (values.sum(0, keepdims=True) - values) / (len(values) - 1)


def gumbel_softmax(
    rng: Key, logits: Array, temperature: Array | float = 1.0, hard: bool = False
) -> Array:
    """Relaxed one-hot draws, Jang et al. 2017, arXiv:1611.01144, and Maddison et al. 2017.

    softmax((logits + Gumbel noise) / temperature). The draws' largest entry is an exact draw of the
    category; the gradient is that of the relaxed law, so it is biased for the categories' and less
    so, but noisier, at low temperatures.

    Args:
        rng: key of the noise.
        logits: [..., C] float, unnormalised log-probabilities.
        temperature: > 0.
        hard: give the one-hot category, with the relaxed draw's gradient (straight through).
    Returns:
        [..., C] float >= 0, summing to 1.
    Raises:
        ValueError: if the temperature is not positive.
    """
    positive("temperature", temperature)
    logits, temperature = wide(logits, temperature)
    noise = jax.random.gumbel(rng, logits.shape, logits.dtype)
    relaxed = jax.nn.softmax((logits + noise) / temperature)
    if not hard:
        return relaxed
    draw = jax.nn.one_hot(relaxed.argmax(-1), logits.shape[-1], dtype=relaxed.dtype)
    return draw + (relaxed - jax.lax.stop_gradient(relaxed))


def sticking_the_landing(
    log_joint: LogDensity, log_q: LogDensityOf, q_params: Params, z: Array
) -> Array:
    """Log weights whose gradient leaves out the score of q: log p(x, z) - log q(z) by z alone.

    Roeder et al. 2017, arXiv:1703.09194. The left out term is 0 in expectation for
    `bounds.elbo`, and without it the gradient has no variance where q is the posterior. In
    `bounds.iwae` it is biased: use `doubly_reparameterized`.

    Args:
        log_joint: z [K, B, ...] -> [K, B] nats, log p(x, z).
        log_q: (q_params, z) -> [K, B] nats.
        q_params: a tree of arrays, of which z was drawn by a path.
        z: [K, B, ...].
    Returns:
        [K, B] nats.
    """
    return log_joint(z) - log_q(jax.lax.stop_gradient(q_params), z)


def doubly_reparameterized(
    log_joint: LogDensity, log_q: LogDensityOf, q_params: Params, z: Array
) -> Array:
    """The bound of `bounds.iwae` with the DReG gradient, Tucker et al. 2018, arXiv:1810.04152.

    For q it is the sum over draws of w_k^2 (d log weight_k / dz_k) dz_k / dq with normalised w,
    unbiased and without variance where q is the posterior; for what `log_joint` depends on it is
    that of the bound. The densities are evaluated twice.

    Args: as `sticking_the_landing`.
    Returns:
        [B] nats, of which the mean over examples is the surrogate.
    """
    frozen = jax.lax.stop_gradient(z)
    log_weights = jax.lax.stop_gradient(sticking_the_landing(log_joint, log_q, q_params, frozen))
    shares = jax.nn.softmax(log_weights, 0)  # [K, B]
    # The gradient that arrives at z holds one share; this factor is the other.
    factor = shares.reshape(shares.shape + (1,) * (z.ndim - shares.ndim))
    z = frozen + factor.astype(z.dtype) * (z - frozen)
    surrogate = (shares * sticking_the_landing(log_joint, log_q, q_params, z)).sum(0)
    return bounds.iwae(log_weights) + surrogate - jax.lax.stop_gradient(surrogate)
