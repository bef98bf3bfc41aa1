"""Stochastic samplers: DDPM's step, Langevin's step, and the orders of the reverse SDE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import discrete, oracles, processes, samplers, solver_tables
from tests.research.diffusion import solver_cases
from tests.research.diffusion.solver_cases import wiggly

VP = processes.vp()


def test_order_of_the_deterministic_twin_is_one(x64):
    solver_cases.assert_order(samplers.reverse_diffusion(flow=True), 1, 128, 5)


def test_ancestral_is_ddpm(x64):
    """One step of DDPM, posterior and upper variance, and the score form of the latter."""
    table = discrete.linear_betas(50, 0.1, 10.0)
    process = discrete.from_betas(table)
    x, z = np.random.default_rng(0).normal(size=(2, 5, 2))
    solvers = (
        samplers.ancestral("upper"),
        samplers.ancestral(),
        samplers.ddim(1.0),
        samplers.reverse_diffusion(),
    )
    steps = np.array([40, 20, 2])

    @jax.jit
    @jax.vmap
    def ends(times):
        made = [solver.table(process, times) for solver in solvers]
        draw = lambda row: jnp.asarray(z)
        return [solver_tables.run(step, wiggly, jnp.asarray(x), draw)[0] for step in made]

    found = ends(np.stack([steps / 50, (steps - 1) / 50], 1))
    for case, i in enumerate(steps):
        beta, alpha_bar = table.betas[i - 1], table.alpha_bar[i - 1]
        slope = wiggly(x, np.full(5, i / 50), np)
        noise = -np.sqrt(1 - alpha_bar) * slope
        mean = (x - beta / np.sqrt(1 - alpha_bar) * noise) / np.sqrt(1 - beta)
        score_form = (x + beta * slope) / np.sqrt(1 - beta)
        np.testing.assert_allclose(mean, score_form, rtol=1e-12)
        posterior = mean + np.sqrt(table.posterior_variance[i - 1]) * z
        reverse = (2 - np.sqrt(1 - beta)) * x + beta * slope + np.sqrt(beta) * z
        for end, expected in zip(
            found, (mean + np.sqrt(beta) * z, posterior, posterior, reverse), strict=True
        ):
            np.testing.assert_allclose(end[case], expected, rtol=1e-12)


def test_langevin_step_is_the_published_one(x64):
    """x + h s + sqrt(2 h) z with h = 2 alpha^2 (r |z|/|s|)^2 of each sample alone."""
    x, z = np.random.default_rng(0).normal(size=(2, 5, 2))
    t = 0.3

    @jax.jit
    def solve(x):
        table = samplers.langevin(0.2).table(VP, jnp.array([0.5, t]))
        ends = [
            solver_tables.run(table, score, x, lambda row: jnp.asarray(z))[0]
            for score in (wiggly, lambda x, t: jnp.zeros_like(x))
        ]
        return ends, VP.alpha(t)

    (end, still), alpha = solve(x)
    slope = wiggly(x, np.full(5, t), np)
    ratio = np.linalg.norm(z, axis=1) / np.linalg.norm(slope, axis=1)
    h = 2 * float(alpha) ** 2 * (0.2 * ratio[:, None]) ** 2
    np.testing.assert_allclose(end, x + h * slope + np.sqrt(2 * h) * z, rtol=1e-12)
    np.testing.assert_array_equal(still, x)  # no score, no step: not nan


def test_strong_order_of_euler_maruyama_is_one(x64):
    """Pathwise distance of neighbouring step sizes on the same Brownian path: additive noise."""
    num, finest = 256, 1024
    score = oracles.gaussian(VP, np.array([0.3, -1.0]), np.array([0.25, 2.0]))
    noise = np.random.default_rng(0)
    brownian = noise.normal(size=(finest, num, 2))
    x = noise.normal(size=(num, 2))

    def end(size, x, brownian):
        parts = brownian.reshape(size, finest // size, num, 2).sum(1) / np.sqrt(finest // size)
        grid = samplers.uniform_grid(size, t_end=0.1)
        table = samplers.solver_table(samplers.euler_maruyama(), VP, grid)
        return solver_tables.run(table, score, x, lambda row: parts[row])[0]

    @jax.jit
    def ends(x, brownian):
        return [end(finest // 2**k, x, brownian) for k in range(6)]

    found = np.asarray(ends(x, brownian))
    gaps = np.sqrt(np.mean((found[1:] - found[:-1]) ** 2, (1, 2)))
    np.testing.assert_allclose(np.log2(gaps[1:] / gaps[:-1]), 1.0, atol=0.15)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: samplers.ancestral("low"), "variance='low'"),
        (lambda: samplers.langevin(0.1, 0), "num_steps=0"),
        (lambda: samplers.langevin(0.1, 1.5), "num_steps=1.5"),
        (lambda: samplers.langevin(-0.1), "snr=-0.1"),
        (lambda: samplers.langevin(float("nan")), "snr=nan"),
        (lambda: samplers.ddim(1.5), "eta=1.5"),
        (lambda: samplers.ddim(float("nan")), "eta=nan"),
        (lambda: samplers.predictor_corrector(samplers.heun(), samplers.heun()), "corrector="),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
