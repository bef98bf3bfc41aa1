"""Which times a loss sees, and how it weighs them.

Both are functions, passed to the losses. A weighting maps (process, t [B]) to the factor [B] on the
mean squared error of the *noise* prediction. Since every kind of prediction has an error
proportional to the noise error, one weighting means the same loss for every kind; Kingma and Gao
2023, arXiv:2303.00848, show how far this view reaches. With lambda = log SNR the weighted loss is
(1/2) int w(lambda) E|eps - eps_hat|^2 dlambda for the w that `likelihood` and `sigmoid` name.

A choice of times maps (process, u [B]) to the u-quantiles t [B] of their density p(t) and a
factor [B] on the loss: 1 where p is part of the loss's definition, (density of uniform times) /
p(t) where p only lowers the variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from library import checks
from library.types import Array
from research.diffusion import predictions
from research.diffusion.curves import as_time, derivative, wide
from research.diffusion.processes import Process

Weighting = Callable[[Process, Array], Array]
Times = Callable[[Process, Array], tuple[Array, Array]]


def noise_gain(process: Process, t: Array, kind: str) -> Array:
    """[B] factor that turns an error in a prediction of `kind` into one in the noise."""
    t = as_time(t)
    return predictions.convert(process, jnp.ones_like(t), jnp.zeros_like(t), t, kind, "noise")


def uniform(kind: str = "noise") -> Weighting:
    """Weight 1 on the squared error of a prediction of this kind.

    "noise" gives DDPM's simple loss (arXiv:2006.11239, eq. (14)), "velocity" flow matching
    (arXiv:2210.02747), "v" the SNR + 1 weighting (arXiv:2202.00512).
    """
    if kind not in predictions.KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(predictions.KINDS)}")
    return lambda process, t: noise_gain(process, t, kind) ** -2


def likelihood(process: Process, t: Array) -> Array:
    """g^2 / (2 sigma^2), times the length of the time range: nats a dimension.

    Song et al. 2021, arXiv:2101.09258: bounds the Kullback-Leibler divergence of the model law.
    """
    return _log_snr_speed(process, t) * (process.t_max - process.t_min) / 2


def edm(data_std: float = 0.5) -> Weighting:
    """(sigma^2 + d^2) / (sigma d)^2 on the data error at noise scale sigma = sigma(t) / alpha(t).

    Karras et al. 2022, arXiv:2206.00364, table 1. The loss of a network without output is 1.
    """
    if not 0 < data_std < math.inf:
        raise ValueError(f"data_std={data_std}: expected a positive number")
    return lambda process, t: 1 + jnp.exp(-process.log_snr(t)) / data_std**2


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on the data error, Hang et al. 2023, arXiv:2303.09556, eq. (8)."""
    if not 0 < gamma < math.inf:
        raise ValueError(f"gamma={gamma}: expected a positive number")
    return lambda process, t: jnp.minimum(1, gamma * jnp.exp(-process.log_snr(t)))


def sigmoid(bias: float = 0.0) -> Weighting:
    """sigmoid(bias - lambda) per unit of log SNR, Hoogeboom et al. 2024, arXiv:2410.19324."""
    if not math.isfinite(bias):
        raise ValueError(f"bias={bias}: expected a finite number")
    return lambda process, t: likelihood(process, t) * jax.nn.sigmoid(bias - process.log_snr(t))


def uniform_times(process: Process, u: Array) -> tuple[Array, Array]:
    """Uniform in [t_min, t_max]."""
    u = wide(u)
    return process.t_min + (process.t_max - process.t_min) * u, jnp.ones_like(u)


def uniform_log_snr(process: Process, u: Array) -> tuple[Array, Array]:
    """Uniform in log SNR, corrected: the same expected loss as `uniform_times`.

    The density is proportional to g^2 / sigma^2: the importance sampling of arXiv:2101.09258,
    under which the likelihood weighting becomes a constant.
    """
    u = wide(u)
    ends = process.log_snr(jnp.array([process.t_min, process.t_max], u.dtype))
    t = process.inverse_log_snr(ends[0] + (ends[1] - ends[0]) * u)
    t = jnp.clip(t, process.t_min, process.t_max)
    uniform_density = 1 / (process.t_max - process.t_min)
    return t, uniform_density * (ends[0] - ends[1]) / _log_snr_speed(process, t)


def on_steps(num_steps: int) -> Times:
    """Uniform on the times i/N, i = 1 ... N, of a discrete process of N steps."""
    checks.count("num_steps", num_steps)

    def times(process: Process, u: Array) -> tuple[Array, Array]:
        u = wide(u)
        return (jnp.floor(num_steps * u) + 1) / num_steps, jnp.ones_like(u)

    return times


def log_normal(mean: float = -1.2, std: float = 1.2) -> Times:
    """Normal log(sigma / alpha), cut to the process's range; part of the loss, not corrected.

    Karras et al. 2022, arXiv:2206.00364, table 1, for the noise scales of training.
    """
    if not (0 < std < math.inf and math.isfinite(mean)):
        raise ValueError(f"mean={mean}, std={std}: expected numbers, the second one positive")

    def times(process: Process, u: Array) -> tuple[Array, Array]:
        u = wide(u)
        ends = -process.log_snr(jnp.array([process.t_min, process.t_max], u.dtype)) / 2
        low, high = ndtr((ends - mean) / std)
        log_sigma = mean + std * ndtri(low + (high - low) * u)
        t = process.inverse_log_snr(-2 * jnp.clip(log_sigma, ends[0], ends[1]))
        return jnp.clip(t, process.t_min, process.t_max), jnp.ones_like(u)

    return times


def _log_snr_speed(process: Process, t: Array) -> Array:
    """-d lambda / dt = g^2 / sigma^2 > 0."""
    return -derivative(process.log_snr)(t)
