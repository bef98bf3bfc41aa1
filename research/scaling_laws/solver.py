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

Two stages. Far from a minimum a float32 stage steps along the geodesic p + a / 2 of the model's
manifold (Transtrum and Sethna 2012, arXiv:1201.5885): valleys such as A / N^alpha with alpha -> 0,
a constant plus a logarithm, bend so much that straight steps crawl in them for hundreds of
iterations. Its ends that coincide are one lane from there on, and a few plain steps in float64 end
each at its minimum to all digits.

Arrays are [B, n], lanes first: the matrices of a lane are one product over its runs. Lanes go in
chunks that fit the cache, on as many threads as there are cores; the unfinished are packed anew
after every round, so a slow lane holds up nobody. Under `jax.vmap`, BFGS waits in each step for the
slowest lane's line search.
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

SAME = 1e-2  # ends of the first stage whose theta differ by less, lane by lane, are one lane
ALIKE = 1e-4  # and whose objectives differ by less, relatively
CREEP = 1e-6  # relative decrease over a round below which an unfinished lane is given up
FLOOR = 1e-28  # predicted decrease that ends a lane without noise


@dataclasses.dataclass(frozen=True)
class Stage:
    """How lanes move for a while.

    Attributes:
        dtype: of all arithmetic.
        chunk: lanes of a call on CPU: 128 x 240 float32 are 120 kB.
        round: iterations between two packings of the unfinished lanes.
        tolerance: predicted decrease, relative to the objective, that ends a lane.
        fall, rise: factors of the damping after a step that was taken, and one that was not.
        least, most: damping that is not left below; above which no descent is left in this dtype.
        bend: how far the curved part of a step may exceed the straight one; 0 for straight steps.
    """

    dtype: type
    chunk: int
    round: int
    tolerance: float
    fall: float
    rise: float
    least: float
    most: float
    bend: float


FAR = Stage(np.float32, 128, 8, 1e-5, 0.3, 3.0, 1e-6, 1e6, 16.0)
NEAR = Stage(np.float64, 64, 12, 1e-13, 0.1, 8.0, 1e-12, 1e12, 0.0)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Data and model of all lanes; equal `predict` and shapes compile once.

    Attributes:
        predict: (theta [P, B, 1], columns {name: [1, n]}) -> [B, n], elementwise in lanes and runs.
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
    far: bool = True,
) -> Solution:
    """A local minimum from every start, to float64, whatever the caller's precision.

    Args:
        problem: the data and the model.
        starts: [P, B] theta to start from.
        weights: [W, n] >= 0, e.g. how often a resample holds each run.
        lanes_of: [B] which row of `weights` a lane uses.
        max_iterations: evaluations of the objective per lane and stage.
        far: whether the first stage is run; without it steps are short, and stay near the start.
    Returns:
        `Solution`; a lane whose objective is not finite at its start keeps it and inf.
    """
    state, everyone = _State(np.array(starts.T, np.float64)), np.arange(starts.shape[1])
    with concurrent.futures.ThreadPoolExecutor(_num_threads()) as pool:
        heads, head = everyone, everyone
        if far:
            _carry_out(FAR, problem, weights, lanes_of, state, everyone, max_iterations, pool)
            lost = ~np.isfinite(state.theta).all(1) | ~np.isfinite(state.objective)
            state.theta[lost] = starts.T[lost]
            state.theta[:, ~problem.free] = starts.T[:, ~problem.free]  # in float64 again
            head = _merged(state, lanes_of)
            heads = np.flatnonzero(head == everyone)
            state.restart()
        _carry_out(NEAR, problem, weights, lanes_of, state, heads, max_iterations, pool)
    theta, objective, done = state.theta[head], state.objective[head], state.done[head]
    return Solution(theta.T, objective, done & np.isfinite(objective), state.spent)


def curvature(problem: Problem, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At one theta [P]: residuals [n], Jacobian of the prediction [n, P], H [P, P]."""
    columns, targets = _data(problem, np.float64)
    with jax.enable_x64(True):
        predicted, jacobian, inner = jax.device_get(
            _curvature(
                problem.predict, columns, targets, np.ones_like(targets),
                np.float64(problem.delta), np.asarray(theta, np.float64)[None],
            )
        )  # fmt: skip
    return (targets - predicted)[0], jacobian[0].T, inner[0]


def value_and_gradient(problem: Problem) -> Callable:
    """theta [P] -> objective and gradient [P], for optimizers that hold the loop themselves."""
    (columns, targets), free = _data(problem, np.float64), problem.free

    def objective(theta):
        residual = targets - problem.predict(theta[:, None, None], columns)
        return jnp.sum(huber(residual, jnp.float64(problem.delta)))

    with jax.enable_x64(True):
        compiled = jax.jit(jax.value_and_grad(objective))

    def call(theta: np.ndarray) -> tuple[float, np.ndarray]:
        with jax.enable_x64(True):
            value, grads = compiled(jnp.asarray(theta, jnp.float64))
        return float(value), np.where(free, np.asarray(grads), 0.0)

    return call


class _State:
    """What is known of all lanes: theta [B, P], objective, damping, done and iterations [B]."""

    def __init__(self, theta: np.ndarray) -> None:
        self.theta, self.spent = theta, np.zeros(len(theta), int)
        self.restart()

    def restart(self) -> None:
        """A new stage from where the lanes are."""
        self.damping = np.full(len(self.theta), 1e-2)
        self.objective = np.full(len(self.theta), np.inf)
        self.done = np.zeros(len(self.theta), bool)


def _carry_out(stage, problem, weights, lanes_of, state, pending, max_iterations, pool):
    """One stage of the given lanes, in rounds; `state` is updated."""
    data = _data(problem, stage.dtype)
    chunk = stage.chunk if jax.default_backend() == "cpu" else 1 << 15

    def advance(lanes: np.ndarray) -> None:
        padded = np.resize(lanes, chunk) if len(lanes) < chunk else lanes
        # Both are thread-local, hence here. A lost lane may exceed float32.
        with jax.enable_x64(True), np.errstate(over="ignore"):
            out = _advance(
                stage, problem.predict, *data, weights[lanes_of[padded]].astype(stage.dtype),
                stage.dtype(problem.delta), problem.free, state.theta[padded].astype(stage.dtype),
                state.damping[padded].astype(stage.dtype),
            )  # fmt: skip
            theta, objective, damping, done, count = jax.device_get(out)
        keep = slice(len(lanes))
        state.theta[lanes], state.objective[lanes] = theta[keep], objective[keep]
        state.damping[lanes], state.done[lanes] = damping[keep], done[keep]
        state.spent[lanes] += count

    for _ in range(-(-max_iterations // stage.round)):
        before = state.objective.copy()
        list(pool.map(advance, [pending[i : i + chunk] for i in range(0, len(pending), chunk)]))
        # A lane that still creeps follows a vanishing term to infinity: no minimum is there.
        creeps = before <= (1 + CREEP) * state.objective
        pending = pending[~(state.done | creeps)[pending]]
        if not len(pending):
            break


def _merged(state: _State, lanes_of: np.ndarray, most: int = 16) -> np.ndarray:
    """[B] for every lane the best one of its row of weights which ended in the same place.

    The best lane of every row that has one left takes its likes, at most so many times.
    """
    head = np.arange(len(lanes_of))
    left = np.lexsort((state.objective, lanes_of))  # best first within a row
    for _ in range(most):
        rows = lanes_of[left]
        first = np.r_[True, rows[1:] != rows[:-1]]
        leader = left[first][np.cumsum(first) - 1]
        near = np.abs(state.theta[left] - state.theta[leader]).max(1) <= SAME
        close = state.objective[left] <= (1 + ALIKE) * state.objective[leader] + FLOOR
        taken = first | near & close
        head[left[taken]] = leader[taken]
        left = left[~taken]
        if not len(left):
            break
    return head


def _data(problem: Problem, dtype: type) -> tuple[dict[str, np.ndarray], np.ndarray]:
    columns = {name: np.asarray(c, dtype)[None] for name, c in problem.columns.items()}
    return columns, np.asarray(problem.targets, dtype)[None]


def _num_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _advance(stage, predict, columns, targets, weights, delta, free, theta, damping):
    """Up to a round of steps of one chunk: theta, objective, damping, done, steps done."""
    data = (predict, columns, targets, weights, delta)

    def step(carry):
        # The first step moves nothing, its matrix of zeros being no positive one, and evaluates:
        # an evaluation before the loop would be compiled a second time.
        count, theta, damping, done, terms = carry
        first = count == 0
        objective, grads, newton, above = terms
        factor = _Factor(newton + damping[:, None, None] * above, free)
        move = factor.solve(grads)
        decrease = jnp.sum(grads * move, 1)
        bent = _bent(stage, data, factor, theta, move, damping, decrease) if stage.bend else move
        stays = done | ~factor.positive | ~jnp.all(jnp.isfinite(bent), 1)
        trial = theta + _pick(stays, jnp.zeros_like(bent), bent)
        fresh = _derivatives(*data, trial)
        better = (first | factor.positive & (fresh[0] < objective)) & ~done
        theta = _pick(better, trial, theta)
        terms = jax.tree.map(functools.partial(_pick, better), fresh, terms)
        adapted = jnp.maximum(damping * jnp.where(better, stage.fall, stage.rise), stage.least)
        damping = jnp.where(first, damping, adapted)
        small = factor.positive & (decrease <= stage.tolerance * objective + FLOOR)
        done = done | small | (damping > stage.most) | ~jnp.isfinite(terms[0])
        return count + 1, theta, damping, done, terms

    lanes, size = theta.shape
    matrix = jnp.zeros((lanes, size, size), theta.dtype)
    terms = (jnp.full(lanes, jnp.inf, theta.dtype), jnp.zeros_like(theta), matrix, matrix)
    carry = (0, theta, damping, jnp.zeros(lanes, bool), terms)
    count, theta, damping, done, terms = jax.lax.while_loop(
        lambda carry: (carry[0] <= stage.round) & ~jnp.all(carry[3]), step, carry
    )
    return theta, terms[0], damping, done, count - 1


def _pick(lanes, new, old):
    """The new values of chosen lanes, [B, ...]."""
    return jnp.where(lanes.reshape(lanes.shape + (1,) * (new.ndim - 1)), new, old)


def _bent(stage, data, factor, theta, move, damping, decrease):
    """The step p + a / 2 [B, P]: (H + lambda H_+) a = -J^T W m'', m'' along p, W as in the matrix.

    Where a is longer than `stage.bend` times p in the norm of the matrix, it is shortened to that.
    """
    predict, columns, targets, weights, delta = data
    fixed, direction = theta.T[:, :, None], move.T[:, :, None]  # [P, B, 1]

    def slope(share):
        here = fixed + share * direction
        return jax.jvp(lambda theta: predict(theta, columns), (here,), (direction,))[1]

    _, second = jax.jvp(slope, (jnp.zeros((), theta.dtype),), (jnp.ones((), theta.dtype),))
    predicted, pull_back = jax.vjp(lambda theta: predict(theta, columns), fixed)
    inside, above = _reweighted(targets - predicted, weights, delta)
    matched = (weights * inside + damping[:, None] * above) * second  # [B, n]
    right = -pull_back(matched)[0][:, :, 0].T
    bend = factor.solve(right)
    length = jnp.sqrt(jnp.maximum(jnp.sum(right * bend, 1), 0.0))
    most = stage.bend * jnp.sqrt(jnp.maximum(decrease, 0.0))
    share = jnp.where(length > most, most / jnp.where(length > 0, length, 1.0), 1.0)
    return move + 0.5 * share[:, None] * bend


def _jacobian(predict, columns, theta):
    """Prediction [B, n] and its derivative by each parameter [B, P, n]; theta [B, P]."""
    fixed = theta.T[:, :, None]
    predicted, push = jax.linearize(lambda theta: predict(theta, columns), fixed)
    units = [jnp.zeros_like(fixed).at[i].set(1.0) for i in range(len(fixed))]
    return predicted, jnp.stack([push(unit) for unit in units], 1)


@functools.partial(jax.jit, static_argnums=0)
def _curvature(predict, columns, targets, weights, delta, theta):
    """Prediction, Jacobian and H of lanes."""
    inner = _derivatives(predict, columns, targets, weights, delta, theta)[2]
    return *_jacobian(predict, columns, theta), inner


def _reweighted(residual, weights, delta):
    """Whether residuals are inside the threshold, and the weights w rho'(r) / r, [B, n]."""
    inside = jnp.abs(residual) <= delta
    return inside, weights * jnp.where(inside, 1.0, delta / jnp.where(inside, 1.0, abs(residual)))


def _derivatives(predict, columns, targets, weights, delta, theta):
    """Objective [B], descent direction's gradient [B, P], H and H_+ [B, P, P]."""
    predicted, jacobian = _jacobian(predict, columns, theta)
    residual = targets - predicted
    inside, above = _reweighted(residual, weights, delta)
    objective = jnp.sum(weights * huber(residual, delta), 1)
    rows = [(weights * inside)[:, None] * jacobian, above[:, None] * jacobian]
    rows.append((above * residual)[:, None])  # w rho'(r)
    sums = jnp.einsum("bin,bjn->bij", jnp.concatenate(rows, 1), jacobian, precision="highest")
    size = theta.shape[1]
    objective = jnp.where(jnp.isfinite(objective), objective, jnp.inf)
    return objective, sums[:, -1], sums[:, :size], sums[:, size:-1]


class _Factor:
    """The Cholesky factor by lane of a matrix [B, P, P]; parameters that are not free stay.

    Unrolled over the few parameters, elementwise over lanes. `positive` [B]: whether there is one.
    """

    def __init__(self, matrix, free) -> None:
        self.free, self.size = free, matrix.shape[1]
        tiny = jnp.finfo(matrix.dtype).tiny
        both = free[:, None] & free[None]
        matrix = jnp.where(both, matrix, jnp.eye(self.size, dtype=matrix.dtype))
        size = range(self.size)
        self.scale = [jnp.sqrt(jnp.maximum(jnp.abs(matrix[:, i, i]), tiny)) for i in size]
        self.rows = [[None] * self.size for _ in size]
        self.positive = jnp.ones(matrix.shape[0], bool)
        for i in size:
            for j in range(i + 1):
                total = matrix[:, i, j] / (self.scale[i] * self.scale[j])
                for k in range(j):
                    total = total - self.rows[i][k] * self.rows[j][k]
                if i == j:
                    positive = total > 1e-14  # also false for nan
                    self.positive = self.positive & positive
                    self.rows[i][i] = jnp.sqrt(jnp.where(positive, total, 1.0))
                else:
                    self.rows[i][j] = total / self.rows[j][j]

    def solve(self, right):
        """[B, P] the matrix' inverse times right [B, P]."""
        size, rows = self.size, self.rows
        forward, move = [], [None] * size
        for i in range(size):
            total = jnp.where(self.free[i], right[:, i], 0.0) / self.scale[i]
            total = total - sum((rows[i][k] * forward[k] for k in range(i)), 0.0)
            forward.append(total / rows[i][i])
        for i in reversed(range(size)):
            total = forward[i] - sum((rows[k][i] * move[k] for k in range(i + 1, size)), 0.0)
            move[i] = total / rows[i][i]
        return jnp.stack([m / s for m, s in zip(move, self.scale)], 1)
