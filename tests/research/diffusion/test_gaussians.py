"""Exact scores against autodiff, dense linear algebra and the Fokker-Planck equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from research.diffusion import oracles, processes

COVARIANCE = np.array([[1.0, 0.5, 0.1], [0.5, 0.8, -0.2], [0.1, -0.2, 0.4]])


MEAN = np.array([0.3, -0.1, 0.7])


TIMES = np.array([0.05, 0.2, 0.5, 0.9])


def states(batch=4, dim=3):
    return jax.random.normal(jax.random.key(7), (batch, dim))


def grad_of_log_prob(oracle, x, t):
    one = lambda x, t: oracle.log_prob(x[None], t[None])[0]
    return jax.jit(jax.vmap(jax.grad(one)))(x, jnp.asarray(t))


def three_mixture(process):
    return oracles.mixture(
        process, [0.2, 0.5, 0.3], [MEAN, -MEAN, 2 * MEAN], [COVARIANCE, np.eye(3), 0.1 * COVARIANCE]
    )


def test_gaussian_marginals_are_those_of_scipy(x64):
    process = processes.sub_vp()
    oracle = oracles.gaussian(process, MEAN, COVARIANCE)
    x = states()
    log_prob = oracle.log_prob(x, TIMES)
    for i, t in enumerate(TIMES):
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        law = scipy.stats.multivariate_normal(
            alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * np.eye(3)
        )
        np.testing.assert_allclose(log_prob[i], law.logpdf(x[i]), rtol=1e-12)
    data = scipy.stats.multivariate_normal(MEAN, COVARIANCE)
    np.testing.assert_allclose(oracle.log_prob(x), data.logpdf(x), rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda process: oracles.gaussian(process, MEAN, COVARIANCE),
        lambda process: oracles.gaussian(process, MEAN, 0.3),
        three_mixture,
        lambda process: oracles.mixture(process, [0.4, 0.6], [MEAN, -MEAN], [0.1, 0.2]),
        lambda process: oracles.mixture(process, [0.4, 0.6], [MEAN, -MEAN], 0.3),
    ],
)
def test_score_is_the_gradient_of_log_prob(x64, make):
    oracle, x = make(processes.flow()), states()
    expected = grad_of_log_prob(oracle, x, TIMES)
    np.testing.assert_allclose(oracle(x, TIMES), expected, rtol=1e-10, atol=1e-12)
    one_time = oracle(x, jnp.asarray(0.2))
    np.testing.assert_allclose(one_time, oracle(x, jnp.full(4, 0.2)), rtol=1e-14)


def test_mixture_density_is_the_weighted_sum(x64):
    process = processes.edm()
    oracle, x = three_mixture(process), states()
    parts = zip([0.2, 0.5, 0.3], [MEAN, -MEAN, 2 * MEAN], [COVARIANCE, np.eye(3), 0.1 * COVARIANCE])
    noise = 0.7**2 * np.eye(3)
    density = sum(
        weight * scipy.stats.multivariate_normal(mean, covariance + noise).pdf(x)
        for weight, mean, covariance in parts
    )
    np.testing.assert_allclose(oracle.log_prob(x, 0.7), np.log(density), rtol=1e-12)
    np.testing.assert_allclose(oracle.responsibilities(x, 0.7).sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("make", [processes.vp, processes.flow, lambda: processes.ve(0.05, 3.0)])
def test_fokker_planck_residual_of_a_mixture_is_zero(x64, make):
    """d_t s = grad(g^2 div s / 2 + g^2 |s|^2 / 2 - f x.s - f D) for the process's marginals."""
    process = make()
    oracle = three_mixture(process)
    score = lambda x, t: oracle(x[None], t[None])[0]

    def potential(x, t):
        s, jacobian = score(x, t), jax.jacfwd(score)(x, t)
        f, half = process.drift_rate(t), 0.5 * process.diffusion(t) ** 2
        return half * jnp.trace(jacobian) + half * jnp.sum(s**2) - f * jnp.dot(x, s) - f * 3

    def residual(x, t):
        return jax.jacfwd(score, 1)(x, t) - jax.grad(potential)(x, t)

    t = process.t_min + (process.t_max - process.t_min) * TIMES
    np.testing.assert_allclose(jax.jit(jax.vmap(residual))(states(), t), 0, atol=1e-10)


def test_transport_follows_the_probability_flow(x64):
    process = processes.vp()
    oracle, x, t = oracles.gaussian(process, MEAN, COVARIANCE), states(), jnp.asarray(0.4)
    np.testing.assert_allclose(oracle.transport(x, 0.4, 0.4), x, rtol=1e-12)
    _, velocity = jax.jvp(lambda t: oracle.transport(x, 0.4, t), (t,), (jnp.ones(()),))
    flow = process.drift(x, t) - 0.5 * process.diffusion(t) ** 2 * oracle(x, t)
    np.testing.assert_allclose(velocity, flow, rtol=1e-10)
    # d x(0.1)/d x(0.4) carries the covariance of one time to that of the other
    jacobian = jax.jacfwd(lambda x: oracle.transport(x[None], 0.4, 0.1)[0])(x[0])
    covariance = lambda t: process.alpha(t) ** 2 * COVARIANCE + process.sigma(t) ** 2 * np.eye(3)
    carried = jacobian @ covariance(0.4) @ jacobian.T
    np.testing.assert_allclose(carried, covariance(0.1), rtol=1e-10, atol=1e-12)


def field_covariance(spectrum):
    """The dense covariance [H W, H W] of a periodic field with the given spectrum."""
    height, width = spectrum.shape
    impulse = np.fft.ifft2(spectrum).real  # covariance with the pixel at the origin
    rolled = [np.roll(impulse, (r, c), (0, 1)).ravel() for r in range(height) for c in range(width)]
    return np.array(rolled)


def test_samples_have_the_moments_of_the_data(x64):
    """Seeded; bounds are 5 standard errors of 40 000 draws, false alarms below 1e-5."""
    process, num = processes.vp(), 40000
    draws = oracles.gaussian(process, MEAN, COVARIANCE).sample(jax.random.key(0), num)
    np.testing.assert_allclose(draws.mean(0), MEAN, atol=5 / np.sqrt(num))
    np.testing.assert_allclose(np.cov(draws.T), COVARIANCE, atol=10 / np.sqrt(num))
    mixture = three_mixture(process)
    draws = mixture.sample(jax.random.key(1), num)
    np.testing.assert_allclose(draws.mean(0), 0.3 * MEAN, atol=7 / np.sqrt(num))
    field = oracles.random_field(process, (4, 4, 1))
    draws = field.sample(jax.random.key(2), num).reshape(num, 16)
    np.testing.assert_allclose(
        np.cov(draws.T), field_covariance(field.spectrum), atol=10 / np.sqrt(num)
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda p: oracles.gaussian(p, [0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]),
            "positive definite",
        ),
        (lambda p: oracles.gaussian(p, [0.0, 0.0], [[1.0, 0.0], [0.5, 1.0]]), "symmetric"),
        (lambda p: oracles.gaussian(p, [0.0, 0.0], 0.0), "positive definite"),
        (lambda p: oracles.gaussian(p, [0.0, 0.0], np.eye(3)), "shape"),
        (lambda p: oracles.gaussian(p, 0.0, 1.0), "mean has shape"),
        (lambda p: oracles.mixture(p, [0.5, 0.6], np.zeros((2, 2)), 1.0), "sum to one"),
        (lambda p: oracles.mixture(p, [1.0], np.zeros((2, 2)), 1.0), "shapes"),
        (lambda p: oracles.random_field(p, (2, 2, 1), spectrum=-np.ones((2, 2))), "positive"),
        (
            lambda p: oracles.random_field(p, (3, 1, 1), spectrum=[[1.0], [2.0], [3.0]]),
            "equal at",
        ),
        (lambda p: oracles.empirical(p, np.zeros((0, 2))), "0 data points"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make(processes.vp())
