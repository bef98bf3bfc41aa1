"""The bounds on Gaussian data, where every chain is linear and its cost has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import bits, discrete, draws, processes, variational, weightings
from tests.research.diffusion import masked

DATA_STD = 0.6
TABLE = discrete.Betas(np.array([0.05, 0.2, 0.4, 0.7]))
SLOPES = np.array([0.9, 0.7, 0.8, 0.75])  # eps_hat = slope x: not the best, on purpose


def chain_bound(betas, slopes, variances):
    """E_q[log q(x_1..N | x_0) - log p(x_0..N)] from the covariance of (x_0, ..., x_N)."""
    num_steps = len(betas)
    maps = np.eye(1, num_steps + 1)  # rows: x_i as a combination of independent normals
    for i, beta in enumerate(betas):
        row = np.sqrt(1 - beta) * maps[-1]
        row[i + 1] = np.sqrt(beta)
        maps = np.vstack([maps, row])
    scales = np.append(DATA_STD, np.ones(num_steps))
    covariance = (maps * scales**2) @ maps.T
    cost = 0.5 * np.log(2 * np.pi) + 0.5 * covariance[-1, -1]
    alpha_bar = np.cumprod(1 - betas)
    for i in range(num_steps):
        factor = (1 - betas[i] * slopes[i] / np.sqrt(1 - alpha_bar[i])) / np.sqrt(1 - betas[i])
        residual = (
            covariance[i, i]
            - 2 * factor * covariance[i, i + 1]
            + factor**2 * covariance[i + 1, i + 1]
        )
        cost += 0.5 * np.log(2 * np.pi * variances[i]) + residual / (2 * variances[i])
        cost -= 0.5 * np.log(2 * np.pi * np.e * betas[i])
    return cost


def linear_network(params, x, t, labels, rng):
    index = jnp.round(t * len(TABLE.betas)).astype(int) - 1
    return jnp.asarray(params)[index][:, None] * x


def small_variances():
    return np.append(TABLE.posterior_variance[1] / 2, TABLE.posterior_variance[1:])


@pytest.mark.parametrize("variances", [TABLE.betas, small_variances()])
def test_ddpm_bound_is_the_cost_of_the_chain(variances, x64):
    """Expectation over data and noise by Gauss-Hermite nodes, over steps by their sum."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights = np.outer(weights, weights).reshape(-1) / weights.sum() ** 2
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    predict = lambda x, t: linear_network(SLOPES, x, t, None, None)

    @jax.jit
    def costs(x_0, noise):
        def step_cost(step):
            t = jnp.full(len(x_0), step / 4)
            drawn = draws.Draw(predict, x_0, noise, t, None, None)
            return variational.reverse_step_cost(TABLE, variances, bits.gaussian_decoder, drawn)

        prior = variational.prior_cost(discrete.from_betas(TABLE), x_0)
        return prior, jax.lax.map(step_cost, jnp.arange(1, 5))

    prior, steps = jax.tree.map(np.asarray, costs(DATA_STD * grid[:, :1], grid[:, 1:]))
    total = weights @ prior + (steps @ weights).sum()
    np.testing.assert_allclose(total, chain_bound(TABLE.betas, SLOPES, variances), rtol=1e-10)
    entropy = 0.5 * np.log(2 * np.pi * np.e * DATA_STD**2)
    assert total > entropy


def batch_of(num):
    normal = np.random.default_rng(0).normal(size=(num, 1))
    return {"image": DATA_STD * (normal - normal.mean()) / normal.std()}


def test_ddpm_losses_estimate_their_expectations(x64):
    loss_fn = variational.ddpm_variational(TABLE, linear_network)
    simple = variational.ddpm_simple(TABLE, linear_network)
    batch = batch_of(40_000)
    (loss, aux), (error, _) = jax.jit(
        lambda rng: (loss_fn(SLOPES, {}, rng, batch), simple(SLOPES, {}, rng, batch))
    )(jax.random.key(1))
    expected = chain_bound(TABLE.betas, SLOPES, TABLE.betas)
    assert abs(loss - expected) < 4 * 3.5 / 200  # the cost of one example has a spread below 3.5
    np.testing.assert_allclose(aux.metrics["steps"] + aux.metrics["prior"], loss, rtol=1e-12)
    variance = TABLE.alpha_bar * DATA_STD**2 + 1 - TABLE.alpha_bar
    mean_error = 1 - 2 * SLOPES * np.sqrt(1 - TABLE.alpha_bar) + SLOPES**2 * variance
    assert abs(error - mean_error.mean()) < 4 * 0.6 / 200


def test_continuous_bound_is_the_entropy_of_the_noised_data(x64):
    """I-MMSE: with the best network parts add up to ln(2 pi e (s^2 + tau^2)) / 2 + prior gap."""
    process = processes.vp(t_min=1e-3)

    def best(params, x, t, labels, rng):
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return sigma * x / (alpha**2 * DATA_STD**2 + sigma**2)

    loss_fn = variational.continuous_bound(process, best)
    loss, aux = jax.jit(lambda rng: loss_fn({}, {}, rng, batch_of(40_000)))(jax.random.key(1))
    snr = np.exp(np.asarray(process.log_snr(jnp.array([process.t_min, process.t_max]))))
    path = 0.5 * np.log((1 + DATA_STD**2 * snr[0]) / (1 + DATA_STD**2 * snr[1]))
    spread = np.sqrt(2) * 0.5 * np.log(snr[0] / snr[1])  # bounds that of one weighted error
    assert abs(aux.metrics["diffusion"] - path) < 4 * spread / 200
    reconstruction = 0.5 * np.log(2 * np.pi * np.e / snr[0])
    assert abs(aux.metrics["reconstruction"] - reconstruction) < 4 * 0.75 / 200
    alpha, sigma = process.alpha(1.0), process.sigma(1.0)
    prior = 0.5 * (alpha**2 * DATA_STD**2 + sigma**2 - 1 - 2 * jnp.log(sigma))
    np.testing.assert_allclose(aux.metrics["prior"], prior, rtol=1e-9)
    np.testing.assert_allclose(sum(aux.metrics.values()), loss, rtol=1e-12)
    assert aux.weight == 40_000


BOUNDS = [
    lambda: variational.ddpm_variational(TABLE, linear_network),
    lambda: variational.ddpm_simple(TABLE, linear_network),
    lambda: variational.continuous_bound(
        processes.vp(), lambda params, x, t, labels, rng: params.sum() * x, stratified=False
    ),
]


@pytest.mark.parametrize("make", BOUNDS)
def test_the_bound_is_the_weighted_mean_of_its_examples(make, x64):
    masked.assert_weighted_mean(make(), jnp.asarray(SLOPES), (1,))


def test_decoders_and_times_of_the_bounds(x64):
    """Another decoder changes its own part alone, by its own value; times keep the expectation."""
    process, table = processes.vp(t_min=1e-3), TABLE
    silent = lambda params, x, t, labels, rng: 0 * x
    half = lambda x_0, mean, std: 0.5 * bits.gaussian_decoder(x_0, mean, std)
    batch, rng = batch_of(40_000), jax.random.key(1)
    loss = lambda loss_fn: loss_fn({}, {}, rng, batch)

    @jax.jit
    def all_of():
        bound = lambda **options: loss(variational.continuous_bound(process, silent, **options))
        uniform = bound(times=weightings.uniform_times, stratified=False)
        steps = [
            loss(variational.ddpm_variational(table, silent, decoder=d))
            for d in (bits.gaussian_decoder, half, lambda x_0, mean, std: 0 * mean[:, 0])
        ]
        return bound(), bound(decoder=half), uniform, steps

    (_, plain), (_, halved), (_, uniform), steps = all_of()
    one, other = plain.metrics["reconstruction"], halved.metrics["reconstruction"]
    np.testing.assert_allclose(other, one / 2, rtol=1e-12)
    np.testing.assert_allclose(halved.metrics["diffusion"], plain.metrics["diffusion"], rtol=1e-12)
    snr = np.exp(np.asarray(process.log_snr(jnp.array([process.t_min, process.t_max]))))
    path = 0.5 * np.log(snr[0] / snr[1])  # of a silent network: the error is 1
    np.testing.assert_allclose(plain.metrics["diffusion"], path, rtol=0.01)  # 40,000 draws
    np.testing.assert_allclose(uniform.metrics["diffusion"], path, rtol=0.2)  # of heavy tails
    whole, halved, without = (float(loss) for loss, _ in steps)
    np.testing.assert_allclose(whole + without, 2 * halved, rtol=1e-12)
    assert whole != without


@pytest.mark.parametrize("make", BOUNDS)
def test_gradient_order_and_mask(make, x64):
    loss_fn = make()
    keys = jax.random.split(jax.random.key(0), 4)
    image, mask = batch_of(4)["image"], jnp.array([1.0, 0.0, 2.0, 1.0])
    both = jax.jit(jax.value_and_grad(
        lambda params, image, mask, keys: loss_fn(
            params, {}, keys, {"image": image, "mask": mask}
        )[0], (0, 1),
    ))  # fmt: skip
    slopes = jnp.asarray(SLOPES)
    value, (by_slopes, by_image) = both(slopes, image, mask, keys)
    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        both(slopes, image[order], mask[order], keys[order])[0], value, rtol=1e-11
    )
    np.testing.assert_array_equal(by_image[1], 0)
    direction = jnp.array([0.3, -0.2, 0.1, 0.5])
    ends = [both(slopes + size * direction, image, mask, keys)[0] for size in (1e-4, -1e-4)]
    np.testing.assert_allclose(by_slopes @ direction, (ends[0] - ends[1]) / 2e-4, rtol=1e-6)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: variational.ddpm_variational(TABLE, None, np.zeros(4)), "positive numbers"),
        (lambda: variational.ddpm_variational(TABLE, None, np.ones(3)), r"\(3,\)"),
        (lambda: variational.continuous_bound(processes.vp(), None, "x0"), "kind='x0'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
