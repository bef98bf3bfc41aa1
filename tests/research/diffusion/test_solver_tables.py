"""Tables of solvers against the recursion that they stand for, in NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import processes, solver_tables
from tests.research.diffusion.solver_cases import wiggly

NUM, STEPS = 4, 3
TIMES = np.array([0.9, 0.6, 0.4, 0.1])


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def table_of(num_values, *, own_base=False, step=(1, 2, 3), **optional):
    """Random weights, those of the base apart from those of the point on request."""
    return solver_tables.Table(
        time=TIMES[:-1],
        value=0.5 * normals(STEPS, 2, seed=1),
        point=0.5 * normals(STEPS, 1 + num_values, seed=2),
        base=0.5 * normals(STEPS, 1 + num_values, seed=3) if own_base else None,
        reached=TIMES[1:],
        step=step,
        **optional,
    )


def by_hand(table, x, noises, project=None, state=None):
    """The recursion of the module's docstring, row by row: the points after all rows.

    `state`, a list, is filled with what a table that follows goes on from, or goes on from it.
    """
    base, point, values = state or (x, x, [])
    points = []
    for row in range(table.num_rows):
        z = noises[row]
        if table.before is not None:
            base, point = (table.scale[row] * s + table.before[row] * z for s in (base, point))
        score = wiggly(point, np.full(NUM, table.time[row]), np)
        values = [table.value[row, 0] * point + table.value[row, 1] * score, *values]
        if table.base is None:
            base = point
        sums = [
            weights[row, 0] * base + sum(w * v for w, v in zip(weights[row, 1:], values))
            for weights in (table.point, table.point if table.base is None else table.base)
        ]
        point, base = sums
        if table.after is not None:
            point, base = point + table.after[row] * z, base + table.after[row] * z
        if table.langevin is not None:
            h = table.langevin[row] * (z**2).sum(1) / (score**2).sum(1)
            move = h[:, None] * score + np.sqrt(2 * h)[:, None] * z
            point, base = point + move, base + move
        if project is not None and table.step[row] >= 0:
            shift = project(point) - point
            point, base = point + shift, base + shift
        if table.base is None:
            base = point
        points.append(point)
    if state is not None:
        state[:] = base, point, values
    return np.stack(points)


ONES = np.ones(STEPS)
TABLES = {
    "one_value": lambda: table_of(1),
    "memory": lambda: table_of(3),
    "base": lambda: table_of(2, own_base=True),
    "noise_after": lambda: table_of(2, after=ONES),
    "noise_of_both": lambda: table_of(2, own_base=True, after=ONES),
    "noise_before": lambda: table_of(2, own_base=True, scale=0.7 * ONES, before=ONES),
    "langevin": lambda: table_of(1, langevin=0.1 * ONES),
}


@pytest.fixture(scope="module")
def runs():
    """{name: (points by hand, end, recorded states)} of all tables, from one program."""
    x, noises = normals(NUM, 2), normals(STEPS, NUM, 2, seed=4)
    tables = {name: make() for name, make in TABLES.items()}
    with jax.enable_x64(True):
        draw = lambda row: jnp.asarray(noises)[row]
        run = lambda table, x: solver_tables.run(table, wiggly, x, draw, every=1)
        found = jax.jit(lambda tables, x: {k: run(t, x) for k, t in tables.items()})(tables, x)
    return {name: (by_hand(tables[name], x, noises), *found[name]) for name in TABLES}


@pytest.mark.parametrize("name", TABLES)
def test_run_is_the_recursion(name, runs):
    points, end, path = runs[name]
    np.testing.assert_allclose(path[1:], points, rtol=1e-10)
    np.testing.assert_array_equal(end, path[-1])


def test_what_is_recorded_where_the_period_does_not_divide_the_steps(x64):
    """Of six steps every fourth is the second of every second: no later step overwrites it."""
    times = np.linspace(0.9, 0.1, 7)
    weights = tuple(0.5 * normals(2, 6, seed=5))
    x = normals(NUM, 2)

    @jax.jit
    def paths(x):
        value = jnp.zeros(6), jnp.ones(6)
        table = solver_tables.single(jnp.asarray(times), value, weights)
        run = lambda every: solver_tables.run(table, wiggly, x, every=every)[1]
        kept = [solver_tables.kept_times(table, 0.9, every) for every in (4, 2)]
        return run(4), run(2), kept

    fourth, second, kept = paths(x)
    assert len(fourth) == 2 and len(second) == 4
    np.testing.assert_array_equal(fourth[1], second[2])
    np.testing.assert_array_equal(fourth[0], x)
    np.testing.assert_allclose(kept[0], times[[0, 4]], rtol=1e-12)
    np.testing.assert_allclose(kept[1], times[::2], rtol=1e-12)


def test_noise_without_a_source_is_refused():
    with pytest.raises(ValueError, match="draw=None: the table draws noise"):
        solver_tables.run(table_of(1, after=ONES), wiggly, jnp.ones((NUM, 2)))


def test_projection_moves_base_and_point_at_the_end_of_steps(x64):
    table = table_of(2, step=(-1, 1, 2), own_base=True)
    x, clip = normals(NUM, 2), lambda x: np.clip(x, -0.1, 0.1)
    seen = []

    def project(x, t, row):
        seen.append((t.shape, row.shape))
        return jnp.clip(x, -0.1, 0.1)

    run = lambda x: solver_tables.run(table, wiggly, x, project=project)[0]
    np.testing.assert_allclose(jax.jit(run)(x), by_hand(table, x, x[:3], clip)[-1], rtol=1e-10)
    assert seen == [((NUM,), ())]


def test_single_and_staged_are_euler_and_heun(x64):
    """x' = x + h s, and the mean of the slopes at both ends of a step, each written by hand."""
    h = TIMES[1:] - TIMES[:-1]
    one, none = np.ones(STEPS), np.zeros(STEPS)

    @jax.jit
    def ends(x):
        times = jnp.asarray(TIMES)
        euler = solver_tables.single(times, (none, one), (one, h))
        value, pair = jnp.stack([none, one], -1), lambda *parts: jnp.stack(parts, -1)
        heun = solver_tables.staged(
            [times[:-1], times[1:], times[1:]],
            [value, value],
            [pair(one, h, none), pair(one, 0.5 * h, 0.5 * h)],
        )
        assert euler.step == (1, 2, 3) and heun.step == (-1, 1, -1, 2, -1, 3)
        assert heun.num_values == 2 and euler.base is None and not heun.is_stochastic
        kept = solver_tables.kept_times(heun, TIMES[0], 2)
        return [solver_tables.run(table, wiggly, x)[0] for table in (euler, heun)], kept

    x = normals(NUM, 2)
    (euler, heun), kept = ends(x)
    np.testing.assert_array_equal(kept, TIMES[[0, 2]])
    slope = lambda x, t: wiggly(x, np.full(NUM, t), np)
    first = second = x
    for i in range(STEPS):
        first = first + h[i] * slope(first, TIMES[i])
        start = slope(second, TIMES[i])
        end = slope(second + h[i] * start, TIMES[i + 1])
        second = second + 0.5 * h[i] * (start + end)
    np.testing.assert_allclose(euler, first, rtol=1e-10)
    np.testing.assert_allclose(heun, second, rtol=1e-10)


def test_joined_tables_run_one_after_the_other(x64):
    """Of unlike widths; with noise and without; with a base of their own and without."""
    plain, based = table_of(1), table_of(2, own_base=True, step=(-1, -1, 1))
    ended = based.replace(base=np.concatenate([based.base[:2], based.point[2:]]))  # base = point
    noisy = ended.replace(scale=0.7 * ONES, before=ONES)
    pairs = (
        (plain, based),
        (based, based),
        (table_of(1, after=ONES), table_of(3)),
        (table_of(2), table_of(1, langevin=0.1 * ONES)),
        (noisy, plain),
        (ended, noisy),
        (table_of(1, after=ONES), based),
        (ended, table_of(2, after=ONES)),
        (table_of(1, langevin=0.1 * ONES), ended),
    )
    x, noises = normals(NUM, 2), normals(2 * STEPS, NUM, 2, seed=4)

    @jax.jit
    def ends(pairs, x):
        joined = [solver_tables.join(*pair) for pair in pairs]
        for table, (first, second) in zip(joined, pairs):
            assert table.num_values == max(first.num_values, second.num_values)
            assert table.step == first.step + second.step
        draw = lambda row: jnp.asarray(noises)[row]
        return [solver_tables.run(table, wiggly, x, draw)[0] for table in joined]

    for (first, second), end in zip(pairs, ends(pairs, x), strict=True):
        state = []
        by_hand(first, x, noises[:STEPS], state=state)
        expected = by_hand(second, None, noises[STEPS:], state=state)[-1]
        np.testing.assert_allclose(end, expected, rtol=1e-10)


def test_the_step_to_zero_noise_is_the_posterior_mean(x64):
    process = processes.flow()
    x = normals(NUM, 2)

    @jax.jit
    def denoised(x):
        row = solver_tables.denoise_row(process, 0.2, 7)
        assert row.step == (7,)
        return solver_tables.run(row, wiggly, x)[0], row.reached

    end, reached = denoised(x)
    np.testing.assert_array_equal(reached, [0.0])
    expected = (x + 0.2**2 * wiggly(x, np.full(NUM, 0.2), np)) / 0.8
    np.testing.assert_allclose(end, expected, rtol=1e-10)


def test_stages_become_rows():
    columns = [np.array([[1, 2], [5, 6]]), np.array([[3, 4], [7, 8]])]
    rows = solver_tables.interleave([jnp.asarray(column) for column in columns])
    np.testing.assert_array_equal(rows, [[1, 2], [3, 4], [5, 6], [7, 8]])
