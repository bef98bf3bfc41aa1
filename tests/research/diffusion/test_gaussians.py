"""Exact scores against autodiff, dense linear algebra and the Fokker-Planck equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from research.diffusion import oracles, processes
from research.diffusion.oracles import gaussians

COVARIANCE = np.array([[1.0, 0.5, 0.1], [0.5, 0.8, -0.2], [0.1, -0.2, 0.4]])


MEAN = np.array([0.3, -0.1, 0.7])


TIMES = np.array([0.05, 0.2, 0.5, 0.9])


def states(batch=4, dim=3):
    return np.random.default_rng(7).normal(size=(batch, dim))


def grad_of_log_prob(oracle, x, t):
    one = lambda x, t: oracle.log_prob(x[None], t[None])[0]
    return jax.vmap(jax.grad(one))(x, jnp.asarray(t))


def three_mixture(process):
    return oracles.mixture(
        process, [0.2, 0.5, 0.3], [MEAN, -MEAN, 2 * MEAN], [COVARIANCE, np.eye(3), 0.1 * COVARIANCE]
    )


def test_gaussian_marginals_are_those_of_scipy(x64):
    process = processes.sub_vp()
    oracle = oracles.gaussian(process, MEAN, COVARIANCE)
    x = states()

    @jax.jit
    def all_of(x):
        curves = process.alpha(TIMES), process.sigma(TIMES)
        return oracle.log_prob(x, TIMES), oracle.log_prob(x), *curves

    log_prob, of_data, alpha, sigma = jax.tree.map(np.asarray, all_of(x))
    for i in range(4):
        law = scipy.stats.multivariate_normal(
            alpha[i] * MEAN, alpha[i] ** 2 * COVARIANCE + sigma[i] ** 2 * np.eye(3)
        )
        np.testing.assert_allclose(log_prob[i], law.logpdf(x[i]), rtol=1e-12)
    data = scipy.stats.multivariate_normal(MEAN, COVARIANCE)
    np.testing.assert_allclose(of_data, data.logpdf(x), rtol=1e-12)


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
    times = jnp.asarray([TIMES, np.full(4, 0.2)])

    @jax.jit
    def all_of(x):
        scores = jax.lax.map(lambda t: oracle(x, t), times)
        return scores, grad_of_log_prob(oracle, x, TIMES), oracle(x, jnp.asarray(0.2))

    scores, expected, one_time = all_of(x)
    np.testing.assert_allclose(scores[0], expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(one_time, scores[1], rtol=1e-14)


def test_mixture_density_is_the_weighted_sum(x64):
    process = processes.edm()
    oracle, x = three_mixture(process), states()
    parts = zip([0.2, 0.5, 0.3], [MEAN, -MEAN, 2 * MEAN], [COVARIANCE, np.eye(3), 0.1 * COVARIANCE])
    noise = 0.7**2 * np.eye(3)
    density = sum(
        weight * scipy.stats.multivariate_normal(mean, covariance + noise).pdf(x)
        for weight, mean, covariance in parts
    )
    both = jax.jit(lambda x: (oracle.log_prob(x, 0.7), oracle.responsibilities(x, 0.7)))
    log_prob, shares = both(x)
    np.testing.assert_allclose(log_prob, np.log(density), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(shares).sum(1), 1, rtol=1e-12)


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
    oracle, x = oracles.gaussian(process, MEAN, COVARIANCE), states()

    @jax.jit
    def all_of(x, t):
        move = lambda t: oracle.transport(x, 0.4, t)
        same, velocity = jax.jvp(move, (t,), (jnp.ones(()),))
        flow = process.drift(x, t) - 0.5 * process.diffusion(t) ** 2 * oracle(x, t)
        jacobian = jax.jacfwd(lambda x: oracle.transport(x[None], 0.4, 0.1)[0])(x[0])
        ends = jnp.array([0.4, 0.1])
        return same, velocity, flow, jacobian, process.alpha(ends), process.sigma(ends)

    same, velocity, flow, *rest = jax.tree.map(np.asarray, all_of(x, 0.4))
    np.testing.assert_allclose(same, x, rtol=1e-12)
    np.testing.assert_allclose(velocity, flow, rtol=1e-10)
    # d x(0.1)/d x(0.4) carries the covariance of one time to that of the other
    jacobian, alpha, sigma = rest
    before, after = (a**2 * COVARIANCE + s**2 * np.eye(3) for a, s in zip(alpha, sigma))
    np.testing.assert_allclose(jacobian @ before @ jacobian.T, after, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variances", ["one", "each", "scalar", "full"])
def test_many_components_are_followed_in_blocks(x64, variances, monkeypatch):
    """Seven components two at a time, the last block reaching back: value and derivatives."""
    rng = np.random.default_rng(3)
    means, weights, x = rng.normal(size=(7, 3)), rng.dirichlet(np.ones(7)), states()
    spread = {
        "one": 0.3,
        "each": rng.uniform(0.1, 0.5, 7),
        "scalar": rng.uniform(0.1, 0.5, (7, 3)),
        "full": np.stack([(1 + k) / 4 * COVARIANCE for k in range(7)]),
    }[variances]
    oracle = oracles.mixture(processes.vp(), weights, means, spread)

    def all_of(x):
        score = lambda x: oracle(x, TIMES)
        value, slope = jax.jvp(score, (x,), (jnp.ones_like(x),))
        pull = jax.grad(lambda x: jnp.sum(score(x) ** 2))(x)
        return value, slope, pull, oracle.log_prob(x, TIMES), oracle.responsibilities(x, TIMES)

    whole = jax.jit(all_of)(x)
    monkeypatch.setattr(gaussians, "_BLOCK", 2 * x.size)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        jax.jit(lambda x: all_of(x))(x),
        whole,
    )
    as_argument = jax.jit(lambda oracle, x: oracle(x, TIMES))(oracle, x)
    np.testing.assert_allclose(as_argument, whole[0], rtol=1e-10)


@pytest.mark.parametrize("dim, num", [(784, 300), (3072, 40)])
def test_a_smoothed_data_set_in_float32_holds_k_d_numbers_and_its_digits(dim, num, monkeypatch):
    """Pixels with one variance, between two of them: 1e-5 of the sums in float64."""
    process, variance = processes.edm(), 1e-4
    rng = np.random.default_rng(0)
    data = rng.random((num, dim), np.float32)
    data[1] = data[0] + np.float32(0.01) * rng.standard_normal(dim, np.float32)
    oracle = oracles.mixture(process, np.full(num, 1 / num), data, variance)
    held = jax.tree.leaves(oracle.components)
    assert sum(leaf.size for leaf in held) == num * (dim + 1) and held[0].dtype == np.float32
    x = data[:3] + np.float32(0.05) * rng.standard_normal((3, dim), np.float32)
    x[0] = (data[0] + data[1]) / 2 + np.float32(0.02) * rng.standard_normal(dim, np.float32)
    monkeypatch.setattr(gaussians, "_BLOCK", 16 * x.size)
    t = np.float32([0.1, 0.3, 3.0])
    score, log_prob = jax.jit(lambda x, t: (oracle(x, t), oracle.log_prob(x, t)))(x, t)
    total = variance + np.float64(t[:, None]) ** 2  # [B, 1]
    gaps = np.float64(data)[None] - np.float64(x)[:, None]  # [B, K, D]
    joint = -0.5 * (gaps**2).sum(2) / total - 0.5 * dim * np.log(2 * np.pi * total) - np.log(num)
    shares = scipy.special.softmax(joint, 1)
    assert 0.05 < shares[0, 0] < 0.95
    expected = np.einsum("bk,bkd->bd", shares, gaps) / total
    largest = np.abs(expected).max(1, keepdims=True)
    np.testing.assert_allclose(score / largest, expected / largest, atol=1e-5)
    np.testing.assert_allclose(log_prob, scipy.special.logsumexp(joint, 1), rtol=1e-5)


def test_independent_directions_need_no_axes():
    """[D] variances as the dense covariance of the same, and no array of size D^2."""
    process, variances = processes.vp(), np.array([0.1, 0.5, 2.0])
    oracle = oracles.gaussian(process, MEAN, variances)
    dense = oracles.gaussian(process, MEAN, np.diag(variances))
    assert oracle.eigenvectors is None and dense.eigenvectors.shape == (3, 3)
    np.testing.assert_allclose(oracle.covariance, np.diag(variances))
    np.testing.assert_allclose(dense.covariance, np.diag(variances), atol=1e-15)
    single = oracles.gaussian(process, MEAN, 0.5)
    assert single.eigenvalues.shape == (1,)
    np.testing.assert_allclose(single.covariance, 0.5 * np.eye(3))
    with jax.enable_x64(True):
        all_of = jax.jit(lambda oracle, x: (
            oracle(x, TIMES), oracle.log_prob(x, TIMES), oracle.log_prob(x),
            oracle.transport(x, 0.9, 0.1),
        ))  # fmt: skip
        pairs = [(oracle, dense), (single, oracles.gaussian(process, MEAN, 0.5 * np.eye(3)))]
        for one, other in pairs:
            found, expected = all_of(one, states()), all_of(other, states())
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def field_covariance(spectrum):
    """The dense covariance [H W, H W] of a periodic field with the given spectrum."""
    height, width = spectrum.shape
    impulse = np.fft.ifft2(spectrum).real  # covariance with the pixel at the origin
    rolled = [np.roll(impulse, (r, c), (0, 1)).ravel() for r in range(height) for c in range(width)]
    return np.array(rolled)


def test_samples_have_the_moments_of_the_data(x64):
    """Seeded; bounds are 5 standard errors of 40 000 draws, false alarms below 1e-5."""
    process, num = processes.vp(), 40000
    mixture, field = three_mixture(process), oracles.random_field(process, (4, 4, 1))
    gaussian = oracles.gaussian(process, MEAN, COVARIANCE)
    sample = lambda rngs: [
        oracle.sample(rng, num) for oracle, rng in zip((gaussian, mixture, field), rngs)
    ]
    draws, mixed, fields = jax.tree.map(
        np.asarray, jax.jit(sample)(jax.random.split(jax.random.key(0), 3))
    )
    np.testing.assert_allclose(draws.mean(0), MEAN, atol=5 / np.sqrt(num))
    np.testing.assert_allclose(np.cov(draws.T), COVARIANCE, atol=10 / np.sqrt(num))
    np.testing.assert_allclose(mixed.mean(0), 0.3 * MEAN, atol=7 / np.sqrt(num))
    np.testing.assert_allclose(
        np.cov(fields.reshape(num, 16).T), field_covariance(field.spectrum), atol=10 / np.sqrt(num)
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
        (lambda p: oracles.gaussian(p, [np.nan], 1.0), "finite numbers"),
        (lambda p: oracles.gaussian(p, [0.0], np.nan), "positive definite"),
        (lambda p: oracles.mixture(p, [0.5, 0.5], np.zeros((2, 2)), [1.0]), "1 covariances for 2"),
        (lambda p: oracles.mixture(p, [1.0], [[np.inf]], 1.0), "means are not finite"),
        (lambda p: oracles.mixture(p, [1.0], [[0.0]], 0.0), "positive definite"),
        (lambda p: oracles.random_field(p, (2, 2)), r"expected \(H, W, C\)"),
        (lambda p: oracles.random_field(p, (2, 2.0, 1)), "shape=2.0"),
        (lambda p: oracles.random_field(p, (2, 2, 1), variance=0.0), "variance=0.0"),
        (lambda p: oracles.random_field(p, (2, 2, 1), power=np.nan), "power=nan"),
        (lambda p: oracles.random_field(p, (2, 2, 1), spectrum=np.ones(2)), "spectrum has shape"),
        (lambda p: oracles.empirical(p, np.zeros((3, 2)), 0), "block_size=0"),
        (lambda p: oracles.empirical(p, np.full((3, 2), np.nan)), "data are not finite"),
        (lambda p: oracles.mixture(p, [0.5, 0.6], np.zeros((2, 2)), 1.0), "sum to one"),
        (lambda p: oracles.mixture(p, [1.0], np.zeros((2, 2)), 1.0), "shapes"),
        (lambda p: oracles.random_field(p, (2, 2, 1), spectrum=-np.ones((2, 2))), "positive"),
        (
            lambda p: oracles.random_field(p, (3, 1, 1), spectrum=[[1.0], [2.0], [3.0]]),
            "equal at",
        ),
        (lambda p: oracles.empirical(p, np.zeros((0, 2))), r"data of shape \(0, 2\)"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make(processes.vp())
