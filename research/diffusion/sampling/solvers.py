"""Runge-Kutta solvers of the probability-flow ODE, in the variables of one's choice.

dx/dt = f x - g^2 score / 2 (Song et al. 2021, arXiv:2011.13456, eq. (13)). In other variables the
same flow is simpler, and a method keeps its order with another error:

| variable | state | clock | slope |
|---|---|---|---|
| "time" | x | t | f x - g^2 score / 2 |
| "sigma" | x / alpha | sigma / alpha | eps = -sigma score (EDM, DDIM) |
| "log_snr" | x / r | log(alpha^2/sigma^2) | (sigma^2 / 2 r^2) (x / r + r score) |

with r^2 = alpha^2 + sigma^2. The last form is the flow of the variance-preserving process of the
same signal-to-noise ratio: state and slope stay of the order of one from end to end, and on steps
of equal log-SNR its errors are by far the smallest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp

from library.types import Array
from research.diffusion.processes import Process
from research.diffusion.sampling import solver_tables
from research.diffusion.sampling.solver_tables import Table

VARIABLES = ("time", "sigma", "log_snr")


class Solver(Protocol):
    """A frozen value that turns a process and a grid into a table."""

    def table(self, process: Process, times: Array) -> Table:
        """The coefficients of the steps between falling `times` [n + 1]."""


@flax.struct.dataclass
class Churn:
    """Noise added before each step, EDM's algorithm 2 (arXiv:2206.00364), one entry a parameter.

    Attributes:
        amount: S_churn, total relative rise of the noise level over all steps.
        low: S_tmin, noise level sigma/alpha below which none is added.
        high: S_tmax, noise level above which none is added.
        inflation: S_noise, factor on the added noise's standard deviation.
    """

    amount: float | Array
    low: float | Array
    high: float | Array
    inflation: float | Array


@flax.struct.dataclass
class RungeKutta:
    """An explicit Runge-Kutta method, one evaluation a stage.

    Attributes:
        stages: for each stage after the first the weights of the earlier slopes.
        weights: of all slopes in the step; the tableau's last row.
        variable: one of `VARIABLES`.
        churn: noise before each step, or None.
    """

    stages: tuple[tuple[float, ...], ...] = flax.struct.field(pytree_node=False)
    weights: tuple[float, ...] = flax.struct.field(pytree_node=False)
    variable: str = flax.struct.field(pytree_node=False)
    churn: Churn | None = None

    def table(self, process: Process, times: Array) -> Table:
        """Rows of the stages of all steps; see `Solver`."""
        num_stages = len(self.weights)
        first, last = times[:-1], times[1:]
        if self.churn is not None:
            first, scale, before = _churned(process, first, self.churn)
        frame = FRAMES[self.variable]
        clock = frame.clock(process, first)
        stride = frame.clock(process, last) - clock
        fractions = [0.0, *(sum(row) for row in self.stages)]
        nodes = [_node(process, frame, first, last, clock + c * stride, c) for c in fractions]
        nodes.append(last)
        rows = []
        for weights, node in zip((*self.stages, self.weights), nodes[1:]):
            outer, inner = frame.scale(process, node), frame.scale(process, first)
            slopes = [outer * stride * weight for weight in reversed(weights)]  # newest first
            rest = [jnp.zeros_like(stride)] * (num_stages - len(weights))
            rows.append(jnp.stack([outer / inner, *slopes, *rest], -1))  # [n, 1 + K]
        values = [jnp.stack(frame.slope(process, node), -1) for node in nodes[:-1]]
        table = solver_tables.staged(nodes, values, rows)
        if self.churn is None:
            return table
        ones = [jnp.ones_like(stride)] * (num_stages - 1)
        zeros = [jnp.zeros_like(stride)] * (num_stages - 1)
        return table.replace(
            scale=solver_tables.interleave([scale, *ones]),
            before=solver_tables.interleave([before, *zeros]),
        )


def euler(variable: str = "sigma") -> RungeKutta:
    """Euler's method, order 1. In the variable "sigma" it is DDIM and DPM-Solver-1.

    Raises:
        ValueError: if `variable` is none of `VARIABLES`.
    """
    return _runge_kutta((), (1.0,), variable)


def midpoint(variable: str = "sigma") -> RungeKutta:
    """The midpoint method, order 2, two evaluations a step; args as `euler`."""
    return _runge_kutta(((0.5,),), (0.0, 1.0), variable)


def heun(
    variable: str = "sigma",
    *,
    churn: float | Array = 0.0,
    churn_min: float | Array = 0.0,
    churn_max: float | Array = float("inf"),
    churn_noise: float | Array = 1.0,
) -> RungeKutta:
    """Heun's method, order 2, two evaluations a step, with EDM's stochastic churn on request.

    Karras et al. 2022, arXiv:2206.00364, algorithms 1 and 2. The level never rises above that of
    t_max, and the step to zero noise of a `to_zero` grid is not churned.

    Args:
        variable: one of `VARIABLES`.
        churn: S_churn; 0 is the deterministic method.
        churn_min: S_tmin, a noise level sigma/alpha.
        churn_max: S_tmax, a noise level sigma/alpha.
        churn_noise: S_noise.
    Raises:
        ValueError: if `variable` is none of `VARIABLES`, or a parameter of the churn is negative.
    """
    churns = {"churn": churn, "churn_min": churn_min, "churn_max": churn_max}
    for name, value in (churns | {"churn_noise": churn_noise}).items():
        if isinstance(value, (int, float)) and not value >= 0:
            raise ValueError(f"{name}={value}: expected a number >= 0")
    still = isinstance(churn, (int, float)) and churn == 0
    noise = None if still else Churn(churn, churn_min, churn_max, churn_noise)
    return _runge_kutta(((1.0,),), (0.5, 0.5), variable, noise)


def rk4(variable: str = "sigma") -> RungeKutta:
    """The classical Runge-Kutta method, order 4, four evaluations a step; args as `euler`."""
    stages = ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    return _runge_kutta(stages, (1 / 6, 1 / 3, 1 / 3, 1 / 6), variable)


@flax.struct.dataclass
class Frame:
    """Variables of the flow: state x/scale, its clock, and weights of x and score in the slope."""

    scale: Callable[[Process, Array], Array]
    clock: Callable[[Process, Array], Array]
    time: Callable[[Process, Array], Array]
    slope: Callable[[Process, Array], tuple[Array, Array]]


def _radius(process: Process, t: Array) -> Array:
    return jnp.hypot(process.alpha(t), process.sigma(t))


def _log_snr_slope(process: Process, t: Array) -> tuple[Array, Array]:
    radius, noise = _radius(process, t), 0.5 * jax.nn.sigmoid(-process.log_snr(t))
    return noise / radius, noise * radius


FRAMES = {
    "time": Frame(
        scale=lambda process, t: jnp.ones_like(t),
        clock=lambda process, t: t,
        time=lambda process, clock: clock,
        slope=lambda process, t: (process.drift_rate(t), -0.5 * process.diffusion(t) ** 2),
    ),
    "sigma": Frame(
        scale=lambda process, t: process.alpha(t),
        clock=lambda process, t: jnp.exp(-0.5 * process.log_snr(t)),
        time=lambda process, clock: process.inverse_log_snr(-2 * jnp.log(clock)),
        slope=lambda process, t: (jnp.zeros_like(t), -process.sigma(t)),
    ),
    "log_snr": Frame(
        scale=_radius,
        clock=lambda process, t: process.log_snr(t),
        time=lambda process, clock: process.inverse_log_snr(clock),
        slope=_log_snr_slope,
    ),
}


def _runge_kutta(
    stages: tuple, weights: tuple, variable: str, churn: Churn | None = None
) -> RungeKutta:
    if variable not in VARIABLES:
        raise ValueError(f"variable={variable!r}: expected one of {', '.join(VARIABLES)}")
    return RungeKutta(stages=stages, weights=weights, variable=variable, churn=churn)


def _node(
    process: Process, frame: Frame, first: Array, last: Array, clock: Array, fraction: float
) -> Array:
    """The times at a fraction of each step, the ends to the last bit."""
    if fraction in (0.0, 1.0):
        return last if fraction else first
    return frame.time(process, clock)


def _churned(process: Process, times: Array, churn: Churn) -> tuple[Array, Array, Array]:
    """Raised times, the rescaling to their signal level and the noise that raises the level."""
    level = jnp.exp(-0.5 * process.log_snr(times))
    rise = jnp.minimum(churn.amount / times.shape[0], 2**0.5 - 1)
    rise = jnp.where((level >= churn.low) & (level <= churn.high), rise, 0)
    raised = jnp.minimum(level * (1 + rise), jnp.exp(-0.5 * process.log_snr(process.t_max)))
    active = raised > level
    raised_times = jnp.where(active, process.inverse_log_snr(-2 * jnp.log(raised)), times)
    alpha = process.alpha(raised_times)
    gap = jnp.where(active, raised**2 - level**2, 0)
    return raised_times, alpha / process.alpha(times), churn.inflation * alpha * jnp.sqrt(gap)
