"""Many robust fits of one small model at once: damped Newton steps, one lane a fit, lanes retired.

The objective of a lane is sum_n w_n rho(y_n - m_n(theta)), with rho Huber's loss: **a sum**; a mean
stops tolerance-based optimizers early. Each step solves

    (H + lambda H_+) p = -gradient,

where H is the Gauss-Newton matrix of the runs whose residual is inside Huber's threshold, and H_+
that of all runs, reweighted: the quadratic which touches rho at the residual and lies above it.
lambda -> 0 is the Newton step of a piecewise smooth problem, a large lambda a short step that
decreases the objective; lambda adapts by lane. Both matrices change alike under linear maps of
theta, so the path does not depend on its scaling. Second derivatives of the model would triple the
work and send lanes into valleys where a term vanishes; with |rho'| <= delta they hardly matter.

Arrays are [n, B], lanes last: sums over runs vectorise over lanes. Lanes go in chunks that fit the
cache, on as many threads as there are cores; the unfinished are packed anew after every round, so a
slow lane holds up nobody. Under `jax.vmap`, BFGS waits in each step for the slowest lane's line
search.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array

ROUND = 12  # iterations between two packings of the unfinished lanes
CHUNK = 64  # lanes of a call on CPU: 64 x 240 float64 are 120 kB
STUCK = 1e12  # damping above which no descent is left in float64
TOLERANCE = 1e-13  # predicted decrease, relative to the objective, that ends a lane
CREEP = 1e-6  # relative decrease over a round below which an unfinished lane is given up
FLOOR = 1e-28  # the same, absolute: for data without noise


@dataclasses.dataclass(frozen=True)
class Problem:
    """Data and model of all lanes; equal `predict` and shapes compile once.

    Attributes:
        predict: (theta [P, B], columns {name: [n, 1]}) -> [n, B], elementwise in lanes and runs.
        columns: {name: [n]} what the prediction is a function of.
        targets: [n] what it should be.
        delta: Huber's threshold in units of the targets; inf is least squares.
        free: [P] bool, parameters that move.
    """

    predict: Callable
    columns: dict[str, np.ndarray]
    targets: np.ndarray
    delta: float
    free: np.ndarray


@dataclasses.dataclass(frozen=True)
class Solution:
    """Where the lanes ended: theta [P, B], objective [B], converged [B], iterations spent [B]."""

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray
    iterations: np.ndarray


def huber(residual: Array, delta: Array) -> Array:
    """Huber's loss, elementwise: r^2 / 2 up to |r| = delta, then delta (|r| - delta / 2)."""
    size = jnp.abs(residual)
    inside = size <= delta
    bound = jnp.where(inside, 0.0, delta)  # no inf * 0 at delta = inf
    return jnp.where(inside, 0.5 * residual**2, bound * (size - 0.5 * bound))


def solve(
    problem: Problem,
    starts: np.ndarray,
    weights: np.ndarray,
    lanes_of: np.ndarray,
    max_iterations: int = 300,
) -> Solution:
    """A local minimum from every start, in float64, whatever the caller's precision.

    Args:
        problem: the data and the model.
        starts: [P, B] theta to start from.
        weights: [W, n] >= 0, e.g. how often a resample holds each run.
        lanes_of: [B] which row of `weights` a lane uses.
        max_iterations: evaluations of the objective per lane.
    Returns:
        `Solution`; a lane whose objective is not finite at its start keeps it and inf.
    """
    num_lanes = starts.shape[1]
    theta, damping = np.array(starts, np.float64), np.full(num_lanes, 1e-2)
    objective, done = np.full(num_lanes, np.inf), np.zeros(num_lanes, bool)
    spent = np.zeros(num_lanes, int)
    chunk = CHUNK if jax.default_backend() == "cpu" else 1 << 15
    columns = {name: np.asarray(c, np.float64)[:, None] for name, c in problem.columns.items()}
    data = (columns, np.asarray(problem.targets, np.float64)[:, None])

    def advance(lanes: np.ndarray) -> None:
        padded = np.resize(lanes, chunk) if len(lanes) < chunk else lanes
        with jax.enable_x64(True):  # thread-local, hence here
            out = _advance(
                problem.predict, *data, weights[lanes_of[padded]].T.astype(np.float64),
                np.float64(problem.delta), problem.free, theta[:, padded], damping[padded],
            )  # fmt: skip
            out = jax.device_get(out)
        keep = slice(len(lanes))
        theta[:, lanes], objective[lanes] = out[0][:, keep], out[1][keep]
        damping[lanes], done[lanes] = out[2][keep], out[3][keep]
        spent[lanes] += out[4]

    pending = np.arange(num_lanes)
    with concurrent.futures.ThreadPoolExecutor(_num_threads()) as pool:
        for _ in range(-(-max_iterations // ROUND)):
            before = objective.copy()
            chunks = [pending[i : i + chunk] for i in range(0, len(pending), chunk)]
            list(pool.map(advance, chunks))
            # A lane that still creeps follows a vanishing term to infinity: no minimum is there.
            creeps = before <= (1 + CREEP) * objective
            pending = np.flatnonzero(~done & ~creeps)
            if not len(pending):
                break
    return Solution(theta, objective, done & np.isfinite(objective), spent)


def curvature(problem: Problem, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At one theta [P]: residuals [n], Jacobian of the prediction [n, P], H [P, P]."""
    columns = {name: np.asarray(c, np.float64)[:, None] for name, c in problem.columns.items()}
    targets = np.asarray(problem.targets, np.float64)[:, None]
    with jax.enable_x64(True):
        predicted, jacobian, inner = jax.device_get(
            _curvature(
                problem.predict, columns, targets, np.ones_like(targets),
                np.float64(problem.delta), np.asarray(theta, np.float64)[:, None],
            )
        )  # fmt: skip
    size = len(theta)
    matrix = np.zeros((size, size))
    rows, cols = np.tril_indices(size)
    matrix[rows, cols] = matrix[cols, rows] = inner[:, 0]
    return (targets - predicted)[:, 0], np.stack([c[:, 0] for c in jacobian], 1), matrix


def value_and_gradient(problem: Problem) -> Callable:
    """theta [P] -> objective and gradient [P], for optimizers that hold the loop themselves."""
    columns = {name: np.asarray(c, np.float64)[:, None] for name, c in problem.columns.items()}
    targets, free = np.asarray(problem.targets, np.float64)[:, None], problem.free

    def objective(theta):
        residual = targets - problem.predict(theta[:, None], columns)
        return jnp.sum(huber(residual, jnp.float64(problem.delta)))

    with jax.enable_x64(True):
        compiled = jax.jit(jax.value_and_grad(objective))

    def call(theta: np.ndarray) -> tuple[float, np.ndarray]:
        with jax.enable_x64(True):
            value, grads = compiled(jnp.asarray(theta, jnp.float64))
        return float(value), np.where(free, np.asarray(grads), 0.0)

    return call


def _num_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@functools.partial(jax.jit, static_argnums=0)
def _advance(predict, columns, targets, weights, delta, free, theta, damping):
    """Up to ROUND steps of one chunk: theta, objective, damping, done, steps done."""

    def step(carry):
        # The first step moves nothing, its matrix of zeros being no positive one, and evaluates:
        # an evaluation before the loop would be compiled a second time.
        count, theta, damping, done, terms = carry
        first = count == 0
        objective, grads, newton, above = terms
        pairs = [a + damping * b for a, b in zip(newton, above)]
        move, positive = _solve_small(pairs, grads, free)
        decrease = jnp.sum(grads * move, 0)
        trial = theta + _pick(done | ~positive, jnp.zeros_like(move), move)
        fresh = _derivatives(predict, columns, targets, weights, delta, trial)
        better = (first | positive & (fresh[0] < objective)) & ~done
        theta = _pick(better, trial, theta)
        terms = jax.tree.map(functools.partial(_pick, better), fresh, terms)
        adapted = jnp.where(better, jnp.maximum(damping * 0.1, 1e-12), damping * 8.0)
        damping = jnp.where(first, damping, adapted)
        small = positive & (decrease <= TOLERANCE * objective + FLOOR)
        done = done | small | (damping > STUCK) | ~jnp.isfinite(terms[0])
        return count + 1, theta, damping, done, terms

    size, lanes = theta.shape
    triangle = jnp.zeros((size * (size + 1) // 2, lanes))
    terms = (jnp.full(lanes, jnp.inf), jnp.zeros_like(theta), triangle, triangle)
    carry = (0, theta, damping, jnp.zeros(lanes, bool), terms)
    count, theta, damping, done, terms = jax.lax.while_loop(
        lambda carry: (carry[0] <= ROUND) & ~jnp.all(carry[3]), step, carry
    )
    return theta, terms[0], damping, done, count - 1


def _pick(lanes, new, old):
    """The new values of chosen lanes, [B] or [K, B]."""
    return jnp.where(lanes if new.ndim == 1 else lanes[None], new, old)


def _jacobian(predict, columns, theta):
    """Prediction [n, B] and its derivative by each parameter, P arrays [n, B]."""
    predicted, push = jax.linearize(lambda theta: predict(theta, columns), theta)
    units = [jnp.zeros_like(theta).at[i].set(1.0) for i in range(theta.shape[0])]
    return predicted, [push(unit) for unit in units]


@functools.partial(jax.jit, static_argnums=0)
def _curvature(predict, columns, targets, weights, delta, theta):
    """Prediction, Jacobian and lower triangle of H."""
    inner = _derivatives(predict, columns, targets, weights, delta, theta)[2]
    return *_jacobian(predict, columns, theta), inner


def _derivatives(predict, columns, targets, weights, delta, theta):
    """Objective [B], descent direction's gradient [P, B], lower triangles [P (P + 1) / 2, B]."""
    predicted, jacobian = _jacobian(predict, columns, theta)
    residual = targets - predicted
    inside = jnp.abs(residual) <= delta
    objective = jnp.sum(weights * huber(residual, delta), 0)
    above = weights * jnp.where(inside, 1.0, delta / jnp.where(inside, 1.0, jnp.abs(residual)))
    pull, newton = above * residual, weights * inside  # w rho'(r), w rho''(r)
    size = theta.shape[0]
    grads = jnp.stack([jnp.sum(pull * column, 0) for column in jacobian])
    products = [jacobian[i] * jacobian[j] for i in range(size) for j in range(i + 1)]
    upper = jnp.stack([jnp.sum(above * product, 0) for product in products])
    inner = jnp.stack([jnp.sum(newton * product, 0) for product in products])
    return jnp.where(jnp.isfinite(objective), objective, jnp.inf), grads, inner, upper


def _solve_small(pairs, right, free):
    """Cholesky solve by lane of a matrix given as its lower triangle: move [P, B], success [B].

    Unrolled over the few parameters, elementwise over lanes; parameters that are not free stay.
    """
    size = right.shape[0]
    matrix = [[None] * size for _ in range(size)]
    places = [(i, j) for i in range(size) for j in range(i + 1)]
    for index, (i, j) in enumerate(places):
        both = free[i] & free[j]
        matrix[i][j] = jnp.where(both, pairs[index], 1.0 if i == j else 0.0)
    scale = [jnp.sqrt(jnp.maximum(jnp.abs(matrix[i][i]), 1e-300)) for i in range(size)]
    factor = [[None] * size for _ in range(size)]
    positive = jnp.ones(right.shape[1], bool)
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i][j] / (scale[i] * scale[j])
            for k in range(j):
                total = total - factor[i][k] * factor[j][k]
            if i == j:
                positive = positive & (total > 1e-14)  # also false for nan
                factor[i][i] = jnp.sqrt(jnp.where(total > 1e-14, total, 1.0))
            else:
                factor[i][j] = total / factor[j][j]
    forward = []
    for i in range(size):
        total = jnp.where(free[i], right[i], 0.0) / scale[i]
        total = total - sum((factor[i][k] * forward[k] for k in range(i)), 0.0)
        forward.append(total / factor[i][i])
    move = [None] * size
    for i in reversed(range(size)):
        total = forward[i] - sum((factor[k][i] * move[k] for k in range(i + 1, size)), 0.0)
        move[i] = total / factor[i][i]
    return jnp.stack([m / s for m, s in zip(move, scale)]), positive
