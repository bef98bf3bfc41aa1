"""Guided scores: by a classifier, without one, and by a worse model; and the law they sample.

A guided score is one more score function, so it goes through every sampler and likelihood. The
weight 1 is the conditional model itself, 0 the unconditional one or the guide.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array
from research.diffusion.curves import expand, wide
from research.diffusion.predictions import Score
from research.diffusion.processes import Process

Interval = tuple[float, float]  # times between which guidance acts


def classifier(
    process: Process,
    score: Score,
    log_likelihood: Callable[[Array, Array], Array],
    scale: float | Array = 1.0,
    interval: Interval | None = None,
) -> Score:
    """score + scale grad log p(label | x_t), Dhariwal and Nichol 2021, arXiv:2105.05233, sec. 4.

    Args:
        process: the noising process, for the range of the interval.
        score: of the unconditional law.
        log_likelihood: (x [B, ...], t [B]) -> [B], log probability that a classifier of noised
            data gives the wanted label; bind the label by closure.
        scale: strength; 1 gives the conditional law if both models are exact.
        interval: times (low, high) between which guidance acts; None for all.
    Raises:
        ValueError: for a scale that is not finite, or an interval that is empty or outside the
            process's range.
    """
    _check_scale(scale)
    active = _active(process, interval)

    def guided(x: Array, t: Array) -> Array:
        x = wide(x)
        pull = jax.grad(lambda x: jnp.sum(log_likelihood(x, t)))(x)
        return wide(score(x, t)) + expand(scale * active(t), x) * pull

    return guided


def classifier_free(
    process: Process,
    conditional: Score,
    unconditional: Score | None,
    scale: float | Array,
    interval: Interval | None = None,
) -> Score:
    """scale conditional + (1 - scale) unconditional, Ho and Salimans 2022, arXiv:2207.12598.

    Their w is scale - 1. The interval is that of Kynkaanniemi et al. 2024, arXiv:2404.07724;
    outside it the score is the conditional one.

    Args:
        process: the noising process, for the range of the interval.
        conditional: score given the label.
        unconditional: score given the null label; None only if `scale` is 1.
        scale: guidance weight.
        interval: times (low, high) between which guidance acts; None for all.
    Raises:
        ValueError: for a scale that is not finite, or other than 1 without an unconditional
            score, or an interval that is empty or outside the process's range.
    """
    if unconditional is None:
        if isinstance(scale, (int, float)) and scale == 1:
            return conditional
        raise ValueError(f"scale={scale} needs an unconditional score: got None")
    return _extrapolate(process, conditional, unconditional, scale, interval)


def autoguidance(
    process: Process,
    good: Score,
    bad: Score,
    scale: float | Array,
    interval: Interval | None = None,
) -> Score:
    """bad + scale (good - bad), Karras et al. 2024, arXiv:2406.02507, eq. (3).

    Args:
        process: the noising process, for the range of the interval.
        good: score of the model itself.
        bad: score of a smaller or less trained model of the same law.
        scale: guidance weight; 1 is the good model alone.
        interval: times (low, high) between which guidance acts; None for all.
    Raises:
        ValueError: for a scale that is not finite, or an interval that is empty or outside the
            process's range.
    """
    return _extrapolate(process, good, bad, scale, interval)


def rescale(guided: Array, conditional: Array, amount: float | Array) -> Array:
    """A guided prediction brought back towards the spread of the conditional one.

    amount std(conditional)/std(guided) guided + (1 - amount) guided, with the standard deviation
    over each example: Lin et al. 2024, arXiv:2305.08891, eqs. (15) and (16), where 0.7 is used.

    Args:
        guided, conditional: [B, ...], what a network predicts, of the same kind.
        amount: in [0, 1].
    Returns:
        [B, ...], float32 or wider.
    Raises:
        ValueError: for a known amount outside [0, 1], or predictions of different shapes.
    """
    if isinstance(amount, (int, float)):
        checks.share("amount", amount)
    if guided.shape != conditional.shape:
        raise ValueError(f"guided {list(guided.shape)}, conditional {list(conditional.shape)}")
    guided, axes = wide(guided), tuple(range(1, guided.ndim))
    spread = jnp.std(guided, axes)
    ratio = jnp.std(wide(conditional), axes) / jnp.where(spread > 0, spread, 1)
    return expand(1 + amount * (ratio - 1), guided) * guided


@dataclasses.dataclass(frozen=True)
class Normal:
    """Independent Gaussians.

    Attributes:
        mean: [D] float64.
        variance: [D] float64, positive.
    """

    mean: np.ndarray
    variance: np.ndarray


def guided_law(
    process: Process, conditional: Normal, unconditional: Normal, scale: float
) -> Normal:
    """The law at t_min that the probability flow of a classifier-free guided score samples.

    Both laws Gaussian with variances S_c, S_u along common axes. With z = x/alpha and tau =
    sigma/alpha the flow is linear: the homogeneous solution is P(tau) = (S_c + tau^2)^{w/2}
    (S_u + tau^2)^{(1-w)/2}, so the variance is the prior's times (P(t_min)/P(t_max))^2. The
    distance of the mean from the unconditional mean m_u moves from -m_u at t_max by the integral
    of w tau (m_c - m_u) / ((S_c + tau^2) P(tau)), in units of P; it is done here by quadrature.

    Args:
        process: the noising process; its prior is the start.
        conditional, unconditional: the data laws of the two exact scores.
        scale: guidance weight w.
    Returns:
        `Normal`, of x at t_min.
    Raises:
        ValueError: for a scale that is not finite.
    """
    _check_scale(scale)
    alphas, taus = _ends(process)
    log_power = lambda tau: (  # noqa: E731
        scale / 2 * np.log(conditional.variance + tau**2)
        + (1 - scale) / 2 * np.log(unconditional.variance + tau**2)
    )
    nodes, weights = _nodes(400)
    span = np.log(taus[1] / taus[0])
    tau = taus[0] * np.exp(span * (nodes[:, None] + 1) / 2)  # [Q, 1]
    shift = conditional.mean - unconditional.mean
    slope = scale * tau**2 * shift / (conditional.variance + tau**2)  # over d log tau
    moved = span / 2 * (weights @ (slope * np.exp(log_power(taus[0]) - log_power(tau))))
    shrink = np.exp(log_power(taus[0]) - log_power(taus[1]))
    mean = unconditional.mean * (1 - shrink) + moved
    variance = (shrink * process.prior_std / alphas[1]) ** 2
    return Normal(alphas[0] * mean, alphas[0] ** 2 * variance)


def tilted_law(conditional: Normal, unconditional: Normal, scale: float) -> Normal:
    """p(x|c)^w p(x)^(1-w), normalised: what guidance is often said to sample, and does not.

    Raises:
        ValueError: for a scale that is not finite, or where the product cannot be normalised.
    """
    _check_scale(scale)
    precision = scale / conditional.variance + (1 - scale) / unconditional.variance
    if np.min(precision) <= 0:
        raise ValueError(f"scale={scale}: the tilted law cannot be normalised")
    pull = scale * conditional.mean / conditional.variance
    pull = pull + (1 - scale) * unconditional.mean / unconditional.variance
    return Normal(pull / precision, 1 / precision)


def _extrapolate(
    process: Process, main: Score, guide: Score, scale: float | Array, interval: Interval | None
) -> Score:
    """guide + scale (main - guide) inside the interval, main outside."""
    _check_scale(scale)
    active = _active(process, interval)

    def guided(x: Array, t: Array) -> Array:
        x = wide(x)
        weight = jnp.where(active(t), scale, 1.0).astype(x.dtype)
        toward = wide(main(x, t))
        away = wide(guide(x, t))
        return away + expand(weight, x) * (toward - away)

    return guided


def _active(process: Process, interval: Interval | None) -> Callable[[Array], Array]:
    """[B] times -> [B] whether guidance acts."""
    if interval is None:
        return lambda t: jnp.ones(t.shape, bool)
    low, high = interval
    process.check_times(np.asarray(interval), "interval")
    if not low < high:
        raise ValueError(f"interval={interval}: expected (low, high) with low < high")
    return lambda t: (t >= low) & (t <= high)


def _check_scale(scale: float | Array) -> None:
    if not isinstance(scale, jax.core.Tracer) and not np.all(np.isfinite(np.asarray(scale))):
        raise ValueError(f"scale={scale}: expected a finite number")


def _ends(process: Process) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma/alpha at t_min and t_max, in float64 where JAX computes in it."""
    times = jnp.asarray([process.t_min, process.t_max])
    alphas = np.asarray(process.alpha(times), np.float64)
    return alphas, np.asarray(process.sigma(times), np.float64) / alphas


@functools.cache
def _nodes(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights: an eigenproblem that would dwarf the quadrature."""
    return np.polynomial.legendre.leggauss(num)
