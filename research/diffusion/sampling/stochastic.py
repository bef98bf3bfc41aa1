"""Stochastic samplers: reverse-SDE steps, DDIM with eta, Langevin correctors and their pairing.

The exact forward transition from t' < t is x_t = a x_t' + G z with a = alpha/alpha' and
G^2 = sigma^2 - a^2 sigma'^2 = -sigma^2 expm1(log_snr - log_snr'); for DDPM a^2 = 1 - beta_i and
G^2 = beta_i. All methods here take one evaluation a step.
"""

from __future__ import annotations

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array
from research.diffusion.processes import Process
from research.diffusion.sampling import solver_tables
from research.diffusion.sampling.solver_tables import Table
from research.diffusion.sampling.solvers import Solver

VARIANCES = ("posterior", "upper")


@flax.struct.dataclass
class EulerMaruyama:
    """See `euler_maruyama`."""

    def table(self, process: Process, times: Array) -> Table:
        """One row a step; see `solvers.Solver`."""
        t, dt = times[:-1], times[:-1] - times[1:]
        g = process.diffusion(t)
        weights = 1 - dt * process.drift_rate(t), dt * g**2
        return solver_tables.single(times, _score_value(t), weights, after=g * jnp.sqrt(dt))


@flax.struct.dataclass
class ReverseDiffusion:
    """See `reverse_diffusion`."""

    flow: bool = flax.struct.field(pytree_node=False)

    def table(self, process: Process, times: Array) -> Table:
        """One row a step; see `solvers.Solver`."""
        a, variance = _transition(process, times)
        value = _score_value(times[:-1])
        if self.flow:
            return solver_tables.single(times, value, (2 - a, 0.5 * variance))
        return solver_tables.single(times, value, (2 - a, variance), after=jnp.sqrt(variance))


@flax.struct.dataclass
class Ancestral:
    """See `ancestral`."""

    variance: str = flax.struct.field(pytree_node=False)

    def table(self, process: Process, times: Array) -> Table:
        """One row a step; see `solvers.Solver`."""
        a, variance = _transition(process, times)
        noise = jnp.sqrt(variance)
        if self.variance == "posterior":
            noise = noise * process.sigma(times[1:]) / process.sigma(times[:-1])
        return solver_tables.single(times, _score_value(a), (1 / a, variance / a), after=noise)


@flax.struct.dataclass
class DDIM:
    """x' = alpha' x_0 + sqrt(sigma'^2 - c^2) eps + c z with c = eta G sigma'/sigma.

    Song et al. 2021, arXiv:2010.02502, eq. (12). eta = 1 is `ancestral`.
    """

    eta: float | Array

    def table(self, process: Process, times: Array) -> Table:
        """One row a step; see `solvers.Solver`."""
        a, variance = _transition(process, times)
        sigma, next_sigma = process.sigma(times[:-1]), process.sigma(times[1:])
        noise = self.eta * jnp.sqrt(variance) * next_sigma / sigma
        direction = jnp.sqrt(next_sigma**2 - noise**2)
        weights = 1 / a, sigma**2 / a - direction * sigma
        return solver_tables.single(times, _score_value(a), weights, after=noise)


@flax.struct.dataclass
class Langevin:
    """See `langevin`."""

    snr: float | Array
    num_steps: int = flax.struct.field(pytree_node=False)
    measured: bool = flax.struct.field(pytree_node=False)

    def table(self, process: Process, times: Array) -> Table:
        """`num_steps` rows at every time after the first; see `solvers.Solver`."""
        num_grid_steps = times.shape[0] - 1
        t = jnp.repeat(times[1:], self.num_steps)
        size = 2 * (process.alpha(t) * self.snr) ** 2
        if self.measured:
            after, move, langevin = None, jnp.zeros_like(t), size
        else:
            move = size * process.sigma(t) ** 2
            after, langevin = jnp.sqrt(2 * move), None
        ends = np.arange(num_grid_steps * self.num_steps) % self.num_steps == self.num_steps - 1
        steps = np.where(ends, np.arange(len(ends)) // self.num_steps + 1, -1)
        table = solver_tables.single(
            jnp.append(t, t[-1]), _score_value(t), (jnp.ones_like(t), move), after, langevin
        )
        return table.replace(reached=t, step=tuple(steps.tolist()))


@dataclasses.dataclass(frozen=True)
class PredictorCorrector:
    """See `predictor_corrector`."""

    predictor: Solver
    corrector: Langevin

    def table(self, process: Process, times: Array) -> Table:
        """A predictor row and the corrector's rows for each step; see `solvers.Solver`."""
        predicted = self.predictor.table(process, times)
        corrected = self.corrector.table(process, times)
        num_steps = times.shape[0] - 1
        if predicted.base is not None or predicted.num_rows != num_steps:
            raise ValueError(
                f"predictor={self.predictor}: expected a solver of one evaluation a step"
            )
        if predicted.num_values > 1:
            raise ValueError(f"predictor={self.predictor}: expected one without memory")
        both = solver_tables.join(predicted, corrected)
        order = np.concatenate(
            [
                np.arange(num_steps)[:, None],
                num_steps + np.arange(corrected.num_rows).reshape(num_steps, -1),
            ],
            axis=1,
        ).ravel()
        step = np.append(np.full(num_steps, -1), corrected.step)[order]
        both = jax.tree.map(lambda column: column[order], both)
        return both.replace(step=tuple(step.tolist()))


def euler_maruyama() -> EulerMaruyama:
    """Euler-Maruyama for the reverse SDE dx = (f x - g^2 score) dt + g dw, Song et al. 2021, (6).

    arXiv:2011.13456. The noise is additive, so the strong order is 1, as is the weak order.
    """
    return EulerMaruyama()


def reverse_diffusion(flow: bool = False) -> ReverseDiffusion:
    """x' = (2 - a) x + G^2 score + G z, Song et al. 2021, arXiv:2011.13456, eq. (46).

    Args:
        flow: the deterministic twin with half the score and no noise, their "probability flow"
            predictor, eq. (47).
    """
    return ReverseDiffusion(flow=flow)


def ancestral(variance: str = "posterior") -> Ancestral:
    """x' = (x + G^2 score)/a + noise, the sampler of DDPM (Ho et al. 2020, arXiv:2006.11239).

    Args:
        variance: "posterior", (G sigma'/sigma)^2, right for one-point data, or "upper", G^2, right
            for Gaussian data (DDPM section 3.2).
    Raises:
        ValueError: if `variance` is neither.
    """
    if variance not in VARIANCES:
        raise ValueError(f"variance={variance!r}: expected one of {', '.join(VARIANCES)}")
    return Ancestral(variance=variance)


def langevin(snr: float | Array, num_steps: int = 1, measured: bool = True) -> Langevin:
    """Annealed Langevin dynamics: x + h score + sqrt(2 h) z at every time of the grid.

    Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5: h = 2 alpha^2 (snr |z|/|score|)^2.
    The norms are each sample's own, so a sample does not depend on its batch.

    Args:
        snr: r, the wanted ratio of the score's move to the noise's.
        num_steps: Langevin steps at each time.
        measured: False replaces |z|/|score| by its value sigma for one-point data: then the step
            is linear and `moments` follows it exactly.
    Raises:
        ValueError: if num_steps is no positive whole number, or snr is negative.
    """
    checks.count("num_steps", num_steps)
    if isinstance(snr, (int, float)) and not 0 <= snr < math.inf:
        raise ValueError(f"snr={snr}: expected a number >= 0")
    return Langevin(snr=snr, num_steps=num_steps, measured=measured)


def predictor_corrector(predictor: Solver, corrector: Langevin) -> PredictorCorrector:
    """After each step of the predictor, the corrector at the time reached.

    Song et al. 2021, arXiv:2011.13456, algorithm 1.

    Args:
        predictor: any solver of one evaluation a step without memory: `euler_maruyama`,
            `reverse_diffusion`, `ancestral`, `ddim`, `solvers.euler`.
        corrector: made by `langevin`.
    Raises:
        ValueError: if the corrector is no `Langevin`; when solving, if the predictor has stages
            or memory.
    """
    if not isinstance(corrector, Langevin):
        raise ValueError(f"corrector={corrector!r}: expected a value made by langevin()")
    return PredictorCorrector(predictor, corrector)


def _score_value(like: Array) -> tuple[Array, Array]:
    """The remembered value is the score itself."""
    return jnp.zeros_like(like), jnp.ones_like(like)


def _transition(process: Process, times: Array) -> tuple[Array, Array]:
    """a and G^2 of the forward transitions along the steps, each [n]."""
    t, t_next = times[:-1], times[1:]
    rise = process.log_snr(t_next) - process.log_snr(t)
    return process.alpha(t) / process.alpha(t_next), -(process.sigma(t) ** 2) * jnp.expm1(-rise)
