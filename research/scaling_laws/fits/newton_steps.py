"""One stage of many small robust fits as a compiled program: damped steps, straight or bent.

Arrays are [B, n], lanes first. See `solver`, which says what the steps are and drives them.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

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
        objective, sums = terms
        grads, newton, above = parts(sums)
        inverse = Inverse(newton + damping[:, None, None] * above, free)
        move = inverse.solve(grads)
        decrease = jnp.sum(grads * move, 1)
        moved = bent(stage, data, inverse, theta, move, damping, decrease) if stage.bend else move
        stays = done | ~inverse.positive | ~jnp.all(jnp.isfinite(moved), 1)
        trial = theta + _pick(stays, jnp.zeros_like(moved), moved)
        fresh = derivatives(*data, trial)
        better = (first | inverse.positive & (fresh[0] < objective)) & ~done
        theta = _pick(better, trial, theta)
        terms = jax.tree.map(functools.partial(_pick, better), fresh, terms)
        adapted = jnp.maximum(damping * jnp.where(better, stage.fall, stage.rise), stage.least)
        damping = jnp.where(first, damping, adapted)
        small = inverse.positive & (decrease <= stage.tolerance * objective + FLOOR)
        done = done | small | (damping > stage.most) | ~jnp.isfinite(terms[0])
        return count + 1, theta, damping, done, terms

    lanes, size = theta.shape
    sums = jnp.zeros((lanes, 2 * size + 1, size), theta.dtype)
    terms = (jnp.full(lanes, jnp.inf, theta.dtype), sums)
    carry = (0, theta, damping, jnp.zeros(lanes, bool), terms)
    count, theta, damping, done, terms = jax.lax.while_loop(
        lambda carry: (carry[0] <= stage.round) & ~jnp.all(carry[3]), step, carry
    )
    return theta, terms[0], damping, done, count - 1


def _pick(lanes, new, old):
    """The new values of chosen lanes, [B, ...]."""
    return jnp.where(lanes.reshape(lanes.shape + (1,) * (new.ndim - 1)), new, old)


def bent(stage, data, inverse, theta, move, damping, decrease):
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
    bend = inverse.solve(right)
    length = jnp.sqrt(jnp.maximum(jnp.sum(right * bend, 1), 0.0))
    most = stage.bend * jnp.sqrt(jnp.maximum(decrease, 0.0))
    share = jnp.where(length > most, most / jnp.where(length > 0, length, 1.0), 1.0)
    return move + 0.5 * share[:, None] * bend


def jacobian(predict, columns, theta):
    """Prediction [B, n] and its derivative by each parameter [B, P, n]; theta [B, P]."""
    fixed = theta.T[:, :, None]
    predicted, push = jax.linearize(lambda theta: predict(theta, columns), fixed)
    units = jnp.asarray(np.eye(len(fixed)), fixed.dtype)[..., None, None]  # [P, P, 1, 1]
    slopes = [push(jnp.broadcast_to(unit, fixed.shape)) for unit in units]
    return predicted, jnp.stack(slopes, 1)


def _reweighted(residual, weights, delta):
    """Whether residuals are inside the threshold, and the weights w rho'(r) / r, [B, n]."""
    inside = jnp.abs(residual) <= delta
    return inside, weights * jnp.where(inside, 1.0, delta / jnp.where(inside, 1.0, abs(residual)))


def derivatives(predict, columns, targets, weights, delta, theta):
    """Objective [B], and the sums over runs [B, 2 P + 1, P] that `parts` takes apart."""
    predicted, slopes = jacobian(predict, columns, theta)
    residual = targets - predicted
    inside, above = _reweighted(residual, weights, delta)
    objective = jnp.sum(weights * huber(residual, delta), 1)
    rows = [(weights * inside)[:, None] * slopes, above[:, None] * slopes]
    rows.append((above * residual)[:, None])  # w rho'(r)
    sums = jnp.einsum("bin,bjn->bij", jnp.concatenate(rows, 1), slopes, precision="highest")
    return jnp.where(jnp.isfinite(objective), objective, jnp.inf), sums


def parts(sums):
    """The descent direction's gradient [B, P], H and H_+ [B, P, P]."""
    size = sums.shape[2]
    return sums[:, -1], sums[:, :size], sums[:, size:-1]


class Inverse:
    """The inverse by lane of a positive matrix [B, P, P]; parameters that are not free stay.

    The sweep operator, one rank-one update for each of the few pivots, on the matrix scaled to a
    diagonal of ones. A loop, for it compiles several times faster than the same lines unrolled.
    `positive` [B]: whether all pivots are; they are those of the Cholesky inverse.
    """

    def __init__(self, matrix, free) -> None:
        size, dtype = matrix.shape[1], matrix.dtype
        identity = jnp.asarray(np.eye(size), dtype)
        matrix = jnp.where(free[:, None] & free[None], matrix, identity)
        diagonal = jnp.maximum(jnp.sum(jnp.abs(matrix) * identity[None], 2), jnp.finfo(dtype).tiny)
        scale = jnp.sqrt(diagonal)  # [B, P]
        self.scale = jnp.where(free[None], 1 / scale, 0.0)
        start = matrix / (scale[:, :, None] * scale[:, None])

        def sweep(k, carry):
            matrix, positive = carry
            unit = jax.lax.dynamic_slice_in_dim(identity, k, 1)  # [1, P]
            column = jnp.sum(matrix * unit[None], 2)  # [B, P]
            pivot = jnp.sum(column * unit, 1)
            good = pivot > 1e-14  # also false for nan
            pivot, column = jnp.where(good, pivot, 1.0)[:, None, None], column - unit
            update = column[:, :, None] * column[:, None] / pivot + 2 * (unit.T * unit)[None]
            return matrix - update, positive & good

        swept = jax.lax.fori_loop(0, size, sweep, (start, jnp.ones(len(matrix), bool)))
        self.negative, self.positive = swept

    def solve(self, right):
        """[B, P] the inverse times right [B, P]."""
        scaled = (self.scale * right)[:, None]
        return -self.scale * jnp.sum(self.negative * scaled, 2)
