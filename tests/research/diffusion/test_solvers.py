"""Deterministic solvers: printed errors, measured orders, identities between methods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from research.diffusion import discrete, oracles, processes, samplers, solver_tables

# RMSE to the exact flow of N(0.3, 0.5^2) on Karras' grid from 80 to 0.002 at 10 ... 160 steps
PRINTED = {
    "euler": (samplers.euler(), False, [1.2361e-1, 6.6220e-2, 3.4289e-2, 1.7450e-2, 8.8023e-3]),
    "heun": (samplers.heun(), False, [8.7310e-2, 1.9598e-2, 4.6429e-3, 1.1299e-3, 2.7874e-4]),
    "2m": (
        samplers.dpm_solver_pp(),
        False,
        [7.3028e-2, 2.2055e-2, 4.9342e-3, 1.1633e-3, 2.8269e-4],
    ),
    "euler_0": (samplers.euler(), True, [1.3478e-1, 6.9454e-2, 3.5140e-2, 1.7670e-2, 8.8610e-3]),
    "heun_0": (samplers.heun(), True, [1.0981e-1, 2.1834e-2, 4.8867e-3, 1.1551e-3, 2.7827e-4]),
    "2m_0": (
        samplers.dpm_solver_pp(),
        True,
        [7.9398e-2, 2.4629e-2, 5.2023e-3, 1.1898e-3, 2.8230e-4],
    ),
}
LAST_ORDERS = {"euler": 0.987, "heun": 2.019, "2m": 2.041}


def run_sizes(solver, process, score, x, grids):
    """End states [len(grids), B, D] of one solver on several grids, all in one compilation."""

    def padded(table, num_rows):
        rest = solver_tables.Table(
            time=jnp.full(num_rows - table.num_rows, table.time[-1]),
            value=jnp.zeros((num_rows - table.num_rows, 2)),
            point=jnp.zeros((num_rows - table.num_rows, 2)),
            base=jnp.zeros((num_rows - table.num_rows, 2)).at[:, 0].set(1),
            reached=jnp.full(num_rows - table.num_rows, table.time[-1]),
            step=(-1,) * (num_rows - table.num_rows),
        )
        # the rest repeats the base, which must be the end point first
        last = table.replace(
            base=(table.point if table.base is None else table.base).at[-1].set(table.point[-1])
        )
        rest = rest.replace(point=rest.base)
        joined = solver_tables.join(last, rest)
        return joined.replace(step=(-1,) * num_rows)

    @jax.jit
    def ends(x):
        made = [samplers.solver_table(solver, process, grid) for grid in grids]
        num_rows = max(table.num_rows for table in made)
        stacked = jax.tree.map(lambda *t: jnp.stack(t), *[padded(t, num_rows) for t in made])
        return jax.vmap(lambda table: solver_tables.run(table, score, x)[0])(stacked)

    return ends(x)


@pytest.mark.parametrize("name", PRINTED)
def test_errors_are_the_printed_ones(x64, name):
    """Linear maps: the RMSE over the start law is the error of the point one deviation off."""
    solver, to_zero, printed = PRINTED[name]
    process = processes.edm(0.002, 80.0)
    score = oracles.gaussian(process, [0.3], 0.25)
    start = jnp.array([[0.3 + np.sqrt(0.25 + 6400)]])
    grids = [samplers.karras_grid(n, to_zero=to_zero) for n in (10, 20, 40, 80, 160)]
    ends = run_sizes(solver, process, score, start, grids)[:, 0, 0]
    exact = 0.3 + np.sqrt(0.25 + (0.0 if to_zero else 0.002**2))
    errors = np.abs(ends - exact)
    np.testing.assert_allclose(errors, printed, rtol=1e-4)
    if name in LAST_ORDERS:
        np.testing.assert_allclose(np.log2(errors[3] / errors[4]), LAST_ORDERS[name], atol=1e-3)


# solver, its order, the first number of steps, the number of doublings measured
ORDERS = {
    "euler": (samplers.euler(), 1, 64, 5),
    "euler_time": (samplers.euler("time"), 1, 128, 5),
    "euler_log_snr": (samplers.euler("log_snr"), 1, 128, 5),
    "heun": (samplers.heun(), 2, 512, 4),
    "heun_time": (samplers.heun("time"), 2, 128, 5),
    "heun_log_snr": (samplers.heun("log_snr"), 2, 128, 5),
    "midpoint": (samplers.midpoint("log_snr"), 2, 128, 5),
    "rk4": (samplers.rk4(), 4, 64, 4),
    "rk4_time": (samplers.rk4("time"), 4, 64, 4),
    "rk4_log_snr": (samplers.rk4("log_snr"), 4, 128, 4),
    "dpm_2": (samplers.dpm_solver(2), 2, 128, 5),
    "dpm_3": (samplers.dpm_solver(3), 3, 64, 5),
    "dpm_pp_2s": (samplers.dpm_solver(2, "data"), 2, 128, 5),
    "dpm_pp_3s": (samplers.dpm_solver(3, "data"), 3, 128, 4),
    "dpm_pp_2m": (samplers.dpm_solver_pp(2), 2, 512, 4),
    "dpm_pp_3m": (samplers.dpm_solver_pp(3), 3, 128, 4),
    "unipc_1": (samplers.unipc(1), 2, 256, 5),
    "unipc_2": (samplers.unipc(2), 3, 128, 4),
    "unipc_3": (samplers.unipc(3), 4, 128, 4),
    "reverse_flow": (samplers.reverse_diffusion(flow=True), 1, 128, 5),
}
WEIGHTS, MEANS, VARIANCES = [0.3, 0.7], [-0.5, 0.6], [0.25, 0.1]


def mixture_flow(process, x):
    """The flow map of a mixture on the line: it keeps quantiles, F_min(x_min) = F_max(x_max)."""

    def cdf(x, t):
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        stds = np.sqrt(alpha**2 * np.array(VARIANCES) + sigma**2)
        return np.dot(WEIGHTS, scipy.stats.norm.cdf((x - alpha * np.array(MEANS)) / stds))

    def solve(level):
        return scipy.optimize.brentq(lambda y: cdf(y, process.t_min) - level, -9, 9, xtol=1e-14)

    return np.array([solve(cdf(point, process.t_max)) for point in x])


@functools.cache
def problem(process):
    """Score, start [8, 2] and exact end: four states of a Gaussian, four of two mixtures."""
    gaussian = oracles.gaussian(process, [0.3, -0.2], [[0.25, 0.1], [0.1, 0.5]])
    mixture = oracles.mixture(process, WEIGHTS, np.array(MEANS)[:, None], VARIANCES)

    def score(x, t):
        line = x[4:].reshape(8, 1)
        second = mixture(line, jnp.repeat(t[4:], 2)).reshape(4, 2)
        return jnp.concatenate([gaussian(x[:4], t[:4]), second])

    x = process.prior_std * np.random.default_rng(0).normal(size=(8, 2))
    first = gaussian.transport(jnp.asarray(x[:4]), process.t_max, process.t_min)
    second = mixture_flow(process, x[4:].ravel()).reshape(4, 2)
    return score, x, np.concatenate([first, second])


@pytest.mark.parametrize("name", ORDERS)
def test_measured_order(x64, name):
    """The slope is that of theory at every doubling, on a Gaussian and on a mixture.

    rho = 4, for the leading error term of a method can vanish on a Gaussian by accident: that of
    DPM-Solver-3 does near rho = 7, that of 3M on steps of equal log-SNR.
    """
    solver, order, first, num_doublings = ORDERS[name]
    process = processes.vp()
    score, x, exact = problem(process)
    grids = [samplers.karras_grid(first * 2**k, rho=4.0) for k in range(num_doublings + 1)]
    ends = run_sizes(solver, process, score, jnp.asarray(x), grids)
    errors = np.sqrt(np.mean((np.asarray(ends) - exact) ** 2, -1))  # [sizes, 8]
    for rows in (slice(0, 4), slice(4, 8)):
        rmse = np.sqrt(np.mean(errors[:, rows] ** 2, 1))
        slopes = np.log2(rmse[:-1] / rmse[1:])
        np.testing.assert_allclose(slopes, order, atol=0.15)
        if order > 1:
            assert rmse[-1] < 1e-6


def wiggly(x, t):
    """Any smooth function: the identities hold for every network."""
    mixed = x @ jnp.array([[0.5, -0.3], [0.2, 0.1]])
    return jnp.tanh(mixed + jnp.sin(3 * t)[:, None]) - 0.5 * x


@pytest.mark.parametrize("make", [processes.vp, processes.sub_vp, processes.flow, processes.edm])
def test_ddim_is_euler_in_rescaled_variables(x64, make):
    """DDIM, Euler in (x/alpha, sigma/alpha), DPM-Solver-1 and DDIM written by hand are one map."""
    process = make()
    x = jax.random.normal(jax.random.key(0), (5, 2))
    # away from the ends, where the score of a network that is none would be enormous
    span = process.t_max - process.t_min
    times = process.t_min + span * np.array([0.9, 0.7, 0.55, 0.3, 0.2, 0.05])
    grid = samplers.times_grid(times)
    solvers = [
        samplers.ddim(),
        samplers.euler("sigma"),
        samplers.dpm_solver(1),
        samplers.dpm_solver(1, "data"),
        samplers.ddim(jnp.asarray(0.0)),
    ]
    rng = jax.random.key(0)
    ends = [
        samplers.integrate(wiggly, process, x, solver=solver, grid=grid, rng=rng)
        for solver in solvers
    ]
    by_hand = x
    for t, t_next in zip(times[:-1], times[1:]):
        noise = -process.sigma(t) * wiggly(by_hand, jnp.full(5, t))
        data = (by_hand - process.sigma(t) * noise) / process.alpha(t)
        by_hand = process.alpha(t_next) * data + process.sigma(t_next) * noise
    for end in ends:
        np.testing.assert_allclose(end, by_hand, rtol=1e-10)


def test_ancestral_is_ddpm(x64):
    """One step of DDPM, posterior and upper variance, and the score form of the latter."""
    table = discrete.linear_betas(50, 0.1, 10.0)
    process = discrete.from_betas(table)
    z = jax.random.normal(jax.random.key(1), (5, 2))
    x = jax.random.normal(jax.random.key(0), (5, 2))
    for i in (40, 20, 2):
        beta, alpha_bar = table.betas[i - 1], table.alpha_bar[i - 1]
        times = jnp.array([i / 50, (i - 1) / 50])
        slope = wiggly(x, jnp.full(5, i / 50))
        noise = -np.sqrt(1 - alpha_bar) * slope
        mean = (x - beta / np.sqrt(1 - alpha_bar) * noise) / np.sqrt(1 - beta)
        score_form = (x + beta * slope) / np.sqrt(1 - beta)
        np.testing.assert_allclose(mean, score_form, rtol=1e-12)
        reverse = (2 - np.sqrt(1 - beta)) * x + beta * slope + np.sqrt(beta) * z
        for solver, expected in (
            (samplers.ancestral("upper"), mean + np.sqrt(beta) * z),
            (samplers.ancestral(), mean + np.sqrt(table.posterior_variance[i - 1]) * z),
            (samplers.ddim(1.0), mean + np.sqrt(table.posterior_variance[i - 1]) * z),
            (samplers.reverse_diffusion(), reverse),
        ):
            step = solver.table(process, times)
            end, _ = solver_tables.run(step, wiggly, x, lambda row: z)
            np.testing.assert_allclose(end, expected, rtol=1e-12)


def test_langevin_step_is_the_published_one(x64):
    """x + h s + sqrt(2 h) z with h = 2 alpha^2 (r |z|/|s|)^2 of each sample alone."""
    process = processes.vp()
    x, z = jax.random.normal(jax.random.key(0), (2, 5, 2))
    t = 0.3
    table = samplers.langevin(0.2).table(process, jnp.array([0.5, t]))
    end, _ = solver_tables.run(table, wiggly, x, lambda row: z)
    slope = wiggly(x, jnp.full(5, t))
    ratio = jnp.linalg.norm(z, axis=1) / jnp.linalg.norm(slope, axis=1)
    h = 2 * process.alpha(t) ** 2 * (0.2 * ratio[:, None]) ** 2
    np.testing.assert_allclose(end, x + h * slope + jnp.sqrt(2 * h) * z, rtol=1e-12)
    still, _ = solver_tables.run(table, lambda x, t: jnp.zeros_like(x), x, lambda row: z)
    np.testing.assert_array_equal(still, x)  # no score, no step: not nan


def test_churned_heun_is_edm_algorithm_2(x64):
    process = processes.edm()
    x, z = jax.random.normal(jax.random.key(0), (2, 5, 2))
    levels = np.array([10.0, 4.0, 1.0, 0.2])
    noises = [z, 2 * z, -z]
    churn, low, high, inflation = 0.9, 0.5, 9.0, 1.1
    by_hand = 10 * x
    for i in range(3):
        level = levels[i]
        gamma = min(churn / 3, np.sqrt(2) - 1) if low <= level <= high else 0.0
        raised = level * (1 + gamma)
        by_hand = by_hand + np.sqrt(raised**2 - level**2) * inflation * noises[i]
        slope = -raised * wiggly(by_hand, jnp.full(5, raised))
        ahead = by_hand + (levels[i + 1] - raised) * slope
        second = -levels[i + 1] * wiggly(ahead, jnp.full(5, levels[i + 1]))
        by_hand = by_hand + (levels[i + 1] - raised) * 0.5 * (slope + second)
    solver = samplers.heun(churn=churn, churn_min=low, churn_max=high, churn_noise=inflation)
    table = solver.table(process, jnp.asarray(levels))
    draw = lambda row: jnp.stack(noises)[row // 2]
    end, _ = solver_tables.run(table, wiggly, 10 * x, draw)
    np.testing.assert_allclose(end, by_hand, rtol=1e-10)


def test_sde_multistep_is_the_published_form(x64):
    """SDE-DPM-Solver++(2M): data values, e^{-2h}, and the midpoint difference."""
    process = processes.vp()
    x, z = jax.random.normal(jax.random.key(0), (2, 5, 2))
    times = np.array([0.9, 0.6, 0.4])
    alpha, sigma = np.asarray(process.alpha(times)), np.asarray(process.sigma(times))
    lam = np.log(alpha / sigma)
    by_hand, values = x, []
    for i in range(2):
        slope = wiggly(by_hand, jnp.full(5, times[i]))
        values.append((by_hand + sigma[i] ** 2 * slope) / alpha[i])
        h = lam[i + 1] - lam[i]
        rise = alpha[i + 1] * (1 - np.exp(-2 * h))
        change = 0 if i == 0 else (values[1] - values[0]) * h / (lam[1] - lam[0])
        by_hand = (
            sigma[i + 1] / sigma[i] * np.exp(-h) * by_hand
            + rise * (values[i] + 0.5 * change)
            + sigma[i + 1] * np.sqrt(1 - np.exp(-2 * h)) * z
        )
    table = samplers.dpm_solver_pp(2, eta=1.0).table(process, jnp.asarray(times))
    end, _ = solver_tables.run(table, wiggly, x, lambda row: z)
    np.testing.assert_allclose(end, by_hand, rtol=1e-10)
