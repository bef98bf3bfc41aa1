"""The probability flow by an adaptive Runge-Kutta method, each sample under its own error control.

The flow is solved in the variables z = x/r, r^2 = alpha^2 + sigma^2, and l = log(alpha^2/sigma^2),
where every process is the same: dz/dl = sigma^2/(2 r^2) (z + r score). All inside jit (diffrax).
"""

from __future__ import annotations

import math

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array
from research.diffusion.curves import wide
from research.diffusion.predictions import Score
from research.diffusion.processes import Process


@flax.struct.dataclass
class Adaptive:
    """See `adaptive`."""

    rtol: float | Array
    atol: float | Array
    max_steps: int = flax.struct.field(pytree_node=False)


def adaptive(rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 4096) -> Adaptive:
    """Dormand-Prince 5(4) on the probability flow, error-controlled per sample.

    Args:
        rtol: relative tolerance of a step, on z = x/sqrt(alpha^2 + sigma^2).
        atol: absolute tolerance of a step.
        max_steps: limit of steps for each sample; a sample that reaches it is nan.
    Raises:
        ValueError: if a limit is not positive.
    """
    checks.count("max_steps", max_steps)
    for name, size in (("rtol", rtol), ("atol", atol)):
        if not isinstance(size, jax.Array) and not 0 < size < math.inf:
            raise ValueError(f"{name}={size}: expected a positive number")
    return Adaptive(rtol=rtol, atol=atol, max_steps=max_steps)


def solve_adaptively(
    solver: Adaptive, score: Score, process: Process, x: Array, start: float, end: float
) -> tuple[Array, Array]:
    """Carries states x [B, ...] from time `start` to time `end`, in either direction.

    Returns:
        End states [B, ...], float32 or wider, and the number of evaluations of the score for each
        sample [B].
    """
    x = wide(x)
    import diffrax  # only this solver needs it

    times = jnp.asarray([start, end], x.dtype)
    radius = jnp.hypot(process.alpha(times), process.sigma(times))
    ends = process.log_snr(times)

    def slope(log_snr: Array, z: Array, _: None) -> Array:
        t = process.inverse_log_snr(log_snr)
        scale = jnp.hypot(process.alpha(t), process.sigma(t))
        pull = score((scale * z)[None], t[None])[0].astype(z.dtype)
        return 0.5 * jax.nn.sigmoid(-log_snr) * (z + scale * pull)

    def solve_one(z: Array) -> tuple[Array, Array]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(slope),
            diffrax.Dopri5(),
            t0=ends[0],
            t1=ends[1],
            dt0=_FIRST_STEP * jnp.sign(ends[1] - ends[0]),
            y0=z,
            stepsize_controller=diffrax.PIDController(rtol=solver.rtol, atol=solver.atol),
            max_steps=solver.max_steps,
            throw=False,
        )
        done = solution.result == diffrax.RESULTS.successful
        # first same as last: six evaluations a tried step, and the very first one
        return jnp.where(done, solution.ys[0], jnp.nan), 1 + 6 * solution.stats["num_steps"]

    end_states, nfe = jax.vmap(solve_one)(x / radius[0])
    return radius[1] * end_states, nfe


_FIRST_STEP = 0.1  # in log-SNR; the controller takes over from there
