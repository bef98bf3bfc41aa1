"""Measurements, the exact conditional of Gaussian data, and two approximate methods beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import inverse_problems, oracles, processes, samplers

VP = processes.vp()
RHO = 0.8
CORRELATED = np.array([[1.0, RHO], [RHO, 1.0]])
ROOT = np.random.default_rng(0).standard_normal((4, 4))
COVARIANCE = ROOT @ ROOT.T / 4 + 0.1 * np.eye(4)
MEAN = np.array([0.5, -0.2, 0.1, 0.9])
MATRIX = np.random.default_rng(1).standard_normal((2, 4))


def first_of_two(y, noise_std=0.0):
    return inverse_problems.inpainting(np.array([True, False]), np.array([y, 99.0]), noise_std)


MEASUREMENTS = [
    inverse_problems.inpainting(np.array([True, False, False, True]), np.arange(4.0), 0.1),
    inverse_problems.linear(MATRIX, np.array([0.3, -1.0]), (4,), 0.2),
    inverse_problems.linear(np.vstack([MATRIX, MATRIX[0]]), np.array([0.3, -1, 0.3]), (4,), 0.2),
    inverse_problems.colourisation(np.array([0.4, -0.1]), 2, 0.1),
]


@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_rows_are_orthonormal_and_lift_is_the_transpose(measurement, x64):
    shape = (1, 2, 2) if measurement is MEASUREMENTS[3] else (1, 4)
    num = len(measurement.observed)

    @jax.jit
    def all_of(unit):
        lifted = measurement.lift(unit)
        x = jax.ShapeDtypeStruct(shape, jnp.float64)
        (transposed,) = jax.linear_transpose(measurement.observe, x)(unit[:1])
        return lifted, measurement.observe(lifted), transposed

    lifted, identity, transposed = all_of(np.eye(num))
    np.testing.assert_allclose(identity, np.eye(num), atol=1e-12)
    np.testing.assert_allclose(lifted[:1], transposed, atol=1e-12)


def test_conditional_of_a_correlated_pair(x64):
    score = inverse_problems.exact_conditional(VP, np.zeros(2), CORRELATED, first_of_two(0.7))
    covariance = score.eigenvectors * score.eigenvalues @ score.eigenvectors.T
    np.testing.assert_allclose(score.mean, [0.7, RHO * 0.7], atol=1e-12)
    np.testing.assert_allclose(covariance, [[0, 0], [0, 1 - RHO**2]], atol=1e-12)
    steps = {"solver": samplers.rk4(), "grid": samplers.log_snr_grid(400)}

    @jax.jit
    def all_of(x):
        exact = score.transport(x, VP.t_max, VP.t_min)
        return samplers.integrate(score, VP, x, **steps), exact, VP.sigma(VP.t_min)

    ends, exact, sigma = all_of(np.array([[0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(ends, exact, atol=1e-8)
    np.testing.assert_allclose(ends[:, 0], 0.7, atol=4 * float(sigma))


def test_conditional_under_any_matrix_is_the_textbook_formula(x64):
    observed, noise_std = np.array([0.3, -1.0]), 0.2
    precision = np.linalg.inv(COVARIANCE) + MATRIX.T @ MATRIX / noise_std**2
    covariance = np.linalg.inv(precision)
    pull = np.linalg.solve(COVARIANCE, MEAN) + MATRIX.T @ observed / noise_std**2
    score = inverse_problems.exact_conditional(VP, MEAN, COVARIANCE, MEASUREMENTS[1])
    np.testing.assert_allclose(score.mean, covariance @ pull, rtol=1e-9)
    np.testing.assert_allclose(
        score.eigenvectors * score.eigenvalues @ score.eigenvectors.T, covariance, atol=1e-12
    )


@pytest.mark.parametrize("measurement", [*MEASUREMENTS[:3:2], first_of_two(0.7)])
def test_posterior_mean_guidance_with_the_covariance_is_exact(measurement, x64):
    dim = 2 if len(measurement.observed) == 1 else 4
    mean, covariance = (np.zeros(2), CORRELATED) if dim == 2 else (MEAN, COVARIANCE)
    prior = oracles.gaussian(VP, mean, covariance)
    guided = inverse_problems.posterior_mean_guidance(
        VP, prior, measurement,
        covariance=inverse_problems.gaussian_covariance(VP, covariance, measurement),
    )  # fmt: skip
    exact = inverse_problems.exact_conditional(VP, mean, covariance, measurement)
    x = np.random.default_rng(0).normal(size=(5, dim))
    both = jax.jit(lambda x, t: (guided(x, t), exact(x, t)))(x, np.linspace(0.05, 1.0, 5))
    np.testing.assert_allclose(*both, rtol=1e-8, atol=1e-10)


def test_default_spread_is_exact_for_independent_data_only(x64):
    t = np.array([0.1, 0.5])
    x = np.array([[0.3, -0.4], [1.0, 0.2]])
    measurement = first_of_two(0.7, 0.1)
    for covariance, matches in ((0.25 * np.eye(2), True), (0.25 * CORRELATED, False)):
        prior = oracles.gaussian(VP, np.zeros(2), covariance)
        guided = inverse_problems.posterior_mean_guidance(VP, prior, measurement, data_std=0.5)
        exact = inverse_problems.exact_conditional(VP, np.zeros(2), covariance, measurement)
        both = jax.jit(lambda x, t, pair=(guided, exact): [score(x, t) for score in pair])(x, t)
        gap = np.abs(np.subtract(*map(np.asarray, both))).max()
        assert (gap < 1e-9) if matches else (gap > 0.01)


def test_replacement_draws_the_measured_part_and_leaves_the_rest(x64):
    measurement = MEASUREMENTS[0]
    project = inverse_problems.replacement(VP, measurement)
    x, t = np.arange(4.0)[None] * np.ones((20_000, 1)), np.full(20_000, 0.4)

    @jax.jit
    def all_of(x, t):
        keys = jax.random.split(jax.random.key(0), len(x))
        some = project(x[7:9], t[7:9], keys[7:9])
        return project(x, t, keys), some, VP.alpha(0.4), VP.sigma(0.4)

    out, some, alpha, sigma = jax.tree.map(np.asarray, all_of(x, t))
    np.testing.assert_array_equal(out[:, 1:3], x[:, 1:3])
    drawn = out[:, [0, 3]]
    expected = alpha * np.array([0.0, 3.0])
    spread = np.sqrt(sigma**2 - (alpha * 0.1) ** 2)  # with the measurement's own: sigma
    np.testing.assert_allclose(drawn.mean(0), expected, atol=4 * sigma / len(x) ** 0.5)
    np.testing.assert_allclose(drawn.std(0), spread, rtol=4 / (2 * len(x)) ** 0.5)
    np.testing.assert_allclose(some, out[7:9], rtol=1e-12)


def test_replacement_is_biased_where_the_exact_conditional_is_not():
    """The unmeasured half of a correlated pair: its mean should be rho y."""
    y, num = 1.5, 4000
    measurement = first_of_two(y)
    prior = oracles.gaussian(VP, np.zeros(2), CORRELATED)
    exact = inverse_problems.exact_conditional(VP, np.zeros(2), CORRELATED, measurement)
    options = {"solver": samplers.euler_maruyama(), "grid": samplers.log_snr_grid(60)}

    @jax.jit
    def both(rng):
        draw = lambda score, **more: samplers.sample(score, VP, rng, (num, 2), **options, **more)
        replace = inverse_problems.replacement(VP, measurement)
        return draw(exact)[0].mean(0), draw(prior, project=replace)[0].mean(0)

    error = 4 * (1 - RHO**2) ** 0.5 / num**0.5
    means, replaced = jax.tree.map(np.asarray, both(jax.random.key(0)))
    assert abs(means[0] - y) < 0.02 and abs(means[1] - RHO * y) < error + 0.02
    assert abs(replaced[0] - y) < 0.02 and abs(replaced[1] - RHO * y) > 3 * error + 0.02


def test_channels_and_noise_of_a_grey_image(x64):
    """The mean of four channels with noise: H H^T = 1 by a factor 2 on value and noise."""
    grey = np.array([[0.4, -0.1]])
    measurement = inverse_problems.colourisation(grey, num_channels=4, noise_std=0.3)
    np.testing.assert_allclose(measurement.observed, [0.8, -0.2], rtol=1e-14)
    np.testing.assert_allclose(measurement.noise_std, 0.6, rtol=1e-14)
    x = np.random.default_rng(0).normal(size=(2, 1, 2, 4))
    np.testing.assert_allclose(measurement.observe(x), 2 * x.mean(-1)[:, 0], rtol=1e-12)
    assert measurement.lift(np.ones((2, 2))).shape == x.shape


def test_the_scale_multiplies_the_pull_of_the_measurement(x64):
    prior = oracles.gaussian(VP, np.zeros(2), CORRELATED)
    guide = lambda **options: inverse_problems.posterior_mean_guidance(
        VP, prior, first_of_two(0.7, 0.1), **options
    )
    x, t = np.array([[0.3, -0.4], [1.0, 0.2]]), np.array([0.1, 0.5])
    plain, thrice, without = jax.jit(
        lambda x, t: [score(x, t) for score in (guide(), guide(scale=3.0), prior)]
    )(x, t)
    np.testing.assert_allclose(thrice - without, 3 * (plain - without), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: inverse_problems.inpainting(np.array([0.5, 1.0]), np.ones(2)), "values from 0.5"),
        (lambda: first_of_two(np.nan), "measured values are not finite"),
        (lambda: first_of_two(0.0, np.nan), "noise_std=nan"),
        (lambda: inverse_problems.colourisation(0.5), "grey=0.5"),
        (lambda: inverse_problems.colourisation(np.ones((2, 2)), 0), "num_channels=0"),
        (lambda: inverse_problems.gaussian_covariance(VP, np.ones(2), first_of_two(0.0)), "covari"),
        (
            lambda: inverse_problems.posterior_mean_guidance(
                VP, lambda x, t: x, first_of_two(0.0), scale=np.nan
            ),
            "scale=nan",
        ),
        (lambda: inverse_problems.inpainting(np.zeros(3, bool), np.zeros(3)), "0 true"),
        (lambda: inverse_problems.inpainting(np.ones(3, bool), np.zeros(2)), r"image \(2,\)"),
        (lambda: inverse_problems.linear(MATRIX, np.zeros(3), (4,)), r"matrix \(2, 4\)"),
        (lambda: first_of_two(0.0, -1.0), "noise_std=-1.0"),
        (
            lambda: inverse_problems.posterior_mean_guidance(
                VP, lambda x, t: x, first_of_two(0.0), data_std=None
            ),
            "data_std=None",
        ),
        (
            lambda: inverse_problems.exact_conditional(
                VP, np.zeros(2), -CORRELATED, first_of_two(0.0)
            ),
            "positive definite",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
