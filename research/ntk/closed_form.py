"""The algebra of gradient flow on squared error, in the eigenvectors of the training kernel."""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.ntk import checks, precision
from research.ntk.eigen import Eigen

Loss = Literal["sum", "mean"]


def progress(parts: Eigen, speed: Array, time: Array) -> Array:
    """(1 - exp(-speed lambda t)) / lambda, [..., D]; 0 in directions that are noise at this time.

    An eigenvalue at the rounding level moves nothing before t = 1/cutoff: until then the formula
    is harmless and exact, after it the inverse would be of noise.
    """
    rate = speed * time[..., None]  # [..., 1]
    values = parts.values.reshape((1,) * time.ndim + (-1,))
    positive = jnp.where(values > 0, values, 1)
    ended = jnp.isinf(rate)
    rate = jnp.where(ended, 1, rate)
    moving = jnp.where(values > 0, -jnp.expm1(-positive * rate) / positive, rate)
    factor = jnp.where(ended, 1 / positive, moving)
    noise = (values <= parts.cutoff) & (ended | (rate * parts.cutoff >= 1))
    return jnp.where(noise, 0, factor)


@jax.jit
def change(parts: Eigen, speed: Array, time: Array, error: Array, cross: Array) -> Array:
    """A_t (y - f_0), [..., M, C]."""
    chex.assert_rank([error, cross], 2)
    chex.assert_axis_dimension(cross, 1, len(error))
    coordinates = jnp.einsum("nk,nc->kc", parts.vectors, error)
    moved = progress(parts, speed, time)[..., None] * jnp.broadcast_to(
        coordinates, (*time.shape, *coordinates.shape)
    )  # [..., D, C]
    return jnp.einsum("mk,...kc->...mc", jnp.einsum("mn,nk->mk", cross, parts.vectors), moved)


@jax.jit
def ensemble(
    parts: Eigen,
    speed: Array,
    time: Array,
    y_train: Array,
    cross: Array,
    cross_nngp: Array,
    test: Array,
    nngp: Array,
    noise: Array,
) -> tuple[Array, Array]:
    """Mean [..., M, C] and the covariance [..., M, M] of f_0(x) - A_t (f_0(X) + noise)."""
    chex.assert_equal_shape([cross, cross_nngp])
    mean = change(parts, speed, time, y_train, cross)
    rotated = jnp.einsum("mn,nk->mk", cross, parts.vectors)
    factors = progress(parts, speed, time)
    a = jnp.einsum("mk,...k,nk->...mn", rotated, factors, parts.vectors)  # [..., M, N]
    mixed = jnp.einsum("...mn,pn->...mp", a, cross_nngp)  # [..., M, M]
    noisy = nngp + noise * jnp.eye(len(nngp), dtype=nngp.dtype)
    spread = jnp.einsum("...mn,nq,...pq->...mp", a, noisy, a)
    first = jnp.broadcast_to(test, mixed.shape)
    covariance = first - mixed - jnp.swapaxes(mixed, -1, -2) + spread
    return mean, (covariance + jnp.swapaxes(covariance, -1, -2)) / 2


@jax.jit
def recompose(parts: Eigen) -> Array:
    """The kernel again, [D, D], without the ridge."""
    values = parts.values - parts.ridge
    return jnp.einsum("mk,k,nk->mn", parts.vectors, values, parts.vectors)


def as_matrix(kernel: Array, shape: tuple[int, ...], name: str) -> Array:
    """[M, N] as it is, [M, N, C, C] as [M C, N C], for targets of a shape.

    Raises:
        ValueError: if it is neither.
    """
    kernel = jnp.asarray(kernel)
    outputs = shape[1:]
    if kernel.ndim == 2:
        return kernel
    if kernel.shape[2:] != (*outputs, *outputs):
        raise ValueError(
            f"{name} has shape {kernel.shape}: expected [{name[2]}, N] or, for targets of shape "
            f"{shape}, [M, N, {', '.join(map(str, (*outputs, *outputs)))}]"
        )
    count = int(np.prod(outputs))
    kernel = kernel.reshape(*kernel.shape[:2], count, count)
    num_rows, num_columns = kernel.shape[:2]
    return jnp.swapaxes(kernel, 1, 2).reshape(num_rows * count, num_columns * count)


def as_targets(y_train: Array, num: int) -> tuple[Array, bool]:
    """Targets as [N, C], and whether they came as [N].

    Raises:
        ValueError: if they are not floats of one of the two shapes.
    """
    y = jnp.asarray(y_train)
    if y.ndim not in (1, 2) or len(y) != num:
        raise ValueError(
            f"y_train has shape {y.shape}: expected [{num}] or [{num}, C], as many as x_train"
        )
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise ValueError(f"y_train has dtype {y.dtype}: expected floats (one-hot for classes)")
    return (y[:, None], True) if y.ndim == 1 else (y, False)


def as_speed(learning_rate: float, loss: Loss, num_targets: int) -> Array | float:
    """The factor of Theta in the flow: the learning rate, over N C for a mean.

    Raises:
        ValueError: if an argument is out of range.
    """
    checks.choice("loss", loss, ("sum", "mean"))
    if not precision.traced(learning_rate) and not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate={learning_rate}: expected a positive number")
    return learning_rate / num_targets if loss == "mean" else learning_rate


def as_time(time: Array | float | None) -> Array:
    """Times [] or [T]; None is infinity.

    Raises:
        ValueError: if one is negative or they have more axes.
    """
    time = np.inf if time is None else time
    if precision.traced(time):
        return time
    time = np.asarray(time, np.float64)
    if time.ndim > 1 or not np.all(time >= 0):
        raise ValueError(f"time={time}: expected a number >= 0, several as [T], or None")
    return time
