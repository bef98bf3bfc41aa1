"""What to train next: the optimal size and tokens for a budget, each with an interval, and scores.

The compute-optimal frontier of a law L(N, D) is where a little compute is worth the same spent on
either: d log L / d log N = d log L / d log D, for C = 6 N D. For Chinchilla's law it is
N = G (C / 6)^(beta / (alpha + beta)), G = (alpha A / (beta B))^(1 / (alpha + beta)).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library.statistics import intervals
from library.types import Array
from research.scaling_laws.fits import fitting
from research.scaling_laws.laws import Law
from research.scaling_laws.runs import Runs

BISECTIONS = 100  # halvings of a bracket of 2 * REACH nats
REACH = 60.0  # half width of the bracket of log N, nats
NORMAL_DRAWS = 2000  # draws from the normal approximation where there is no bootstrap
MODES = ("compute", "parameters", "tokens")
VANISHED = 1e-6  # slope of log loss at all runs below which a term is not in the fit
FAR = 100.0  # times the largest run's compute beyond which a plan warns


class ExtrapolationWarning(UserWarning):
    """A plan lies far beyond the runs."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A point on the compute-optimal frontier.

    Attributes:
        parameters, tokens, flops, loss: the optimum.
        intervals: {"parameters": (low, high), ...} of the four, and of the ratio
            "tokens_per_parameter".
        level: coverage of the intervals.
        extrapolation: flops over those of the largest run in the fit, both 6 N D.
        draws: {name: [R]} what the intervals are quantiles of.
    """

    parameters: float
    tokens: float
    flops: float
    loss: float
    intervals: dict[str, tuple[float, float]]
    level: float
    extrapolation: float
    draws: dict[str, np.ndarray]

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.parameters

    @property
    def warning(self) -> str:
        """What to say first of a plan that lies more than `FAR` times beyond the largest run."""
        if not self.extrapolation > FAR:
            return ""
        return (
            f"the plan is {self.extrapolation:,.0f} times the largest run's compute: beyond "
            f"{FAR:g} times it rests on the form of the law, which its intervals do not cover"
        )


def plan(
    fit: fitting.Fit | fitting.Bootstrap,
    *,
    compute: float | None = None,
    parameters: float | None = None,
    tokens: float | None = None,
    level: float = 0.95,
) -> Plan:
    """The compute-optimal run of a budget, or the one whose size or tokens are given.

    Args:
        fit: a fit of a law of parameters and tokens; a `Bootstrap` gives percentile intervals of
            its draws, a `Fit` those of the normal approximation to its parameters.
        compute: FLOP, C = 6 N D; or
        parameters: N, for the tokens and the compute at which it is optimal; or
        tokens: D, likewise.
        level: coverage of the intervals.
    Returns:
        `Plan`; one beyond `FAR` times the largest run is warned of, `ExtrapolationWarning`.
    Raises:
        ValueError: unless exactly one of the three is given, positive, and the law has both
            columns; where a term of the law has vanished in the fit, so that it has no optimum.
    """
    given = {"compute": compute, "parameters": parameters, "tokens": tokens}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"give exactly one of {', '.join(MODES)}: got {', '.join(given) or 'none'}"
        )
    (mode, amount), boot = next(iter(given.items())), None
    if not (amount > 0 and math.isfinite(amount)):
        raise ValueError(f"{mode}={amount}: expected a positive number")
    intervals.tails(level)  # refuses what is no level
    if isinstance(fit, fitting.Bootstrap):
        fit, boot = fit.fit, fit
    if set(fit.law.columns) != {"parameters", "tokens"} or fit.law.target != "loss":
        raise ValueError(f"{fit.law.name} is no law of the loss in parameters and tokens")
    _check_terms(fit)
    thetas = boot.thetas if boot else _normal_draws(fit)
    point = frontier(fit.law, fit.parameters, mode, amount)
    drawn = frontier(fit.law, fit.problem.parameters_of(thetas), mode, amount)
    made = Plan(
        **{name: float(point[name]) for name in ("parameters", "tokens", "flops", "loss")},
        intervals={name: _interval(values, level) for name, values in drawn.items()},
        level=level,
        extrapolation=fit.report.extrapolation(float(point["flops"])),
        draws=drawn,
    )
    if made.warning:
        warnings.warn(made.warning, ExtrapolationWarning, stacklevel=2)
    return made


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """Of draws, those that are no number left out; nan where none is one."""
    values = values[~np.isnan(values)]
    return intervals.percentile(values, level) if len(values) else (math.nan, math.nan)


def _check_terms(fit: fitting.Fit) -> None:
    """Refuses a fit whose loss does not depend on one of its columns at any run."""
    law, problem = fit.law, fit.problem.uncentred()
    theta = jnp.asarray(problem.parameters_from(fit.problem, fit.theta[:, None]))[:, 0]
    with jax.enable_x64(True):
        named = dict(zip(law.names, np.asarray(theta, np.float64)))
        value = lambda logs: jnp.sum(law.log_value(named, logs))  # noqa: E731
        slopes = jax.grad(value)({k: jnp.asarray(v) for k, v in problem.solver.columns.items()})
    for name, slope in slopes.items():
        if np.max(np.abs(slope)) < VANISHED:
            raise ValueError(
                f"{law.name}: the term in {name} has vanished in the fit (the loss does not change "
                f"with {name} at any run), so no size is optimal; look at the runs' losses"
            )


def frontier(
    law: Law, parameters: dict[str, Any], mode: str, amount: float
) -> dict[str, np.ndarray]:
    """The optimum for law parameters of any shape [...]: {"parameters": [...], "tokens": ...}.

    Where a term has vanished all compute goes to the other: 0 parameters or 0 tokens.
    """
    scales = {scale.name for scale in law.scales}
    with jax.enable_x64(True), np.errstate(divide="ignore"):
        theta = {
            name: np.log(value) if name in scales else np.asarray(value, np.float64)
            for name, value in parameters.items()
        }
        out = _frontier(law.log_value, mode, theta, np.float64(math.log(amount)))
        log_n, log_d, log_product, log_loss = map(np.asarray, jax.device_get(out))
    return {
        "parameters": np.exp(log_n),
        "tokens": np.exp(log_d),
        "flops": 6 * np.exp(log_product),
        "loss": np.exp(log_loss),
        "tokens_per_parameter": np.exp(log_d - log_n),
    }


def exponents(parameters: dict[str, Any]) -> dict[str, Any]:
    """Of Chinchilla's law: N ~ C^a, D ~ C^b, L - E ~ C^-c."""
    alpha, beta = parameters["alpha"], parameters["beta"]
    total = alpha + beta
    return {"a": beta / total, "b": alpha / total, "c": alpha * beta / total}


@dataclasses.dataclass(frozen=True)
class RollOut:
    """Predictions of runs that were left out of the fit.

    Attributes:
        fit: to the small runs.
        held_out: the large ones.
        predicted: [M] for them.
        relative_errors: [M] predicted / measured - 1.
    """

    fit: fitting.Fit
    held_out: Runs
    predicted: np.ndarray
    relative_errors: np.ndarray

    @property
    def mean_absolute(self) -> float:
        return float(np.mean(np.abs(self.relative_errors)))


def roll_out(
    law: Law, runs: Runs, by: str = "flops", share: float = 0.75, **options: Any
) -> RollOut:
    """Fits the smaller runs and predicts the larger.

    Args:
        law, runs: as for `fitting.fit`.
        by: the column that orders the runs.
        share: of the runs that are fitted, the smallest ones; ties go to the fit.
        options: as for `fitting.fit`.
    Raises:
        ValueError: if no run is left out.
    """
    size = runs.column(by)
    small = size <= np.quantile(size, share)
    if small.all():
        raise ValueError(f"share={share} leaves no run out of the fit")
    fit = fitting.fit(law, runs.take(small), **options)
    large = runs.take(~small)
    predicted = fit.predict(**{name: large.column(name) for name in law.columns})
    return RollOut(fit, large, predicted, predicted / large.column(law.target) - 1)


def _normal_draws(fit: fitting.Fit) -> np.ndarray:
    """[P, R] theta from the normal with the fit's covariance; one nan where that is not finite."""
    rng = np.random.default_rng(0)
    if not np.all(np.isfinite(fit.covariance)):
        return np.full((len(fit.theta), 1), np.nan)
    values, vectors = np.linalg.eigh(fit.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return fit.theta[:, None] + root @ rng.standard_normal((len(fit.theta), NORMAL_DRAWS))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _frontier(log_value, mode: str, theta: dict[str, Array], amount: Array) -> tuple:
    """log N, log D, log N D and log L where both slopes are equal, by bisection."""
    shape = jnp.broadcast_shapes(*(jnp.shape(value) for value in theta.values()))
    theta = {name: jnp.broadcast_to(value, shape) for name, value in theta.items()}

    def place(u: Array) -> tuple[Array, Array]:
        """log N and log D at the free coordinate."""
        if mode == "compute":
            return u, amount - math.log(6) - u
        held = jnp.broadcast_to(amount, shape)
        return (held, u) if mode == "parameters" else (u, held)

    def gap(u: Array) -> Array:
        """d log L / d log D - d log L / d log N: positive where parameters are worth more."""
        log_n, log_d = place(u)
        value = lambda n, d: jnp.sum(log_value(theta, {"parameters": n, "tokens": d}))  # noqa: E731
        by_n, by_d = jax.grad(value, (0, 1))(log_n, log_d)
        return by_d - by_n

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        grow = gap(middle) > 0
        # More tokens at fixed parameters make parameters worth more: the other direction.
        grow = ~grow if mode == "parameters" else grow
        return jnp.where(grow, middle, low), jnp.where(grow, high, middle)

    centre = amount / 2 if mode == "compute" else amount
    ends = (jnp.full(shape, centre - REACH), jnp.full(shape, centre + REACH))
    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
    u = 0.5 * (low + high)
    log_n, log_d = place(u)
    log_loss = log_value(theta, {"parameters": log_n, "tokens": log_d})
    # At an end of the bracket there is no optimum: a term has vanished.
    edge = jnp.where(jnp.abs(u - centre) < REACH - 1e-6, 0.0, jnp.sign(u - centre) * jnp.inf)
    product = log_n + log_d if mode == "compute" else sum(place(u + edge))
    return *place(u + edge), product, log_loss
