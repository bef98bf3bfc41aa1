"""What tests of solvers share: one solver on many grids at once, and the order measured so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from research.diffusion import oracles, processes, samplers, solver_tables

VP = processes.vp()
NUM_VALUES = 4  # remembered values: as many as UniPC-3 and RK4 need
WEIGHTS, MEANS, VARIANCES = [0.3, 0.7], [[-0.5], [0.6]], [0.25, 0.1]


def wiggly(x, t, xp=jnp):
    """Any smooth function, for JAX or NumPy: identities of solvers hold for every network."""
    mixed = x @ xp.asarray([[0.5, -0.3], [0.2, 0.1]])
    return xp.tanh(mixed + xp.sin(3 * t)[:, None]) - 0.5 * x


def filled(table, num_used, num_rows):
    """The first `num_used` rows of a table, then rows that leave the state alone.

    All tables of `num_rows` rows get one shape, so that one compilation runs them all.
    """
    more = num_rows - table.num_rows
    keep = jnp.zeros(1 + NUM_VALUES).at[0].set(1)[None]

    def columns(weights):
        missing = NUM_VALUES + 1 - weights.shape[1]
        return jnp.pad(weights, ((0, more), (0, missing)))

    row = jnp.arange(num_rows)[:, None]
    point = columns(table.point)
    # idle rows repeat the base, which must be the end point first
    base = (
        jnp.where(row < num_used - 1, columns(table.base), point)
        if table.base is not None
        else point
    )
    return solver_tables.Table(
        time=jnp.pad(table.time, (0, more), mode="edge"),
        value=jnp.pad(table.value, ((0, more), (0, 0))),
        point=jnp.where(row < num_used, point, keep),
        base=jnp.where(row < num_used, base, keep),
        reached=jnp.pad(table.reached, (0, more), mode="edge"),
        step=(-1,) * num_rows,
    )


@functools.cache
def growing_times(first, num_doublings):
    """Times [1 + num_doublings, N + 1] of Karras' grids (rho = 4) of first, 2 first, ... steps.

    Those of the smaller grids go on below t_min, falling, so that all are of one length.
    """
    sizes = [first * 2**k for k in range(num_doublings + 1)]

    def times():
        rows = []
        for size in sizes:
            row = samplers.karras_grid(size, rho=4.0).times(VP)
            beyond = np.arange(1, sizes[-1] - size + 1) / sizes[-1]
            rows.append(jnp.concatenate([row, row[-1] * (1 - 0.5 * beyond)]))
        return jnp.stack(rows)

    return sizes, jax.jit(times)()


@functools.cache
def problem():
    """Program of the ends, start [8, 2], exact ends: four of a Gaussian, four of a mixture."""
    gaussian = oracles.gaussian(VP, [0.3, -0.2], [[0.25, 0.1], [0.1, 0.5]])
    mixture = oracles.mixture(VP, WEIGHTS, np.array(MEANS), VARIANCES)

    def score(x, t):
        line = x[4:].reshape(8, 1)
        second = mixture(line, jnp.repeat(t[4:], 2)).reshape(4, 2)
        return jnp.concatenate([gaussian(x[:4], t[:4]), second])

    x = VP.prior_std * np.random.default_rng(0).normal(size=(8, 2))
    first = jax.jit(lambda x: gaussian.transport(x, VP.t_max, VP.t_min))(x[:4])
    second = oracles.mixture_flow(mixture, x[4:].ravel(), VP.t_max, VP.t_min).reshape(4, 2)
    ends = jax.jit(jax.vmap(lambda table, x: solver_tables.run(table, score, x)[0], (0, None)))
    return ends, x, np.concatenate([first, second])


def assert_order(solver, order, first, num_doublings):
    """The slope is that of theory at every doubling, on a Gaussian and on a mixture.

    rho = 4, for the leading error term of a method can vanish on a Gaussian by accident: that of
    DPM-Solver-3 does near rho = 7, that of 3M on steps of equal log-SNR.
    """
    sizes, times = growing_times(first, num_doublings)
    outline = jax.eval_shape(lambda t: solver.table(VP, t), times[0])
    num_rows = 1 << (outline.num_rows - 1).bit_length()  # few shapes for all solvers
    used = np.array([1 + outline.step.index(size) for size in sizes])
    make = lambda times, used: filled(solver.table(VP, times), used, num_rows)
    ends, x, exact = problem()
    found = ends(jax.jit(jax.vmap(make))(times, used), x)
    errors = np.sqrt(np.mean((np.asarray(found) - exact) ** 2, -1))  # [sizes, 8]
    for rows in (slice(0, 4), slice(4, 8)):
        rmse = np.sqrt(np.mean(errors[:, rows] ** 2, 1))
        slopes = np.log2(rmse[:-1] / rmse[1:])
        np.testing.assert_allclose(slopes, order, atol=0.15)
        if order > 1:
            assert rmse[-1] < 1e-6


def assert_printed_errors(solver, printed, to_zero, last_order=None):
    """RMSE to the exact flow of N(0.3, 0.5^2), Karras' grid from 80 to 0.002, 10 ... 160 steps.

    Linear maps: the RMSE over the start law is the error of the point one deviation off.
    """
    process = processes.edm(0.002, 80.0)
    score = oracles.gaussian(process, [0.3], 0.25)
    grids = [samplers.karras_grid(n, to_zero=to_zero) for n in (10, 20, 40, 80, 160)]

    @jax.jit
    def ends(x):
        made = [samplers.solver_table(solver, process, grid) for grid in grids]
        most = max(table.num_rows for table in made)
        made = [filled(table, table.num_rows, most) for table in made]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
        return jax.vmap(lambda table: solver_tables.run(table, score, x)[0])(stacked)

    start = np.array([[0.3 + np.sqrt(0.25 + 6400)]])
    exact = 0.3 + np.sqrt(0.25 + (0.0 if to_zero else 0.002**2))
    errors = np.abs(ends(start)[:, 0, 0] - exact)
    np.testing.assert_allclose(errors, printed, rtol=1e-4)
    if last_order is not None:
        np.testing.assert_allclose(np.log2(errors[3] / errors[4]), last_order, atol=1e-3)
