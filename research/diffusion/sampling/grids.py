"""Where a sampler steps: falling rows of times as small frozen values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.struct
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array
from research.diffusion.curves import as_time
from research.diffusion.processes import Process

Spacing = Callable[[Process, Array, Array, Array, Array], Array]


@flax.struct.dataclass
class Grid:
    """`num_steps` steps from t_start down to t_end, by default from t_max to t_min.

    Attributes:
        spacing: (process, t_start, t_end, u, warp) -> times at fractions u of the way.
        num_steps: number of steps, the last one to zero noise included.
        to_zero: end with a step to zero noise, which returns the denoised state at t_end.
        warp: parameter of the spacing.
        t_start: first time, or None for the process's t_max.
        t_end: last time with noise, or None for the process's t_min.
    """

    spacing: Spacing = flax.struct.field(pytree_node=False)
    num_steps: int = flax.struct.field(pytree_node=False)
    to_zero: bool = flax.struct.field(pytree_node=False, default=False)
    warp: float | Array | tuple[float, ...] = 0.0
    t_start: float | None = flax.struct.field(pytree_node=False, default=None)
    t_end: float | None = flax.struct.field(pytree_node=False, default=None)

    def times(self, process: Process) -> Array:
        """Falling times [num_steps + 1], or [num_steps] if the last step goes to zero noise.

        Raises:
            ValueError: if t_start or t_end lies outside the process's range.
        """
        start, end = self.ends(process)
        num_points = self.num_steps + (0 if self.to_zero else 1)
        u = jnp.linspace(0.0, 1.0, num_points)
        times = self.spacing(process, as_time(start), as_time(end), u, self.warp)
        return times.at[0].set(start).at[-1].set(end) if num_points > 1 else times

    def ends(self, process: Process) -> tuple[float, float]:
        """First time and last noisy time, checked against the process's range."""
        start = process.t_max if self.t_start is None else self.t_start
        end = process.t_min if self.t_end is None else self.t_end
        process.check_times([start, end], "grid ends")
        only_to_zero = self.to_zero and self.num_steps == 1
        if not (start > end or (only_to_zero and start == end)):
            raise ValueError(f"grid from t={start} to t={end}: expected falling times")
        return start, end


def uniform_grid(num_steps: int, *, to_zero: bool = False, **ends: float) -> Grid:
    """Times in equal steps.

    Args:
        num_steps: number of steps, at least 1 (2 with `to_zero`).
        to_zero: see `Grid`.
        ends: t_start and t_end, see `Grid`.
    Raises:
        ValueError: if num_steps is no whole number or too small.
    """
    return _grid(_uniform, num_steps, to_zero, **ends)


def log_snr_grid(num_steps: int, *, to_zero: bool = False, **ends: float) -> Grid:
    """Equal steps in log(alpha^2/sigma^2), for the exponential solvers; args as `uniform_grid`."""
    return _grid(_log_snr, num_steps, to_zero, **ends)


def karras_grid(
    num_steps: int, rho: float | Array = 7.0, *, to_zero: bool = False, **ends: float
) -> Grid:
    """Equal steps in (sigma/alpha)^{1/rho}, Karras et al. 2022, arXiv:2206.00364, eq. (5).

    The paper's schedule of N levels and a last step to zero is karras_grid(N, to_zero=True).

    Raises:
        ValueError: as `uniform_grid`, and unless rho is positive.
    """
    if isinstance(rho, (int, float)) and not 0 < rho < np.inf:
        raise ValueError(f"rho={rho}: expected a positive number")
    return _grid(_karras, num_steps, to_zero, warp=rho, **ends)


def times_grid(times: Sequence[float], *, to_zero: bool = False) -> Grid:
    """The given times.

    Args:
        times: concrete, falling strictly, within the range of the process they are used with.
        to_zero: add a last step to zero noise.
    Raises:
        ValueError: if there are fewer than two times (one with `to_zero`) or they do not fall.
    """
    values = np.asarray(times, np.float64)
    least = 1 if to_zero else 2
    if values.ndim != 1 or len(values) < least:
        raise ValueError(f"times of shape {values.shape}: expected at least {least} in a row")
    if not np.all(np.diff(values) < 0):
        raise ValueError(f"times={values}: expected a strictly falling row")
    return Grid(
        spacing=_given,
        num_steps=len(values) - (0 if to_zero else 1),
        to_zero=to_zero,
        warp=tuple(values.tolist()),
        t_start=float(values[0]),
        t_end=float(values[-1]),
    )


def _grid(spacing: Spacing, num_steps: int, to_zero: bool, **fields: float) -> Grid:
    checks.count("num_steps", num_steps, least=2 if to_zero else 1)
    return Grid(spacing=spacing, num_steps=num_steps, to_zero=to_zero, **fields)


def _between(start: Array, end: Array, u: Array) -> Array:
    return start + u * (end - start)


def _uniform(process: Process, start: Array, end: Array, u: Array, warp: float) -> Array:
    return _between(start, end, u)


def _log_snr(process: Process, start: Array, end: Array, u: Array, warp: float) -> Array:
    return process.inverse_log_snr(_between(process.log_snr(start), process.log_snr(end), u))


def _karras(process: Process, start: Array, end: Array, u: Array, warp: Array) -> Array:
    power = -0.5 / as_time(warp)
    warped = _between(
        jnp.exp(power * process.log_snr(start)), jnp.exp(power * process.log_snr(end)), u
    )
    return process.inverse_log_snr(jnp.log(warped) / power)


def _given(process: Process, start: Array, end: Array, u: Array, warp: Sequence) -> Array:
    return jnp.asarray(warp, u.dtype)
