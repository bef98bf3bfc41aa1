"""One stage of many small robust fits as a compiled program: damped steps, straight or bent.

Arrays are [B, n], lanes first. See `solver`, which says what the steps are and drives them.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from library.types import Array

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


def huber(residual: Array, delta: Array) -> Array:
    """Huber's loss, elementwise: r^2 / 2 up to |r| = delta, then delta (|r| - delta / 2)."""
    size = jnp.abs(residual)
    inside = size <= delta
    bound = jnp.where(inside, 0.0, delta)  # no inf * 0 at delta = inf
    return jnp.where(inside, 0.5 * residual**2, bound * (size - 0.5 * bound))


@functools.partial(jax.jit, static_argnums=(0, 1))
def advance(stage, predict, columns, targets, weights, delta, free, theta, damping):
    """Up to a round of steps of one chunk: theta, objective, damping, done, steps done."""
    data = (predict, columns, targets, weights, delta)

    def step(carry):
        # The first step moves nothing, its matrix of zeros being no positive one, and evaluates:
        # an evaluation before the loop would be compiled a second time.
        count, theta, damping, done, terms = carry
        first = count == 0
        objective, grads, newton, above = terms
        factor = Factor(newton + damping[:, None, None] * above, free)
        move = factor.solve(grads)
        decrease = jnp.sum(grads * move, 1)
        moved = bent(stage, data, factor, theta, move, damping, decrease) if stage.bend else move
        stays = done | ~factor.positive | ~jnp.all(jnp.isfinite(moved), 1)
        trial = theta + _pick(stays, jnp.zeros_like(moved), moved)
        fresh = derivatives(*data, trial)
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


def bent(stage, data, factor, theta, move, damping, decrease):
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


def jacobian(predict, columns, theta):
    """Prediction [B, n] and its derivative by each parameter [B, P, n]; theta [B, P]."""
    fixed = theta.T[:, :, None]
    predicted, push = jax.linearize(lambda theta: predict(theta, columns), fixed)
    units = [jnp.zeros_like(fixed).at[i].set(1.0) for i in range(len(fixed))]
    return predicted, jnp.stack([push(unit) for unit in units], 1)


@functools.partial(jax.jit, static_argnums=0)
def curvature(predict, columns, targets, weights, delta, theta):
    """Prediction, Jacobian and H of lanes."""
    inner = derivatives(predict, columns, targets, weights, delta, theta)[2]
    return *jacobian(predict, columns, theta), inner


def _reweighted(residual, weights, delta):
    """Whether residuals are inside the threshold, and the weights w rho'(r) / r, [B, n]."""
    inside = jnp.abs(residual) <= delta
    return inside, weights * jnp.where(inside, 1.0, delta / jnp.where(inside, 1.0, abs(residual)))


def derivatives(predict, columns, targets, weights, delta, theta):
    """Objective [B], descent direction's gradient [B, P], H and H_+ [B, P, P]."""
    predicted, slopes = jacobian(predict, columns, theta)
    residual = targets - predicted
    inside, above = _reweighted(residual, weights, delta)
    objective = jnp.sum(weights * huber(residual, delta), 1)
    rows = [(weights * inside)[:, None] * slopes, above[:, None] * slopes]
    rows.append((above * residual)[:, None])  # w rho'(r)
    sums = jnp.einsum("bin,bjn->bij", jnp.concatenate(rows, 1), slopes, precision="highest")
    size = theta.shape[1]
    objective = jnp.where(jnp.isfinite(objective), objective, jnp.inf)
    return objective, sums[:, -1], sums[:, :size], sums[:, size:-1]


class Factor:
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
