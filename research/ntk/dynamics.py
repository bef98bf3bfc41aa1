"""Training of a linearised network under any loss, in function space, by adaptive ODE solves.

Only the kernel and the loss enter. Time is counted in steps of gradient descent, so that solutions
at t = k stand beside the k-th iterate:

    gradient descent   f' = -eta Theta dL/df
    heavy ball         (1 + m)/2 f'' + (1 - m) f' = -eta Theta dL/df

The second is theta_(k+1) - theta_k = m (theta_k - theta_(k-1)) - eta dL/dtheta to second order in
the step on both sides (m = 0 gives descent's own correction). The loss has the scale its function
has: nothing is divided here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.ntk import checks, precision

Loss = Callable[[Array, Any], Array]  # (outputs [N, C], targets) -> []


@flax.struct.dataclass
class Trajectory:
    """Outputs on the way.

    Attributes:
        train: [T, N, C] float.
        test: [T, M, C] float; M = 0 without test points.
        num_steps: [] int, steps of the ODE solver.
    """

    train: Array
    test: Array
    num_steps: Array


def solve(
    loss: Loss,
    targets: Any,
    k_train: Array,
    f_train: Array,
    times: Array,
    *,
    k_test_train: Array | None = None,
    f_test: Array | None = None,
    learning_rate: float = 1.0,
    momentum: float | None = None,
    rtol: float = 1e-8,
    atol: float = 1e-8,
    max_steps: int = 100_000,
) -> Trajectory:
    """Outputs on training and test points at given times, under gradient descent or momentum.

    Args:
        loss: (outputs [N, C], targets) -> [] float, differentiable; e.g. a mean of cross-entropies.
        targets: what the loss takes.
        k_train: [N, N] shared by all outputs, or [N, N, C, C].
        f_train: [N, C] float, outputs at the start.
        times: [T] float >= 0, ascending, in steps.
        k_test_train: [M, N] or [M, N, C, C]; f_test: [M, C].
        learning_rate: > 0.
        momentum: None for gradient descent; 0 <= m < 1 for the heavy ball, started at rest.
        rtol, atol: tolerances of Tsitouras' 5(4) method. It is explicit: its steps grow with
            learning_rate * lambda_max * time.
        max_steps: of the solver.
    Returns:
        `Trajectory`; solved in float64.
    Raises:
        ValueError: if the arguments do not fit together.
        RuntimeError: if max_steps are not enough.
    """
    f_train, times = jnp.asarray(f_train), np.asarray(times, np.float64)
    checks.count("max_steps", max_steps)
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not tolerance >= 0 or rtol == atol == 0:
            raise ValueError(f"{name}={tolerance}: expected a number >= 0, not both of them 0")
    _check(k_train, f_train, k_test_train, f_test, times, learning_rate, momentum)
    if k_test_train is None:
        k_test_train, f_test = k_train[:0], f_train[:0]
    heavy = momentum is not None
    run = functools.partial(_compiled, loss=loss, heavy=heavy, max_steps=max_steps)
    states, done, num_steps = precision.wide(
        run,
        *(targets, k_train, k_test_train, f_train, f_test, times),
        *(learning_rate, momentum if heavy else 0.0, rtol, atol),
    )
    if not precision.traced(done) and not done:
        raise RuntimeError(
            f"the ODE needs more than max_steps={max_steps} to reach t={times[-1]:g}: raise it, or "
            "lower learning_rate * time (the equation is stiff)"
        )
    train, test = precision.narrow(states)
    return Trajectory(train, test, num_steps)


def largest_learning_rate(
    lambda_max: Array | float,
    *,
    momentum: float = 0.0,
    method: Literal["heavy_ball", "nesterov"] = "heavy_ball",
    loss: Literal["sum", "mean"] = "sum",
    num_targets: int | None = None,
) -> Array:
    """The step size above which training of the linearised network on squared error diverges.

    For L = 1/2 sum (f - y)^2: 2 / lambda for gradient descent, 2 (1 + m) / lambda for the heavy
    ball, 2 (1 + m) / ((1 + 2 m) lambda) for Nesterov's; for 1/2 of the mean over num_targets
    entries that many times as much. (Without the 1/2 all of them halve.)

    Args:
        lambda_max: largest eigenvalue of the training kernel: `spectrum.top_eigenpairs`, or
            `eigen.values[-1]`.
        momentum: m, 0 <= m < 1.
        method: how the momentum enters.
        loss: the scale of the loss, as in `research.ntk.predict`.
        num_targets: N C, for loss="mean".
    Returns:
        [] float.
    Raises:
        ValueError: if an argument is out of range.
    """
    checks.choice("method", method, ("heavy_ball", "nesterov"))
    checks.choice("loss", loss, ("sum", "mean"))
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}: expected a number in [0, 1)")
    if loss == "mean":
        if num_targets is None:
            raise ValueError("loss='mean' needs num_targets, the number N C of targets it is over")
        checks.count("num_targets", num_targets)
    if not precision.traced(lambda_max) and not np.all(np.asarray(lambda_max) > 0):
        raise ValueError(f"lambda_max={lambda_max}: expected a positive number")
    damping = 1 + 2 * momentum if method == "nesterov" else 1
    scale = num_targets if loss == "mean" else 1
    return scale * 2 * (1 + momentum) / (damping * jnp.asarray(lambda_max))


def _solve(
    targets: Any,
    k_train: Array,
    k_test: Array,
    f_train: Array,
    f_test: Array,
    times: Array,
    learning_rate: Array,
    momentum: Array,
    rtol: Array,
    atol: Array,
    *,
    loss: Loss,
    heavy: bool,
    max_steps: int,
) -> tuple:
    import diffrax  # only these solves need it

    gradient = jax.grad(loss)

    def force(f: Array) -> tuple[Array, Array]:
        pull = -learning_rate * gradient(f, targets)
        return _times(k_train, pull), _times(k_test, pull)

    def descent(time: Array, state: tuple, _: None) -> tuple:
        return force(state[0])

    def heavy_ball(time: Array, state: tuple, _: None) -> tuple:
        (train, test), (fast, fast_test) = state
        friction, mass = 1 - momentum, (1 + momentum) / 2
        push, push_test = force(train)
        slower = (push - friction * fast) / mass, (push_test - friction * fast_test) / mass
        return (fast, fast_test), slower

    outputs = (f_train, f_test)
    start = (outputs, jax.tree.map(jnp.zeros_like, outputs)) if heavy else outputs
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(heavy_ball if heavy else descent),
        diffrax.Tsit5(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    states = solution.ys[0] if heavy else solution.ys
    done = solution.result == diffrax.RESULTS.successful
    return states, done, solution.stats["num_steps"]


_compiled = jax.jit(_solve, static_argnames=("loss", "heavy", "max_steps"))


def _times(kernel: Array, vector: Array) -> Array:
    """[M, N] or [M, N, C, C] times [N, C]."""
    return jnp.einsum("mn,nc->mc" if kernel.ndim == 2 else "mncd,nd->mc", kernel, vector)


def _check(
    k_train: Array,
    f_train: Array,
    k_test_train: Array | None,
    f_test: Array | None,
    times: np.ndarray,
    learning_rate: float,
    momentum: float | None,
) -> None:
    if f_train.ndim != 2:
        raise ValueError(f"f_train has shape {f_train.shape}: expected [N, C]")
    num, outputs = f_train.shape
    if k_train.shape not in ((num, num), (num, num, outputs, outputs)):
        raise ValueError(
            f"k_train has shape {k_train.shape}: expected [{num}, {num}], with or without "
            f"[{outputs}, {outputs}]"
        )
    if (k_test_train is None) != (f_test is None):
        raise ValueError("k_test_train and f_test come together or not at all")
    if k_test_train is not None:
        expected = (len(f_test), *k_train.shape[1:])
        if k_test_train.shape != expected or jnp.shape(f_test)[1:] != (outputs,):
            raise ValueError(
                f"k_test_train has shape {k_test_train.shape} and f_test {jnp.shape(f_test)}: "
                f"expected [M, {', '.join(map(str, k_train.shape[1:]))}] and [M, {outputs}]"
            )
    if times.ndim != 1 or not times.size or not np.all(np.isfinite(times) & (times >= 0)):
        raise ValueError(f"times={times}: expected finite numbers >= 0, [T]")
    if np.any(np.diff(times) < 0):
        raise ValueError(f"times={times}: expected them ascending")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate={learning_rate}: expected a positive number")
    if momentum is not None and not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}: expected None or a number in [0, 1)")
