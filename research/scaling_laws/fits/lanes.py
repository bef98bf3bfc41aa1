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
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from library.environment import num_cores
from research.scaling_laws.fits import newton_steps

SAME = 1e-2  # ends of the first stage whose theta differ by less, lane by lane, are one lane
ALIKE = 1e-4  # and whose objectives differ by less, relatively
CREEP = 1e-6  # relative decrease over a round below which an unfinished lane is given up
FAR = newton_steps.Stage(np.float32, 128, 8, 1e-5, 0.3, 3.0, 1e-6, 1e6, 16.0)
NEAR = newton_steps.Stage(np.float64, 64, 12, 1e-13, 0.1, 8.0, 1e-12, 1e12, 0.0)


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
    chex.assert_shape(starts, (len(problem.free), len(lanes_of)))
    chex.assert_shape(weights, (None, len(problem.targets)))
    state, everyone = _State(np.array(starts.T, np.float64)), np.arange(starts.shape[1])
    with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
        heads, head = everyone, everyone
        stages = (FAR, NEAR) if far else (NEAR,)
        # One is traced while the other is compiled, which is not Python's work.
        programs = [pool.submit(_compiled, _lowered(stage, *_shapes(problem))) for stage in stages]
        shared = (problem, weights, lanes_of, state, max_iterations, pool)
        if far:
            _carry_out(*shared, FAR, programs[0].result(), everyone)
            lost = ~np.isfinite(state.theta).all(1) | ~np.isfinite(state.objective)
            state.theta[lost] = starts.T[lost]
            state.theta[:, ~problem.free] = starts.T[:, ~problem.free]  # in float64 again
            head = _merged(state, lanes_of)
            heads = np.flatnonzero(head == everyone)
            state.restart()
        _carry_out(*shared, NEAR, programs[-1].result(), heads)
    theta, objective, done = state.theta[head], state.objective[head], state.done[head]
    return Solution(theta.T, objective, done & np.isfinite(objective), state.spent)


def curvature(problem: Problem, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At one theta [P]: residuals [n], Jacobian of the prediction [n, P], H [P, P]."""
    columns, targets = _data(problem, np.float64)
    with jax.enable_x64(True):
        predicted, jacobian = jax.device_get(
            _jacobian(problem.predict, columns, np.asarray(theta, np.float64)[None])
        )
    residual, jacobian = (targets - predicted)[0], jacobian[0].T
    inside = jacobian[np.abs(residual) <= problem.delta]
    return residual, jacobian, inside.T @ inside


def value_and_gradient(problem: Problem) -> Callable:
    """theta [P] -> objective and gradient [P], for optimizers that hold the loop themselves."""
    (columns, targets), free = _data(problem, np.float64), problem.free

    def objective(theta):
        residual = targets - problem.predict(theta[:, None, None], columns)
        return jnp.sum(newton_steps.huber(residual, jnp.float64(problem.delta)))

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


def _carry_out(
    problem: Problem,
    weights: np.ndarray,
    lanes_of: np.ndarray,
    state: _State,
    max_iterations: int,
    pool: concurrent.futures.Executor,
    stage: newton_steps.Stage,
    program: Callable,
    pending: np.ndarray,
) -> None:
    """One stage of the pending lanes, in rounds; `state` is updated."""
    length, chunk = _length(len(problem.targets)), _chunk(stage)
    data = _data(problem, stage.dtype, length)
    weights = np.pad(weights, ((0, 0), (0, length - weights.shape[1])))  # no weight for repeats

    def advance(lanes: np.ndarray) -> None:
        padded = np.resize(lanes, chunk) if len(lanes) < chunk else lanes
        # Both are thread-local, hence here. A lost lane may exceed float32.
        with jax.enable_x64(True), np.errstate(over="ignore"):
            out = program(
                *data, weights[lanes_of[padded]].astype(stage.dtype),
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
        close = state.objective[left] <= (1 + ALIKE) * state.objective[leader] + newton_steps.FLOOR
        taken = first | near & close
        head[left[taken]] = leader[taken]
        left = left[~taken]
        if not len(left):
            break
    return head


@functools.cache
def _lowered(
    stage: newton_steps.Stage, predict: Callable, names: tuple, num_runs: int, num_free: int
) -> jax.stages.Lowered:
    """`steps.advance` of one stage, not yet compiled."""
    chunk, dtype = _chunk(stage), stage.dtype
    of = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    with jax.enable_x64(True):
        return newton_steps.advance.lower(
            stage, predict, {name: of(1, num_runs) for name in names}, of(1, num_runs),
            of(chunk, num_runs), of(), jax.ShapeDtypeStruct((num_free,), bool),
            of(chunk, num_free), of(chunk),
        )  # fmt: skip


@functools.cache
def _compiled(lowered: jax.stages.Lowered) -> Callable:
    return lowered.compile()


_jacobian = jax.jit(newton_steps.jacobian, static_argnums=0)


def _shapes(problem: Problem) -> tuple[Callable, tuple, int, int]:
    length = _length(len(problem.targets))
    return problem.predict, tuple(problem.columns), length, len(problem.free)


def _chunk(stage: newton_steps.Stage) -> int:
    return stage.chunk if jax.default_backend() == "cpu" else 1 << 15


def _data(
    problem: Problem, dtype: type, length: int | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns and targets, [1, n]; or of a length, the last run repeated."""
    index = np.minimum(np.arange(length or len(problem.targets)), len(problem.targets) - 1)
    columns = {name: np.asarray(c, dtype)[None, index] for name, c in problem.columns.items()}
    return columns, np.asarray(problem.targets, dtype)[None, index]


def _length(num_runs: int) -> int:
    """Runs of a program: a few lengths for any number of runs, so that few programs compile."""
    return -(-num_runs // 16) * 16
