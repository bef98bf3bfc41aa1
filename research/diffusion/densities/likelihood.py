"""Log densities under the probability flow, with error control for each sample inside jit.

The flow dx/dt = f x - g^2 s / 2 carries p_t, so log p(x) = log p_T(x_T) + int div dt along the path
(Song et al. 2021, arXiv:2011.13456, eq. (39)). Here it is solved for z = x/c, c^2 = alpha^2 +
sigma^2, in the variable u with sinh u = sigma/alpha:

    dz/du = -tanh(u) (c s(c z, t) + z)

It is the same for every process and vanishes for standard normal data. At little noise u is the
angle of Salimans and Ho 2022 (arXiv:2202.00512), in which the right-hand side stays bounded; at
much noise it is the log of sigma/alpha, in which a network's errors do not drive the steps to zero
as they do in the angle, where they are divided by alpha. So steps are long and few, where in t, the
log SNR or the angle they would be short towards an end. The change of variable adds
D log c(t_max)/c(t_min).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Key
from research.diffusion.curves import wide
from research.diffusion.densities import divergence
from research.diffusion.predictions import Score
from research.diffusion.processes import Process

if TYPE_CHECKING:
    import diffrax  # the functions import it late: it takes half as long as JAX itself


@dataclasses.dataclass(frozen=True)
class Steps:
    """How the flow is integrated; made by `adaptive` or `fixed`.

    Attributes:
        controller: diffrax's choice of step sizes.
        num_steps: number of equal steps; None leaves all but the first to the controller.
        max_steps: number of steps after which a sample is given up; its result is nan.
        method: diffrax's solver.
    """

    controller: diffrax.AbstractStepSizeController
    num_steps: int | None
    max_steps: int
    method: diffrax.AbstractSolver


@flax.struct.dataclass
class Estimate:
    """A log density and what it is made of.

    Attributes:
        log_prob: [B] nats; nan where the solver ran out of steps.
        standard_error: [B] nats, of the mean over probes; 0 for the exact trace, nan for one probe.
        prior_log_prob: [B] nats, the log density of the prior where the flow ends.
        end: [B, ...], where the flow ends, at t_max.
        nfe: [B] int, evaluations of the score and its derivatives.
    """

    log_prob: Array
    standard_error: Array
    prior_log_prob: Array
    end: Array
    nfe: Array


def adaptive(
    rtol: float | Array = 1e-6,
    atol: float | Array = 1e-6,
    max_steps: int = 1000,
    method: diffrax.AbstractSolver | None = None,
) -> Steps:
    """Steps that keep the local error below atol + rtol |state|, for each sample on its own.

    The state is z, of order 1, and the log density in nats a dimension. The default method is
    Tsitouras 5(4); `diffrax.Dopri8()` is cheaper at tolerances below 1e-8.

    Raises:
        ValueError: if a tolerance or max_steps is not positive, or the method has no tableau.
    """
    checks.count("max_steps", max_steps)
    for name, size in (("rtol", rtol), ("atol", atol)):
        if not isinstance(size, jax.Array) and not 0 < size < math.inf:
            raise ValueError(f"{name}={size}: expected a positive number")
    import diffrax

    controller = diffrax.PIDController(rtol=rtol, atol=atol, norm=_largest)
    return Steps(controller, None, max_steps, _runge_kutta(method or diffrax.Tsit5()))


def fixed(num_steps: int, method: diffrax.AbstractSolver | None = None) -> Steps:
    """`num_steps` equal steps in u, of diffrax's Tsit5 unless another method is given.

    Nothing controls the error: a network that sees fine details needs `adaptive`.

    Raises:
        ValueError: if num_steps is no positive whole number, or the method has no tableau.
    """
    checks.count("num_steps", num_steps)
    import diffrax

    method = _runge_kutta(method or diffrax.Tsit5())
    return Steps(diffrax.ConstantStepSize(), num_steps, num_steps + 1, method)


def _runge_kutta(method: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """The method, whose evaluations can be counted."""
    if not hasattr(method, "tableau"):
        raise ValueError(f"method={method}: expected a Runge-Kutta method of diffrax, as Heun()")
    return method


def log_prob(score: Score, process: Process, x: Array, **options) -> Array:
    """Log density of the model at x, [B] nats; see `estimate`, whose options it takes."""
    return estimate(score, process, x, **options).log_prob


def estimate(
    score: Score,
    process: Process,
    x: Array,
    *,
    trace: str = "exact",
    rng: Key | None = None,
    num_probes: int = 1,
    probe_law: divergence.ProbeLaw = jax.random.rademacher,
    steps: Steps | None = None,
    t_start: float | None = None,
    prior_log_prob: Callable[[Array], Array] | None = None,
) -> Estimate:
    """Log density of the law that the probability flow of a score ends in.

    It is integrated in float32, or in float64 where x is, whatever x and the score come in.

    Args:
        score: (x [B, ...], t [B]) -> [B, ...].
        process: the noising process of the score.
        x: [B, ...] float, data.
        trace: "exact" for the divergence by one derivative a dimension, "hutchinson" for random
            probes, which are kept along the whole path (arXiv:1810.01367).
        rng: one key, or [B] keys so that no probe depends on the batch; for "hutchinson" only.
        num_probes: random probes a sample, all in one solve.
        probe_law: `jax.random.rademacher` or `jax.random.normal`.
        steps: `adaptive(...)` or `fixed(...)`; None is `adaptive()`.
        t_start: time at which x is taken to lie, in [t_min, t_max); t_min if None.
        prior_log_prob: log density [B] at t_max of states [B, ...]; the process's prior if None.
            Its distance from the marginal of the data at t_max is the prior gap, see `prior_gap`.
    Returns:
        `Estimate`.
    Raises:
        ValueError: for an unknown trace, a missing rng, num_probes < 1, or t_start out of range.
    """
    import diffrax

    steps = steps or adaptive()
    t_start = process.t_min if t_start is None else float(t_start)
    _check(process, x, trace, rng, num_probes, t_start)
    x = wide(x)
    if trace == "hutchinson":
        rngs = rng if rng.ndim else jax.random.split(rng, x.shape[0])
        directions = divergence.probes(probe_law, rngs, num_probes, x)
    else:
        directions = None
    ends = jnp.asarray([t_start, process.t_max], x.dtype)
    u = jnp.arcsinh(process.sigma(ends) / process.alpha(ends))
    scales = _scale(process, ends)

    def solve(z: Array, directions: Array | None) -> diffrax.Solution:
        field = _field(score, process, directions)
        num_integrals = 1 if directions is None else num_probes
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), steps.method, u[0], u[1],
            _FIRST_STEP if steps.num_steps is None else (u[1] - u[0]) / steps.num_steps,
            (z, jnp.zeros(num_integrals, z.dtype)),
            stepsize_controller=steps.controller, max_steps=steps.max_steps, throw=False,
        )  # fmt: skip

    solution = jax.vmap(solve, in_axes=(0, None if directions is None else 1))(
        x / scales[0], directions
    )
    z, integrals = jax.tree.map(lambda leaf: leaf[:, 0], solution.ys)  # [B, ...], [B, K]
    return _assemble(process, z, integrals, scales, solution, prior_log_prob, trace, steps)


def prior_gap(process: Process, mean: Array, covariance: Array) -> Array:
    """KL(N(alpha m, alpha^2 S + sigma^2 I) || prior) / D at t_max, [] nats a dimension.

    What the mean log density loses because the prior stands for the noised data: exactly this for
    Gaussian data, and at least this for all data of that mean and covariance.

    Args:
        process: the noising process.
        mean: [D].
        covariance: [D, D], or [D] variances.
    """
    mean, covariance = wide(mean), wide(covariance)
    chex.assert_rank([mean, covariance], [1, {1, 2}])
    alpha, sigma = process.alpha(process.t_max), process.sigma(process.t_max)
    variances = covariance if covariance.ndim == 1 else jnp.linalg.eigvalsh(covariance)
    ratios = (alpha**2 * variances + sigma**2) / process.prior_std**2
    square = (alpha * mean / process.prior_std) ** 2
    return 0.5 * jnp.mean(square + ratios - 1 - jnp.log(ratios))


def _field(score: Score, process: Process, directions: Array | None) -> Callable:
    """The right-hand side for one sample: z [...] and the integrals of the divergence over D."""

    def field(u: Array, state: tuple[Array, Array], _: None) -> tuple[Array, Array]:
        z, log_snr = state[0][None], -2 * jnp.log(jnp.sinh(u))
        t = jnp.clip(process.inverse_log_snr(log_snr), process.t_min, process.t_max)
        scale, times = _scale(process, t), jnp.full((1,), t)

        def flow(z: Array) -> Array:
            return -jnp.tanh(u) * (scale * wide(score(scale * z, times)) + z)

        if directions is None:
            value, trace = divergence.exact(flow, z)
        else:
            value, trace = divergence.slopes(flow, z, directions[:, None])
            trace = trace[:, 0]
        return value[0], trace / z.size

    return field


def _assemble(
    process: Process,
    z: Array,
    integrals: Array,
    scales: Array,
    solution: diffrax.Solution,
    prior_log_prob: Callable[[Array], Array] | None,
    trace: str,
    steps: Steps,
) -> Estimate:
    """Log densities from the ends z [B, ...] and the integrals [B, K] of the solves."""
    import diffrax

    dim, num_probes = z[0].size, integrals.shape[1]
    done = solution.result == diffrax.RESULTS.successful
    end = scales[1] * z
    prior = wide((prior_log_prob or process.prior_log_prob)(end))  # [B]
    change = dim * jnp.log(scales[1] / scales[0])
    value = prior + change + dim * integrals.mean(1)
    if trace == "exact":
        error = jnp.zeros_like(value)
    elif num_probes == 1:
        error = jnp.full_like(value, jnp.nan)
    else:
        error = dim * integrals.std(1, ddof=1) / math.sqrt(num_probes)
    return Estimate(
        log_prob=jnp.where(done, value, jnp.nan),
        standard_error=error,
        prior_log_prob=prior,
        end=end,
        nfe=_count(solution, steps),
    )


def _count(solution: diffrax.Solution, steps: Steps) -> Array:
    """Evaluations of all tried steps; the first of a step may be the last of the one before."""
    reused = int(steps.method.tableau.fsal)
    return reused + (steps.method.tableau.num_stages - reused) * solution.stats["num_steps"]


_FIRST_STEP = 1e-2  # of u; the controller takes over from there


def _scale(process: Process, t: Array) -> Array:
    return jnp.sqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2)


def _largest(scaled_error: tuple[Array, Array]) -> Array:
    """The larger of the mean error of z and the error of the log density a dimension."""
    z, integrals = scaled_error
    return jnp.maximum(jnp.sqrt(jnp.mean(z**2)), jnp.max(jnp.abs(integrals)))


def _check(
    process: Process, x: Array, trace: str, rng: Key | None, num_probes: int, t_start: float
) -> None:
    if trace not in ("exact", "hutchinson"):
        raise ValueError(f"trace={trace!r}: expected 'exact' or 'hutchinson'")
    if trace == "hutchinson" and rng is None:
        raise ValueError("trace='hutchinson' needs rng, the key of its probes")
    checks.count("num_probes", num_probes)
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x is {x.dtype}{list(x.shape)}: expected floats [B, ...]")
    process.check_times(np.asarray(t_start), "t_start")
    if t_start >= process.t_max:
        raise ValueError(f"t_start={t_start}: expected a time before t_max={process.t_max}")
