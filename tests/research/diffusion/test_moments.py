"""The moment recursion against closed forms, sampling and the orders of stochastic solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import (
    inverse_problems,
    moments,
    oracles,
    processes,
    samplers,
    solver_tables,
)

VP = processes.vp()
MEAN, VARIANCE = np.array([0.3, -1.0]), np.array([0.25, 2.0])
PC = samplers.predictor_corrector(
    samplers.reverse_diffusion(), samplers.langevin(0.3, 2, measured=False)
)
SOLVERS = {
    "heun": samplers.heun(),
    "3m": samplers.dpm_solver_pp(3),
    "unipc_3": samplers.unipc(3),
    "churn": samplers.heun(churn=5.0, churn_noise=1.01),
    "euler_maruyama": samplers.euler_maruyama(),
    "reverse_diffusion": samplers.reverse_diffusion(),
    "ancestral": samplers.ancestral(),
    "ancestral_upper": samplers.ancestral("upper"),
    "ddim": samplers.ddim(0.5),
    "sde_3m": samplers.dpm_solver_pp(3, eta=1.0),
    "langevin": samplers.langevin(0.2, 3, measured=False),
    "pc": PC,
}


@pytest.mark.parametrize("name", SOLVERS)
def test_samplers_have_these_moments(x64, name):
    """Bias and spread of a coarse sampler, within 4.5 standard errors of 20 000 draws.

    Two solvers' worth of numbers each, so a false alarm has a chance below 1e-4; seeds are fixed.
    """
    num, grid = 20000, samplers.log_snr_grid(6)
    score = oracles.gaussian(VP, MEAN, VARIANCE)
    expected = moments.sampled(SOLVERS[name], VP, grid, MEAN, VARIANCE)
    draws, _ = samplers.sample(
        score, VP, jax.random.key(0), (num, 2), solver=SOLVERS[name], grid=grid
    )
    mean, variance = (np.asarray(part) for part in expected)
    deviation = np.abs(draws.mean(0) - mean) / np.sqrt(variance / num)
    assert np.all(deviation < 4.5), deviation
    deviation = np.abs(draws.var(0) / variance - 1) / np.sqrt(2 / num)
    assert np.all(deviation < 4.5), deviation
    bias = np.abs(variance / VARIANCE - 1)
    assert bias.max() > 3 * np.sqrt(2 / num)  # the sampler's bias is visible at this size


def test_deterministic_moments_are_those_of_the_map(x64):
    """An affine map x -> a x + b: a and b read off two states, then mean and variance follow."""
    grid = samplers.karras_grid(7, to_zero=True)
    for solver in (samplers.rk4("time"), samplers.dpm_solver(3), samplers.unipc(2)):
        score = oracles.gaussian(VP, MEAN, VARIANCE)
        ends = samplers.integrate(
            score, VP, jnp.array([[0.0, 0.0], [1.0, 1.0]]), solver=solver, grid=grid
        )
        shift, gain = ends[0], ends[1] - ends[0]
        mean, variance = moments.sampled(solver, VP, grid, MEAN, VARIANCE)
        np.testing.assert_allclose(mean, shift, rtol=1e-10)  # the prior's mean is zero
        np.testing.assert_allclose(variance, gain**2, rtol=1e-10)


def test_euler_maruyama_recursion_written_by_hand(x64):
    """v <- a^2 v + b with a = 1 - dt f - dt g^2 / v_t and b = g^2 dt."""
    times = np.linspace(1.0, 1e-5, 11)
    mean, variance = 0.0, 1.0
    for t, t_next in zip(times[:-1], times[1:]):
        dt, beta = t - t_next, 0.1 + 19.9 * t
        alpha = np.exp(-0.5 * (0.1 * t + 0.5 * 19.9 * t**2))
        marginal = alpha**2 * VARIANCE + 1 - alpha**2
        a = 1 + 0.5 * dt * beta - dt * beta / marginal
        mean = a * mean + dt * beta * alpha * MEAN / marginal
        variance = a**2 * variance + beta * dt
    result = moments.sampled(
        samplers.euler_maruyama(), VP, samplers.uniform_grid(10), MEAN, VARIANCE
    )
    np.testing.assert_allclose(result[0], mean, rtol=1e-10)
    np.testing.assert_allclose(result[1], variance, rtol=1e-10)


def test_langevin_settles_at_its_biased_variance(x64):
    """v -> v*/(1 - h/(2 v*)) for steps of size h, at a fixed noise level."""
    process, level, snr = processes.edm(), 0.5, 0.4
    h = 2 * (snr * level) ** 2
    marginal = VARIANCE + level**2
    mean, variance = moments.sampled(
        samplers.langevin(snr, 4000, measured=False),
        process,
        samplers.times_grid([1.0, level]),
        MEAN,
        VARIANCE,
    )
    np.testing.assert_allclose(variance, marginal / (1 - h / (2 * marginal)), rtol=1e-10)
    np.testing.assert_allclose(mean, MEAN, rtol=1e-10)


def test_weak_order_of_euler_maruyama_is_one(x64):
    """Mean and variance at the end have errors in proportion to the step."""
    start = VP.t_max
    exact = float(VP.alpha(start)) * MEAN, VP.alpha(start) ** 2 * VARIANCE + VP.sigma(start) ** 2
    end = 0.1
    sizes = [128 * 2**k for k in range(6)]

    def errors(size):
        grid = samplers.uniform_grid(size, t_end=end)
        mean, variance = moments.sampled(
            samplers.euler_maruyama(), VP, grid, MEAN, VARIANCE, start=exact
        )
        true_variance = VP.alpha(end) ** 2 * VARIANCE + VP.sigma(end) ** 2
        return jnp.stack([mean - VP.alpha(end) * MEAN, variance - true_variance])

    gaps = np.abs([jax.jit(errors, static_argnums=0)(size) for size in sizes])  # [sizes, 2, D]
    np.testing.assert_allclose(np.log2(gaps[:-1] / gaps[1:]), 1.0, atol=0.15)


def test_strong_order_of_euler_maruyama_is_one(x64):
    """Pathwise distance of neighbouring step sizes on the same Brownian path: additive noise."""
    num, finest = 256, 1024
    score = oracles.gaussian(VP, MEAN, VARIANCE)
    brownian = jax.random.normal(jax.random.key(0), (finest, num, 2))
    x = jax.random.normal(jax.random.key(1), (num, 2))

    def end(size):
        noise = brownian.reshape(size, finest // size, num, 2).sum(1) / np.sqrt(finest // size)
        grid = samplers.uniform_grid(size, t_end=0.1)
        table = samplers.solver_table(samplers.euler_maruyama(), VP, grid)
        return solver_tables.run(table, score, x, lambda row: noise[row])[0]

    ends = [jax.jit(end, static_argnums=0)(finest // 2**k) for k in range(6)]
    gaps = np.array([np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(ends[1:], ends[:-1])])
    np.testing.assert_allclose(np.log2(gaps[1:] / gaps[:-1]), 1.0, atol=0.15)


def test_perturbed_score(x64):
    """Half the score on data at rest: Euler in sigma becomes x <- x + (s' - s) s x / (2 v)."""
    process, grid = processes.edm(0.1, 2.0), samplers.karras_grid(5)
    halve = lambda t, slope, offset: (0.5 * slope, 0.5 * offset)
    zero, one = np.zeros(1), np.ones(1)
    _, variance = moments.sampled(samplers.euler(), process, grid, zero, one, perturb=halve)
    levels = np.asarray(grid.times(process))
    gains = 1 + 0.5 * (levels[1:] - levels[:-1]) * levels[:-1] / (1 + levels[:-1] ** 2)
    np.testing.assert_allclose(variance, 4.0 * np.prod(gains) ** 2, rtol=1e-10)


def test_joint_moments_are_those_of_the_eigenbasis(x64):
    """A rotated covariance: the directions mix, the eigenbasis does not."""
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    score = oracles.gaussian(VP, turn @ MEAN, turn * VARIANCE @ turn.T)
    grid = samplers.log_snr_grid(6, to_zero=True)
    for solver in (samplers.ancestral(), PC):
        mean, variance = moments.sampled(solver, VP, grid, MEAN, VARIANCE)
        joint = jax.jit(lambda s=solver: moments.sampled_jointly(s, VP, grid, score, 2))()
        np.testing.assert_allclose(joint[0], turn @ mean, rtol=1e-10)
        np.testing.assert_allclose(joint[1], turn * np.asarray(variance) @ turn.T, rtol=1e-10)


def test_joint_moments_are_projected_once_a_grid_step(x64):
    """Without a score nothing moves the mean but the hook: six steps, not their eighteen rows."""
    mean, _ = moments.sampled_jointly(
        PC, processes.ve(0.1, 2.0), samplers.log_snr_grid(6), lambda x, t: jnp.zeros_like(x), 2,
        project=lambda mean, covariance, t: (mean + 1, covariance),
    )  # fmt: skip
    np.testing.assert_allclose(mean, 6.0, rtol=1e-12)


def test_joint_moments_under_replacement_are_those_of_samples(x64):
    """Replacement at every grid step and not within one: 4.5 standard errors of 20 000 draws."""
    num, grid, noise_std = 20000, samplers.log_snr_grid(6), 0.3
    covariance = np.array([[1.0, 0.7, 0.0], [0.7, 0.8, 0.2], [0.0, 0.2, 0.5]])
    score = oracles.gaussian(VP, np.zeros(3), covariance)
    rows = np.array([[1.0, 1.0, 0.0]])
    measurement = inverse_problems.linear(rows, np.array([1.2]), (3,), noise_std)
    mean, spread = moments.sampled_jointly(
        PC, VP, grid, score, 3, project=inverse_problems.replaced_moments(VP, measurement, (3,))
    )
    draws, _ = samplers.sample(
        score, VP, jax.random.key(0), (num, 3), solver=PC, grid=grid,
        project=inverse_problems.replacement(VP, measurement),
    )  # fmt: skip
    variance = np.diag(spread)
    assert np.all(np.abs(draws.mean(0) - mean) < 4.5 * np.sqrt(variance / num))
    # Var of a sample covariance of Gaussians: (C_ii C_jj + C_ij^2)/N
    error = np.sqrt((np.outer(variance, variance) + spread**2) / num)
    assert np.all(np.abs(np.cov(draws.T) - spread) < 4.5 * error)


def test_distances_of_gaussians(x64):
    mean, variance = jnp.array([0.0, 1.0]), jnp.array([1.0, 4.0])
    zero = moments.kl_divergence(mean, variance, mean, variance)
    np.testing.assert_allclose(zero, 0, atol=1e-15)
    # one direction: KL(N(1, 4) || N(0, 1)) = (4 + 1 - 1 - ln 4)/2, W2^2 = 1 + (2 - 1)^2
    other = jnp.zeros(2), jnp.ones(2)
    np.testing.assert_allclose(
        moments.kl_divergence(mean, variance, *other), 2 - np.log(2), rtol=1e-12
    )
    np.testing.assert_allclose(moments.wasserstein(mean, variance, *other), np.sqrt(2), rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="measured=False"):
        moments.sampled(
            samplers.langevin(0.1), VP, samplers.uniform_grid(2), jnp.zeros(1), jnp.ones(1)
        )
    for solver in (samplers.heun(), samplers.dpm_solver_pp(2), samplers.langevin(0.1)):
        with pytest.raises(ValueError, match="one evaluation a step"):
            moments.sampled_jointly(solver, VP, samplers.uniform_grid(2), lambda x, t: x, 1)
