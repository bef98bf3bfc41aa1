"""DDPM's tables of betas as a view of a process, and a process as a view of such a table."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array
from research.diffusion.curves import as_time
from research.diffusion.processes import Process


@dataclasses.dataclass(frozen=True, eq=False)
class Betas:
    """A discrete noising process x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z, i = 1 ... N.

    Ho et al. 2020, arXiv:2006.11239, eq. (2). Step i of N stands for the time i/N.

    Attributes:
        betas: [N] float64, in (0, 1). A last beta of 1 ("zero terminal SNR") leaves no signal:
            there the noise says nothing of the data and no score exists.
    Raises:
        ValueError: if there are none, or one is not in (0, 1).
    """

    betas: np.ndarray

    def __post_init__(self) -> None:
        betas = np.asarray(self.betas, np.float64)
        if betas.ndim != 1 or not len(betas):
            raise ValueError(f"betas of shape {betas.shape}: expected [N] with N >= 1")
        if not np.all((betas > 0) & (betas < 1)):
            raise ValueError(
                f"betas from {betas.min()} to {betas.max()}: expected numbers in (0, 1)"
            )
        object.__setattr__(self, "betas", betas)

    @property
    def log_alpha_bar(self) -> np.ndarray:
        """[N], log of the products of 1 - beta up to each step."""
        return np.cumsum(np.log1p(-self.betas))

    @property
    def alpha_bar(self) -> np.ndarray:
        """[N], alpha^2 of each step."""
        return np.exp(self.log_alpha_bar)

    @property
    def posterior_variance(self) -> np.ndarray:
        """[N], variance of x_{i-1} given x_i and x_0, eq. (7): beta (1 - abar_-)/(1 - abar)."""
        remaining = -np.expm1(self.log_alpha_bar)
        return self.betas * np.append(0.0, remaining[:-1]) / remaining


def linear_betas(num_steps: int = 1000, beta_min: float = 0.1, beta_max: float = 20.0) -> Betas:
    """DDPM's betas: beta(t)/N of `processes.vp` at N times from 0 to 1.

    1000 steps and the default ends give 1e-4 ... 0.02.

    Raises:
        ValueError: if num_steps is no positive whole number or a beta is not in (0, 1).
    """
    checks.count("num_steps", num_steps)
    return Betas(np.linspace(beta_min, beta_max, num_steps) / num_steps)


def exact_betas(process: Process, num_steps: int) -> Betas:
    """The betas whose products meet alpha^2 of a variance-preserving process at all times i/N.

    Raises:
        ValueError: if num_steps is no positive whole number, alpha^2 + sigma^2 is not 1 or a beta
            is not in (0, 1).
    """
    checks.count("num_steps", num_steps)
    times = np.linspace(0, process.t_max, num_steps + 1)[1:]
    alpha, sigma = np.asarray(process.alpha(times)), np.asarray(process.sigma(times))
    if not np.allclose(alpha**2 + sigma**2, 1, atol=1e-5):
        raise ValueError(f"{process.name}: expected a process with alpha^2 + sigma^2 = 1")
    squares = alpha.astype(np.float64) ** 2
    return Betas(1 - squares / np.append(1.0, squares[:-1]))


def from_betas(table: Betas) -> Process:
    """The continuous process through a table: log alpha^2 linear in t between the times i/N.

    It brings networks trained on integer steps i = N t into every sampler here. Its slope jumps at
    the table's times, so no solver keeps its order on steps finer than the table.
    """
    num_steps = len(table.betas)
    knots = np.arange(num_steps + 1) / num_steps
    decay = np.append(0.0, -table.log_alpha_bar)  # -log alpha^2 at the knots
    rates = np.diff(decay) * num_steps

    def integral(t: Array) -> Array:
        t = as_time(t)
        return jnp.interp(t, jnp.asarray(knots, t.dtype), jnp.asarray(decay, t.dtype))

    def rate(t: Array) -> Array:
        t = as_time(t)
        index = jnp.clip(jnp.ceil(t * num_steps).astype(int) - 1, 0, num_steps - 1)
        return jnp.asarray(rates, t.dtype)[index]

    def inverse(log_snr: Array) -> Array:
        value = jnp.logaddexp(0.0, -as_time(log_snr))
        return jnp.interp(value, jnp.asarray(decay, value.dtype), jnp.asarray(knots, value.dtype))

    return Process(
        name=f"from_betas({num_steps} steps)",
        t_min=1 / num_steps,
        t_max=1.0,
        prior_std=1.0,
        alpha=lambda t: jnp.exp(-0.5 * integral(t)),
        sigma=lambda t: jnp.sqrt(-jnp.expm1(-integral(t))),
        drift_rate=lambda t: -0.5 * rate(t),
        diffusion=lambda t: jnp.sqrt(rate(t)),
        log_snr=lambda t: -jnp.log(jnp.expm1(integral(t))),
        inverse_log_snr=inverse,
    )
