"""Gaussian noising processes x_t = alpha(t) x_0 + sigma(t) eps, each one a frozen value.

Song et al. 2021, arXiv:2011.13456: every such pair is the solution of the linear SDE
dx = f(t) x dt + g(t) dw with f = alpha'/alpha and g^2 = (sigma^2)' - 2 f sigma^2. A process holds
the closed forms where they exist and derivatives by autodiff where they do not. Equal arguments
give the same object, so a process can be a static argument of `jax.jit`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key, at_least_float32
from research.diffusion.curves import Curve, as_time, bisect, derivative, elementwise, expand, wide


def _same_for_equal_arguments(make: Callable) -> Callable:
    """Memoises a constructor, so that equal arguments, however passed, give the same object."""
    signature, cached = inspect.signature(make), functools.cache(make)

    @functools.wraps(make)
    def wrapped(*args: float, **kwargs: float) -> Process:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return cached(*bound.args)

    return wrapped


@dataclasses.dataclass(frozen=True)
class Process:
    """A noising process on times [t_min, t_max]; data lie at small t, the prior at t_max.

    All curves act elementwise on times of any shape and return that shape.

    Attributes:
        name: how it was made, for messages.
        t_min: the smallest time that samplers and likelihoods visit, > 0 or with sigma > 0.
        t_max: the largest time; the prior stands for the marginal here.
        prior_std: standard deviation of the Gaussian prior N(0, prior_std^2 I).
        alpha: signal scale, positive.
        sigma: noise scale, positive.
        drift_rate: f = alpha'/alpha of the forward SDE, per unit time.
        diffusion: g of the forward SDE, per square root of time.
        log_snr: log(alpha^2 / sigma^2), strictly decreasing in t.
        inverse_log_snr: the time at which `log_snr` takes a given value.
    """

    name: str
    t_min: float
    t_max: float
    prior_std: float
    alpha: Curve = dataclasses.field(repr=False)
    sigma: Curve = dataclasses.field(repr=False)
    drift_rate: Curve = dataclasses.field(repr=False)
    diffusion: Curve = dataclasses.field(repr=False)
    log_snr: Curve = dataclasses.field(repr=False)
    inverse_log_snr: Curve = dataclasses.field(repr=False)

    def drift(self, x: Array, t: Array) -> Array:
        """f(t) x, [B, ...], of the forward SDE at states x [B, ...] and times t [B] or []."""
        return expand(self.drift_rate(as_time(t)), x) * x

    def alpha_prime(self, t: Array) -> Array:
        """The time derivative of alpha."""
        return derivative(self.alpha)(t)

    def sigma_prime(self, t: Array) -> Array:
        """The time derivative of sigma."""
        return derivative(self.sigma)(t)

    def prior_sample(self, rng: Key, shape: tuple[int, ...]) -> Array:
        """One draw of `shape` from the prior N(0, prior_std^2 I)."""
        return self.prior_std * jax.random.normal(rng, shape)

    def prior_log_prob(self, x: Array) -> Array:
        """Log density of the prior at states x [B, ...]: [B] nats, float32 or wider."""
        x, axes = wide(x), tuple(range(1, x.ndim))
        log_norm = math.log(self.prior_std) + 0.5 * math.log(2 * math.pi)
        return -0.5 * jnp.sum((x / self.prior_std) ** 2, axes) - math.prod(x.shape[1:]) * log_norm

    def check_times(self, times: np.ndarray | float, what: str) -> None:
        """Raises ValueError, naming `what`, if any concrete time lies outside [t_min, t_max]."""
        times = np.asarray(times, np.float64)
        slack = 1e-6 * (self.t_max - self.t_min)  # float32 rounding of the ends
        if not np.all((times >= self.t_min - slack) & (times <= self.t_max + slack)):
            raise ValueError(
                f"{what}={times}: expected times in [{self.t_min}, {self.t_max}] of {self.name}"
            )


@_same_for_equal_arguments
def vp(
    beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-5, t_max: float = 1.0
) -> Process:
    """Variance-preserving process with beta(t) linear from beta_min to beta_max on [0, 1].

    With B(t) = int_0^t beta: alpha = e^{-B/2}, sigma^2 = 1 - e^{-B}. Song et al. 2021, eq. (11).

    Raises:
        ValueError: unless 0 <= beta_min <= beta_max, beta_max > 0 and 0 < t_min < t_max.
    """
    beta, integral, inverse = _linear_beta(beta_min, beta_max)
    _check_range(t_min, t_max)
    return Process(
        name=f"vp(beta_min={beta_min}, beta_max={beta_max})",
        t_min=t_min,
        t_max=t_max,
        prior_std=1.0,
        alpha=lambda t: jnp.exp(-0.5 * integral(t)),
        sigma=lambda t: jnp.sqrt(-jnp.expm1(-integral(t))),
        drift_rate=lambda t: -0.5 * beta(t),
        diffusion=lambda t: jnp.sqrt(beta(t)),
        log_snr=lambda t: -jnp.log(jnp.expm1(integral(t))),
        inverse_log_snr=lambda log_snr: inverse(jax.nn.softplus(-as_time(log_snr))),
    )


@_same_for_equal_arguments
def sub_vp(
    beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-4, t_max: float = 1.0
) -> Process:
    """Sub-VP process: alpha of `vp`, sigma = 1 - e^{-B}. Song et al. 2021, eq. (29).

    Here sigma/alpha = 2 sinh(B/2) and g^2 = beta (1 - e^{-2B}).

    Raises:
        ValueError: unless 0 <= beta_min <= beta_max, beta_max > 0 and 0 < t_min < t_max.
    """
    beta, integral, inverse = _linear_beta(beta_min, beta_max)
    _check_range(t_min, t_max)
    return Process(
        name=f"sub_vp(beta_min={beta_min}, beta_max={beta_max})",
        t_min=t_min,
        t_max=t_max,
        prior_std=1.0,
        alpha=lambda t: jnp.exp(-0.5 * integral(t)),
        sigma=lambda t: -jnp.expm1(-integral(t)),
        drift_rate=lambda t: -0.5 * beta(t),
        diffusion=lambda t: jnp.sqrt(-beta(t) * jnp.expm1(-2 * integral(t))),
        log_snr=lambda t: -2 * jnp.log(2 * jnp.sinh(0.5 * integral(t))),
        inverse_log_snr=lambda log_snr: inverse(
            2 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * as_time(log_snr)))
        ),
    )


@_same_for_equal_arguments
def ve(sigma_min: float, sigma_max: float, t_min: float = 0.0, t_max: float = 1.0) -> Process:
    """Variance-exploding process: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t.

    Song et al. 2021, eq. (9), in the convention that the marginal variance is sigma(t)^2.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max and t_min < t_max.
    """
    _check_sigmas(sigma_min, sigma_max)
    _check_range(t_min, t_max, lowest=0.0)
    log_ratio = math.log(sigma_max / sigma_min)
    sigma = elementwise(lambda t: sigma_min * jnp.exp(log_ratio * t))
    return Process(
        name=f"ve(sigma_min={sigma_min}, sigma_max={sigma_max})",
        t_min=t_min,
        t_max=t_max,
        prior_std=sigma_min * (sigma_max / sigma_min) ** t_max,
        alpha=elementwise(jnp.ones_like),
        sigma=sigma,
        drift_rate=elementwise(jnp.zeros_like),
        diffusion=lambda t: math.sqrt(2 * log_ratio) * sigma(t),
        log_snr=elementwise(lambda t: -2 * (math.log(sigma_min) + log_ratio * t)),
        inverse_log_snr=elementwise(
            lambda log_snr: (-0.5 * log_snr - math.log(sigma_min)) / log_ratio
        ),
    )


@_same_for_equal_arguments
def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    """The process whose time is its noise scale: alpha = 1, sigma = t in [sigma_min, sigma_max].

    Karras et al. 2022, arXiv:2206.00364.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.
    """
    _check_sigmas(sigma_min, sigma_max)
    return Process(
        name=f"edm(sigma_min={sigma_min}, sigma_max={sigma_max})",
        t_min=sigma_min,
        t_max=sigma_max,
        prior_std=sigma_max,
        alpha=elementwise(jnp.ones_like),
        sigma=elementwise(lambda t: t),
        drift_rate=elementwise(jnp.zeros_like),
        diffusion=elementwise(lambda t: jnp.sqrt(2 * t)),
        log_snr=elementwise(lambda t: -2 * jnp.log(t)),
        inverse_log_snr=elementwise(lambda log_snr: jnp.exp(-0.5 * log_snr)),
    )


@_same_for_equal_arguments
def cosine(offset: float = 0.008, t_min: float = 1e-4, t_max: float = 0.999) -> Process:
    """Cosine process: alpha = cos(a)/cos(a_0) with a = (pi/2)(t + offset)/(1 + offset).

    sigma^2 = 1 - alpha^2. Nichol and Dhariwal 2021, arXiv:2102.09672, eq. (17), in continuous
    time. alpha vanishes at t = 1, where the SDE's coefficients diverge, so t_max < 1.

    Raises:
        ValueError: unless offset >= 0 and 0 < t_min < t_max < 1.
    """
    if not 0 <= offset < math.inf:
        raise ValueError(f"offset={offset}: expected a number >= 0")
    _check_range(t_min, t_max, highest=1.0)
    speed = 0.5 * math.pi / (1 + offset)  # of the angle
    start = speed * offset
    left = elementwise(lambda t: speed * (1 - t))  # pi/2 - a: cos(a) cancels near t = 1

    def variance(t: Array) -> Array:  # 1 - cos^2(a)/cos^2(a_0) without the cancellation
        t = as_time(t)
        return jnp.sin(speed * t) * jnp.sin(speed * t + 2 * start) / math.cos(start) ** 2

    def inverse_log_snr(log_snr: Array) -> Array:
        signal, noise = jax.nn.sigmoid(as_time(log_snr)), jax.nn.sigmoid(-as_time(log_snr))
        sine = jnp.sqrt(math.sin(start) ** 2 + math.cos(start) ** 2 * noise)
        return jnp.arctan2(sine, math.cos(start) * jnp.sqrt(signal)) / speed - offset

    return Process(
        name=f"cosine(offset={offset})",
        t_min=t_min,
        t_max=t_max,
        prior_std=1.0,
        alpha=lambda t: jnp.sin(left(t)) / math.cos(start),
        sigma=lambda t: jnp.sqrt(variance(t)),
        drift_rate=lambda t: -speed / jnp.tan(left(t)),
        diffusion=lambda t: jnp.sqrt(2 * speed / jnp.tan(left(t))),
        log_snr=lambda t: 2 * jnp.log(jnp.sin(left(t)) / math.cos(start)) - jnp.log(variance(t)),
        inverse_log_snr=inverse_log_snr,
    )


@_same_for_equal_arguments
def flow(t_min: float = 1e-4, t_max: float = 0.999) -> Process:
    """Rectified flow as a process: alpha = 1 - t, sigma = t, velocity eps - x_0.

    Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003. Noise lies at t = 1,
    where the drift rate -1/(1 - t) diverges, so t_max < 1; the prior is N(0, t_max^2 I).

    Raises:
        ValueError: unless 0 < t_min < t_max < 1.
    """
    _check_range(t_min, t_max, highest=1.0)
    return Process(
        name="flow()",
        t_min=t_min,
        t_max=t_max,
        prior_std=t_max,
        alpha=elementwise(lambda t: 1 - t),
        sigma=elementwise(lambda t: t),
        drift_rate=elementwise(lambda t: -1 / (1 - t)),
        diffusion=elementwise(lambda t: jnp.sqrt(2 * t / (1 - t))),
        log_snr=elementwise(lambda t: 2 * (jnp.log1p(-t) - jnp.log(t))),
        inverse_log_snr=elementwise(lambda log_snr: jax.nn.sigmoid(-0.5 * log_snr)),
    )


def from_alpha_sigma(
    alpha: Curve, sigma: Curve, t_min: float, t_max: float, prior_std: float | None = None
) -> Process:
    """The process of any pair of positive curves with a falling ratio alpha/sigma.

    Drift and diffusion come by autodiff, the inverse of log_snr by bisection.

    Args:
        alpha: signal scale, elementwise and differentiable in t.
        sigma: noise scale, elementwise and differentiable in t.
        t_min: smallest time.
        t_max: largest time.
        prior_std: standard deviation of the prior; None is sigma(t_max).
    Raises:
        ValueError: if t_min >= t_max, prior_std is not positive, or alpha or sigma is not positive
            or alpha/sigma does not fall on a grid of 257 times.
    """
    _check_range(t_min, t_max, lowest=-math.inf)
    if prior_std is not None and not 0 < prior_std < math.inf:
        raise ValueError(f"prior_std={prior_std}: expected a positive number")
    alpha, sigma = elementwise(alpha), elementwise(sigma)
    with jax.ensure_compile_time_eval():
        times = jnp.linspace(t_min, t_max, 257)
        alphas, sigmas = np.asarray(alpha(times)), np.asarray(sigma(times))
    if not (np.all(alphas > 0) and np.all(sigmas > 0)):
        raise ValueError("alpha and sigma: expected positive values on all of [t_min, t_max]")
    if not np.all(np.diff(sigmas / alphas) > 0):
        raise ValueError("alpha/sigma: expected a ratio that falls strictly from t_min to t_max")

    def log_snr(t: Array) -> Array:
        return 2 * (jnp.log(alpha(t)) - jnp.log(sigma(t)))

    def drift_rate(t: Array) -> Array:
        return derivative(alpha)(t) / alpha(t)

    def diffusion(t: Array) -> Array:  # g^2 = -sigma^2 (log_snr)'
        return sigma(t) * jnp.sqrt(-derivative(log_snr)(t))

    return Process(
        name=f"from_alpha_sigma(t_min={t_min}, t_max={t_max})",
        t_min=t_min,
        t_max=t_max,
        prior_std=float(sigmas[-1]) if prior_std is None else prior_std,
        alpha=alpha,
        sigma=sigma,
        drift_rate=drift_rate,
        diffusion=diffusion,
        log_snr=log_snr,
        inverse_log_snr=lambda value: bisect(log_snr, as_time(value), t_min, t_max),
    )


def alpha_sigma(process: Process, x: Array, t: Array | float | None) -> tuple[Array, Array]:
    """alpha and sigma, [B, 1, ...] or [1, 1, ...], to scale x by; (1, 0), the data, at t = None."""
    if t is None:
        one = jnp.ones((1,) * x.ndim, at_least_float32(x.dtype))
        return one, jnp.zeros_like(one)
    t = as_time(t).astype(at_least_float32(x.dtype))  # not below the precision of the states
    return expand(process.alpha(t), x), expand(process.sigma(t), x)


def _linear_beta(beta_min: float, beta_max: float) -> tuple[Curve, Curve, Curve]:
    """beta(t), B(t) = int_0^t beta and the inverse of B."""
    if not (0 <= beta_min <= beta_max < math.inf and beta_max > 0):
        raise ValueError(f"beta_min={beta_min}, beta_max={beta_max}: expected 0 <= min <= max > 0")
    slope = beta_max - beta_min

    def inverse(integral: Array) -> Array:  # the root form that does not cancel at small B
        return 2 * integral / (beta_min + jnp.sqrt(beta_min**2 + 2 * slope * integral))

    return (
        elementwise(lambda t: beta_min + slope * t),
        elementwise(lambda t: beta_min * t + 0.5 * slope * t**2),
        inverse,
    )


def _check_range(
    t_min: float, t_max: float, lowest: float | None = None, highest: float = math.inf
) -> None:
    above = t_min > 0 if lowest is None else t_min >= lowest
    if not (above and t_min < t_max < highest):
        bound = "0 <" if lowest is None else f"{lowest} <="
        raise ValueError(
            f"t_min={t_min}, t_max={t_max}: expected {bound} t_min < t_max < {highest}"
        )


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: expected 0 < min < max")
