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


NUM = 20000


@pytest.fixture(scope="module")
def drawn():
    """{solver: (mean and variance by the recursion, samples [N, 2])}, all from one program."""
    score, grid = oracles.gaussian(VP, MEAN, VARIANCE), samplers.log_snr_grid(6)

    def one(solver, rng):
        draws, _ = samplers.sample(score, VP, rng, (NUM, 2), solver=solver, grid=grid)
        return moments.sampled(solver, VP, grid, MEAN, VARIANCE), draws

    with jax.enable_x64(True):
        every = jax.jit(lambda rng: {name: one(solver, rng) for name, solver in SOLVERS.items()})
        return jax.tree.map(np.asarray, every(jax.random.key(0)))


@pytest.mark.parametrize("name", SOLVERS)
def test_samplers_have_these_moments(drawn, name):
    """Bias and spread of a coarse sampler, within 4.5 standard errors of 20 000 draws.

    Two solvers' worth of numbers each, so a false alarm has a chance below 1e-4; seeds are fixed.
    """
    (mean, variance), draws = drawn[name]
    deviation = np.abs(draws.mean(0) - mean) / np.sqrt(variance / NUM)
    assert np.all(deviation < 4.5), deviation
    deviation = np.abs(draws.var(0) / variance - 1) / np.sqrt(2 / NUM)
    assert np.all(deviation < 4.5), deviation
    bias = np.abs(variance / VARIANCE - 1)
    assert bias.max() > 3 * np.sqrt(2 / NUM)  # the sampler's bias is visible at this size


def test_deterministic_moments_are_those_of_the_map(x64):
    """An affine map x -> a x + b: a and b read off two states, then mean and variance follow."""
    grid = samplers.karras_grid(7, to_zero=True)
    score = oracles.gaussian(VP, MEAN, VARIANCE)
    for solver in (samplers.rk4("time"), samplers.dpm_solver(3), samplers.unipc(2)):

        @jax.jit
        def both(x, solver=solver):
            end = samplers.integrate(score, VP, x, solver=solver, grid=grid)
            return end, moments.sampled(solver, VP, grid, MEAN, VARIANCE)

        ends, (mean, variance) = both(np.array([[0.0, 0.0], [1.0, 1.0]]))
        shift, gain = ends[0], ends[1] - ends[0]
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
    solver, grid = samplers.euler_maruyama(), samplers.uniform_grid(10)
    result = jax.jit(lambda: moments.sampled(solver, VP, grid, MEAN, VARIANCE))()
    np.testing.assert_allclose(result[0], mean, rtol=1e-10)
    np.testing.assert_allclose(result[1], variance, rtol=1e-10)


def test_langevin_settles_at_its_biased_variance(x64):
    """v -> v*/(1 - h/(2 v*)) for steps of size h, at a fixed noise level."""
    process, level, snr = processes.edm(), 0.5, 0.4
    h = 2 * (snr * level) ** 2
    marginal = VARIANCE + level**2
    solver, grid = samplers.langevin(snr, 4000, measured=False), samplers.times_grid([1.0, level])
    mean, variance = jax.jit(lambda: moments.sampled(solver, process, grid, MEAN, VARIANCE))()
    np.testing.assert_allclose(variance, marginal / (1 - h / (2 * marginal)), rtol=1e-10)
    np.testing.assert_allclose(mean, MEAN, rtol=1e-10)


def test_weak_order_of_euler_maruyama_is_one(x64):
    """Mean and variance at the end have errors in proportion to the step."""
    end = 0.1
    sizes = [128 * 2**k for k in range(6)]

    def exact(t):
        return VP.alpha(t) * MEAN, VP.alpha(t) ** 2 * VARIANCE + VP.sigma(t) ** 2

    @jax.jit
    def errors():
        start, truth = exact(VP.t_max), jnp.stack(exact(end))
        solver = samplers.euler_maruyama()
        grids = [samplers.uniform_grid(size, t_end=end) for size in sizes]
        found = [moments.sampled(solver, VP, g, MEAN, VARIANCE, start=start) for g in grids]
        return jnp.stack([jnp.stack(pair) - truth for pair in found])

    gaps = np.abs(errors())  # [sizes, 2, D]
    np.testing.assert_allclose(np.log2(gaps[:-1] / gaps[1:]), 1.0, atol=0.15)


def test_perturbed_score(x64):
    """Half the score on data at rest: Euler in sigma becomes x <- x + (s' - s) s x / (2 v)."""
    process, grid = processes.edm(0.1, 2.0), samplers.karras_grid(5)
    halve = lambda t, slope, offset: (0.5 * slope, 0.5 * offset)
    zero, one = np.zeros(1), np.ones(1)

    @jax.jit
    def both():
        found = moments.sampled(samplers.euler(), process, grid, zero, one, perturb=halve)
        return found[1], grid.times(process)

    variance, levels = map(np.asarray, both())
    gains = 1 + 0.5 * (levels[1:] - levels[:-1]) * levels[:-1] / (1 + levels[:-1] ** 2)
    np.testing.assert_allclose(variance, 4.0 * np.prod(gains) ** 2, rtol=1e-10)


def test_joint_moments_are_those_of_the_eigenbasis(x64):
    """A rotated covariance: the directions mix, the eigenbasis does not."""
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    score = oracles.gaussian(VP, turn @ MEAN, turn * VARIANCE @ turn.T)
    grid = samplers.log_snr_grid(6, to_zero=True)
    for solver in (samplers.ancestral(), PC):

        @jax.jit
        def both(solver=solver):
            apart = moments.sampled(solver, VP, grid, MEAN, VARIANCE)
            return apart, moments.sampled_jointly(solver, VP, grid, score, 2)

        (mean, variance), joint = jax.tree.map(np.asarray, both())
        np.testing.assert_allclose(joint[0], turn @ mean, rtol=1e-10)
        np.testing.assert_allclose(joint[1], turn * variance @ turn.T, rtol=1e-10)


def test_joint_moments_are_projected_once_a_grid_step(x64):
    """Without a score nothing moves the mean but the hook: six steps, not their eighteen rows."""
    mean, _ = jax.jit(lambda: moments.sampled_jointly(
        PC, processes.ve(0.1, 2.0), samplers.log_snr_grid(6), lambda x, t: jnp.zeros_like(x), 2,
        project=lambda mean, covariance, t: (mean + 1, covariance),
    ))()  # fmt: skip
    np.testing.assert_allclose(mean, 6.0, rtol=1e-12)


def test_joint_moments_under_replacement_are_those_of_samples(x64):
    """Replacement at every grid step and not within one: 4.5 standard errors of 20 000 draws."""
    num, grid, noise_std = 20000, samplers.log_snr_grid(6), 0.3
    covariance = np.array([[1.0, 0.7, 0.0], [0.7, 0.8, 0.2], [0.0, 0.2, 0.5]])
    score = oracles.gaussian(VP, np.zeros(3), covariance)
    rows = np.array([[1.0, 1.0, 0.0]])
    measurement = inverse_problems.linear(rows, np.array([1.2]), (3,), noise_std)
    project = inverse_problems.replaced_moments(VP, measurement, (3,))

    @jax.jit
    def both(rng):
        draws, _ = samplers.sample(
            score, VP, rng, (num, 3), solver=PC, grid=grid,
            project=inverse_problems.replacement(VP, measurement),
        )  # fmt: skip
        return moments.sampled_jointly(PC, VP, grid, score, 3, project=project), draws

    (mean, spread), draws = jax.tree.map(np.asarray, both(jax.random.key(0)))
    variance = np.diag(spread)
    assert np.all(np.abs(draws.mean(0) - mean) < 4.5 * np.sqrt(variance / num))
    # Var of a sample covariance of Gaussians: (C_ii C_jj + C_ij^2)/N
    error = np.sqrt((np.outer(variance, variance) + spread**2) / num)
    assert np.all(np.abs(np.cov(draws.T) - spread) < 4.5 * error)


def test_distances_of_gaussians(x64):
    mean, variance = np.array([0.0, 1.0]), np.array([1.0, 4.0])
    distances = jax.jit(lambda *laws: (moments.kl_divergence(*laws), moments.wasserstein(*laws)))
    np.testing.assert_allclose(distances(mean, variance, mean, variance), 0, atol=1e-15)
    # one direction: KL(N(1, 4) || N(0, 1)) = (4 + 1 - 1 - ln 4)/2, W2^2 = 1 + (2 - 1)^2
    kl, wasserstein = distances(mean, variance, np.zeros(2), np.ones(2))
    np.testing.assert_allclose(kl, 2 - np.log(2), rtol=1e-12)
    np.testing.assert_allclose(wasserstein, np.sqrt(2), rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="measured=False"):
        grid, law = samplers.uniform_grid(2), (np.zeros(1), np.ones(1))
        jax.eval_shape(lambda: moments.sampled(samplers.langevin(0.1), VP, grid, *law))
    for solver in (samplers.heun(), samplers.dpm_solver_pp(2), samplers.langevin(0.1)):
        jointly = lambda s=solver: moments.sampled_jointly(s, VP, grid, lambda x, t: x, 1)
        with pytest.raises(ValueError, match="one evaluation a step"):
            jax.eval_shape(jointly)
    with pytest.raises(ValueError, match="dim=0"):
        moments.sampled_jointly(samplers.ancestral(), VP, samplers.uniform_grid(2), None, 0)
    with pytest.raises(AssertionError, match="shape"):  # would broadcast over the directions
        moments.kl_divergence(np.zeros(3), np.ones(3), np.zeros(1), np.ones(3))
