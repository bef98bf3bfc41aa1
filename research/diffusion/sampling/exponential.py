"""Exponential solvers in lambda = log(alpha/sigma): DPM-Solver, DPM-Solver++ and UniPC.

The linear part of the flow is solved exactly, and a polynomial through values of the network is
integrated in lambda (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095; Zhao et al. 2023,
arXiv:2302.04867):

    noise: x' = (alpha'/alpha) x - alpha' int e^{-l} eps dl
    data:  x' = (sigma'/sigma) x + sigma' int e^{l} x_0 dl

All integrals are by Gauss-Legendre quadrature on the step, whose terms are positive: the closed
forms (e^h - 1 - h)/h^2, ... lose all digits in float32 at small steps.
"""

from __future__ import annotations

import math

import flax.struct
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.diffusion.processes import Process
from research.diffusion.sampling import solver_tables
from research.diffusion.sampling.solver_tables import Table

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_THETA, _MASS = 0.5 * (_NODES + 1), 0.5 * _WEIGHTS  # on [0, 1]


@flax.struct.dataclass
class SingleStep:
    """See `dpm_solver`."""

    order: int = flax.struct.field(pytree_node=False)
    prediction: str = flax.struct.field(pytree_node=False)

    def table(self, process: Process, times: Array) -> Table:
        """`order` rows a step; see `solvers.Solver`."""
        t, t_next = times[:-1], times[1:]
        start, rise = process.log_snr(t), process.log_snr(t_next) - process.log_snr(t)
        inner = [process.inverse_log_snr(start + c * rise) for c in _FRACTIONS[self.order]]
        nodes = [t, *inner, t_next]
        if self.prediction == "noise":
            own, sign = process.alpha, 1.0
            out, value = process.sigma, lambda t: (jnp.zeros_like(t), -process.sigma(t))
        else:
            own, sign = process.sigma, -1.0
            out, value = process.alpha, lambda t: _data_value(process, t)
        rows = []
        for node, combination in zip(nodes[1:], _COMBINATIONS[self.order]):
            u = sign * 0.5 * (process.log_snr(node) - start)
            first, second = -out(node) * u * _phi(u, 1), -out(node) * u * _phi(u, 2)
            weights = [p * first + q * second for p, q in combination]  # newest value first
            rest = [jnp.zeros_like(u)] * (self.order - len(weights))
            rows.append(jnp.stack([own(node) / own(t), *weights, *rest], -1))
        values = [jnp.stack(value(node), -1) for node in nodes[:-1]]
        return solver_tables.staged(nodes, values, rows)


@flax.struct.dataclass
class Multistep:
    """See `dpm_solver_pp` and `unipc`.

    Attributes:
        order: number of values that the predictor's polynomial goes through.
        corrects: whether a new value first corrects the step that led to it.
        eta: scale of the noise, 1 for the reverse SDE; None for the flow without noise.
    """

    order: int = flax.struct.field(pytree_node=False)
    corrects: bool = flax.struct.field(pytree_node=False)
    eta: float | Array | None = None

    def table(self, process: Process, times: Array) -> Table:
        """One row a step, and order - 1 more to start the third order; see `solvers.Solver`."""
        num_start = self._num_start_rows()
        if num_start == 0:
            return self._steps(process, times, times[:0])
        if times.shape[0] == 2:  # a single step: nothing to multiply by
            return SingleStep(order=num_start, prediction="data").table(process, times)
        start = SingleStep(order=num_start, prediction="data").table(process, times[:2])
        steps = self._steps(process, times[1:], start.time)
        last = start.step[-1]
        return solver_tables.join(
            start, steps.replace(step=tuple(last + step for step in steps.step))
        )

    def _num_start_rows(self) -> int:
        """Evaluations of the single-step start that keeps the order: its local error is h^order."""
        if self.order < 3 or self.eta is not None:
            return 0
        return 3 if self.corrects else 2

    def _steps(self, process: Process, times: Array, earlier: Array) -> Table:
        """Rows from times[0] on, given the times [E] of earlier evaluations."""
        num_steps, num_earlier = times.shape[0] - 1, earlier.shape[0]
        num_values = self.order + self.corrects
        lam = 0.5 * process.log_snr(times)
        seen = jnp.concatenate([0.5 * process.log_snr(earlier), lam[:-1]])
        row = np.arange(num_steps)[:, None] + num_earlier
        recent = seen[np.maximum(row - np.arange(num_values)[None], 0)]  # [n, K] newest first
        # of a three-stage start only the start's end and its last stage are accurate enough
        usable = row[:, 0] + 1 - (2 if num_earlier == 3 else 0)
        predictor = self._weights(process, times, lam, recent, np.minimum(usable, self.order))
        value = _data_value(process, times[:-1])
        after = None
        if self.eta is not None:
            after = process.sigma(times[1:]) * jnp.sqrt(
                -jnp.expm1(-2 * self.eta * (lam[1:] - lam[:-1]))
            )
        table = solver_tables.single(times, value, tuple(predictor.T), after=after)
        if not self.corrects:
            return table
        corrector = self._corrector(process, times, lam, recent, np.minimum(usable, num_values))
        point = predictor[:, :1] * corrector + predictor.at[:, 0].set(0)
        return table.replace(base=corrector, point=point)

    def _corrector(
        self, process: Process, times: Array, lam: Array, recent: Array, counts: np.ndarray
    ) -> Array:
        """Weights [n, 1 + K] that redo the step to times[i]; the first row keeps its base."""
        keep = jnp.zeros((1, 1 + recent.shape[1]), lam.dtype).at[0, 0].set(1)
        if times.shape[0] == 2:
            return keep
        redone = self._weights(process, times[:-1], lam[:-1], recent[1:], counts[1:])
        return jnp.concatenate([keep, redone])

    def _weights(
        self, process: Process, times: Array, lam: Array, nodes: Array, counts: np.ndarray
    ) -> Array:
        """Weights [n, 1 + K] of the state and the values at `nodes` [n, K] in each step's end.

        The polynomial goes through the first counts[i] nodes.
        """
        rate = 1.0 if self.eta is None else 1.0 + self.eta
        h = lam[1:] - lam[:-1]
        relative = (nodes - lam[:-1, None]) / h[:, None]
        values = jnp.zeros_like(nodes)
        for count in np.unique(counts):
            if self.order == 2 and not self.corrects:
                weights = _midpoint_weights(rate * h, relative[:, :count])
            else:
                weights = _polynomial_weights(rate * h, relative[:, :count])
            padded = jnp.pad(weights, ((0, 0), (0, nodes.shape[1] - count)))
            values = jnp.where((counts == count)[:, None], padded, values)
        state = process.sigma(times[1:]) / process.sigma(times[:-1]) * jnp.exp((1 - rate) * h)
        return jnp.concatenate([state[:, None], process.alpha(times[1:])[:, None] * values], 1)


def dpm_solver(order: int = 2, prediction: str = "noise") -> SingleStep:
    """DPM-Solver-1, -2 or -3: a single-step method of that order and as many evaluations a step.

    Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2; with prediction="data" DPM-Solver++(1S,
    2S, 3S), arXiv:2211.01095. Order 1 is DDIM.

    Raises:
        ValueError: if order is not 1, 2 or 3, or prediction is neither "noise" nor "data".
    """
    _check_order(order, (1, 2, 3))
    if prediction not in ("noise", "data"):
        raise ValueError(f"prediction={prediction!r}: expected 'noise' or 'data'")
    return SingleStep(order=order, prediction=prediction)


def dpm_solver_pp(order: int = 2, eta: float | Array = 0.0) -> Multistep:
    """DPM-Solver++ 2M or 3M, or with eta > 0 its SDE form; one evaluation a step.

    Lu et al. 2022, arXiv:2211.01095, algorithm 2 and section 5. 2M starts with a first-order step,
    as published. 3M integrates the parabola through the last three values exactly and starts with
    DPM-Solver++(2S), one evaluation more, so that it is of third order from the first step on.

    Args:
        order: 2 or 3.
        eta: 0 for the flow, 1 for the reverse SDE; the noise limits the pathwise order.
    Raises:
        ValueError: if order is neither 2 nor 3, or eta is negative.
    """
    _check_order(order, (2, 3))
    if isinstance(eta, (int, float)) and not 0 <= eta < math.inf:
        raise ValueError(f"eta={eta}: expected a number >= 0")
    still = isinstance(eta, (int, float)) and eta == 0
    return Multistep(order=order, corrects=False, eta=None if still else eta)


def unipc(order: int = 2) -> Multistep:
    """UniPC of order 1, 2 or 3: a multistep predictor and a corrector that costs no evaluation.

    Zhao et al. 2023, arXiv:2302.04867, in data prediction. With the conditions on the weights
    solved exactly their function B(h) cancels, and what remains are the exponential Adams-Bashforth
    and Adams-Moulton methods. The corrected end points have global order `order` + 1; order 3
    starts with DPM-Solver++(3S), two evaluations more, to have it from the first step on.

    Raises:
        ValueError: if order is not 1, 2 or 3.
    """
    _check_order(order, (1, 2, 3))
    return Multistep(order=order, corrects=True)


# Inner nodes as fractions of the step, and for every stage and then the step's end the weights
# (of u phi_1, of u phi_2) of the values, newest first; DPM-Solver's r_1 = 1/2, and 1/3, 2/3.
_FRACTIONS = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}
_COMBINATIONS = {
    1: (((1, 0),),),
    2: (((1, 0),), ((1, 0), (0, 0))),
    3: (((1, 0),), ((0, 2), (1, -2)), ((0, 1.5), (0, 0), (1, -1.5))),
}


def _data_value(process: Process, t: Array) -> tuple[Array, Array]:
    """Weights of the state and the score in the data prediction (x + sigma^2 score)/alpha."""
    alpha = process.alpha(t)
    return 1 / alpha, process.sigma(t) ** 2 / alpha


def _phi(u: Array, k: int) -> Array:
    """phi_k(u) = int_0^1 e^{(1 - theta) u} theta^{k - 1} dtheta, k = 1 or 2, of u [n]."""
    kernel = jnp.asarray(_MASS * _THETA ** (k - 1), u.dtype)
    return jnp.exp(u[:, None] * jnp.asarray(1 - _THETA, u.dtype)[None]) @ kernel


def _polynomial_weights(h: Array, nodes: Array) -> Array:
    """int_0^1 h e^{-(1 - theta) h} L_k(theta) dtheta, [n, K], L_k the Lagrange basis on `nodes`."""
    theta = jnp.asarray(_THETA, h.dtype)
    mass = jnp.asarray(_MASS, h.dtype)[None]
    kernel = mass * h[:, None] * jnp.exp(h[:, None] * (theta - 1)[None])  # [n, Q]
    weights = []
    for k in range(nodes.shape[1]):
        basis = kernel
        for other in range(nodes.shape[1]):
            if other != k:
                here, there = nodes[:, k, None], nodes[:, other, None]
                basis = basis * (theta[None] - there) / (here - there)
        weights.append(jnp.sum(basis, 1))
    return jnp.stack(weights, 1)


def _midpoint_weights(h: Array, nodes: Array) -> Array:
    """2M's weights, [n, 1 or 2]: the integral of the constant, on D + (D - D_-)/(2 r)."""
    whole = -jnp.expm1(-h)
    if nodes.shape[1] == 1:
        return whole[:, None]
    slope = -0.5 * whole / nodes[:, 1]
    return jnp.stack([whole + slope, -slope], 1)


def _check_order(order: int, orders: tuple[int, ...]) -> None:
    if order not in orders or not isinstance(order, int):
        raise ValueError(f"order={order!r}: expected one of {', '.join(map(str, orders))}")
