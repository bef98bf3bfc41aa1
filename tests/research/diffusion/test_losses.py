"""The losses against quadrature, finite differences and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import train_step
from research.diffusion import draws, losses, predictions, processes, weightings
from tests.research.diffusion import masked, noisings

VP = processes.vp(t_min=1e-3)
WEIGHTINGS = {
    "uniform": weightings.uniform(),
    "uniform_v": weightings.uniform("v"),
    "likelihood": weightings.likelihood,
    "edm": weightings.edm(0.5),
    "min_snr": weightings.min_snr(5.0),
    "sigmoid": weightings.sigmoid(-1.0),
}


def network(params, x, t, labels=None, rng=None):
    """An entire function, so that quadrature converges fast; its label is an extra input."""
    extra = t if labels is None else t + labels
    h = jnp.sin(x @ params["in"] + extra[:, None] * params["time"][None, :])
    return h @ params["out"] - 0.3 * x


def network_params(dim=2, width=5, seed=0):
    noise = np.random.default_rng(seed)
    return {
        "in": noise.standard_normal((dim, width)),
        "time": noise.standard_normal(width),
        "out": noise.standard_normal((width, dim)),
    }


def drawn(predict, x_0, noise, t):
    """A draw of given data, noise and times."""
    return draws.Draw(predict, x_0, noise, t, jnp.ones_like(t), None)


def quadrature(num=24):
    """Points and weights of E over two independent standard normal numbers."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num)
    weights = weights / weights.sum()
    points = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    return points, np.outer(weights, weights).reshape(-1)


def two_point_mixture(num=24):
    """x_0, eps and weights of E over data on two points and over the noise."""
    noise, weights = quadrature(num)
    x_0 = np.repeat([[1.0, -0.5], [-0.7, 0.3]], len(noise), 0)
    return x_0, np.tile(noise, (2, 1)), np.concatenate([0.3 * weights, 0.7 * weights])


@pytest.fixture(scope="module")
def values_by_kind():
    """{weighting: losses of the five kinds}: one score field, presented as each of them."""
    params, data = network_params(), np.random.default_rng(0).normal(size=(6, 2))

    def value(weighting, kind):
        def apply(params, x, t, labels, rng):
            noise = network(params, x, t)
            return predictions.convert(VP, noise, x, t, "noise", kind)

        loss = losses.denoising_score_matching(VP, apply, kind, weighting)
        return loss(params, {}, jax.random.key(1), {"image": data})[0]

    with jax.enable_x64(True):
        return jax.jit(lambda: {
            name: jnp.stack([value(weighting, kind) for kind in predictions.KINDS])
            for name, weighting in WEIGHTINGS.items()
        })()  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_every_kind_of_prediction_has_the_same_loss(name, values_by_kind):
    """One score field, presented as each of the five kinds."""
    np.testing.assert_allclose(values_by_kind[name], values_by_kind[name][1], rtol=1e-9)


@pytest.mark.parametrize("process", noisings.NAMED, ids=lambda process: process.name)
def test_denoising_and_implicit_gradients_agree(process, x64):
    """Their expectations differ by a constant: exact for Gauss-Hermite nodes that resolve it."""
    params = network_params()
    x_0, noise, weights = two_point_mixture(40)
    log_snr = 0.5  # of the noise scale of the data: the integrand is smooth on the nodes
    t = jnp.full(len(x_0), process.inverse_log_snr(jnp.asarray(log_snr)))

    def predict(params):
        scale = processes.expand(process.alpha(t), x_0)  # fields of one shape for all processes
        return lambda x, t: network(params, x / scale, jnp.zeros_like(t))

    def denoising(params):
        errors = losses.denoising_error(process, "noise", drawn(predict(params), x_0, noise, t))
        return jnp.sum(weights * errors)

    def implicit(params):
        score = predictions.to_score(process, predict(params), "noise")
        x = draws.noised(process, drawn(None, x_0, noise, t))
        return jnp.sum(weights * losses.implicit_error(score, x, t) * process.sigma(t) ** 2)

    (one, other), gradients = jax.jit(
        lambda p: ((denoising(p), implicit(p)), (jax.grad(denoising)(p), jax.grad(implicit)(p)))
    )(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), *gradients)
    np.testing.assert_allclose(one - other, 1.0, rtol=1e-8)  # the constant is E|eps|^2 / D


def test_sliced_error_over_all_signs_is_the_implicit_error(x64):
    params = network_params(dim=3)
    x, t = np.random.default_rng(0).normal(size=(4, 3)), np.linspace(0.1, 1, 4)
    score = lambda x, t: network(params, x, t)
    signs = np.array(np.meshgrid(*3 * [[-1.0, 1.0]])).reshape(3, 8).T
    probes = np.broadcast_to(signs[:, None, :], (8, 4, 3))

    @jax.jit
    def all_of(x, t, probes):
        one = lambda x, t: jnp.trace(jax.jacobian(lambda x: score(x[None], t[None])[0])(x))
        square = jnp.sum(score(x, t) ** 2, 1)
        sliced, implicit = (
            losses.sliced_error(score, x, t, probes),
            losses.implicit_error(score, x, t),
        )
        return sliced, implicit, (square + 2 * jax.vmap(one)(x, t)) / 3

    sliced, implicit, expected = all_of(x, t, probes)
    np.testing.assert_allclose(sliced, implicit, rtol=1e-12)
    np.testing.assert_allclose(implicit, expected, rtol=1e-12)


FACTORIES = [
    losses.denoising_score_matching,
    losses.implicit_score_matching,
    losses.sliced_score_matching,
    losses.flow_matching,
]


@pytest.mark.parametrize("factory", FACTORIES)
def test_gradient_order_and_mask(factory, x64):
    loss_fn = factory(VP, network)
    params, keys = network_params(), jax.random.split(jax.random.key(0), 5)
    image = np.random.default_rng(1).normal(size=(5, 2))
    mask = np.array([1.0, 0.5, 0.0, 1.0, 2.0])
    mean = lambda params, image, mask, keys: loss_fn(
        params, {}, keys, {"image": image, "mask": mask}
    )[0]
    both = jax.jit(jax.value_and_grad(mean, (0, 1)))
    value, (by_params, by_image) = both(params, image, mask, keys)
    order = np.array([3, 0, 4, 2, 1])
    np.testing.assert_allclose(
        both(params, image[order], mask[order], keys[order])[0], value, rtol=1e-12
    )
    np.testing.assert_array_equal(by_image[2], 0)
    assert (np.asarray(by_image)[[0, 1, 3, 4]] != 0).all()
    broken = image.copy()
    broken[2] = np.nan
    nan = both(params, broken, mask, keys)
    jax.tree.map(np.testing.assert_array_equal, nan, (value, (by_params, by_image)))
    direction = network_params(seed=3)
    step = lambda size: jax.tree.map(lambda p, d: p + size * d, params, direction)
    slope = (
        both(step(1e-5), image, mask, keys)[0] - both(step(-1e-5), image, mask, keys)[0]
    ) / 2e-5
    exact = sum(np.vdot(by_params[name], direction[name]) for name in params)
    np.testing.assert_allclose(exact, slope, rtol=1e-7)


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_loss_is_the_weighted_mean_of_its_examples(factory, x64):
    """Weights that do not sum to the size of the batch: (l_1 + l_3 / 2) / 1.5, and its weight."""
    masked.assert_weighted_mean(factory(VP, network), network_params(), (2,))


def test_dequantised_losses_keep_their_mask(x64):
    loss_fn = losses.dequantised(losses.flow_matching(processes.flow(), network), 0.5)
    masked.assert_weighted_mean(loss_fn, network_params(), (2,))


def test_options_of_a_loss_are_those_of_its_integrand(x64):
    """Kind, weighting, times and strata of the implicit and the sliced loss, written by hand."""
    params, rng = network_params(), jax.random.key(4)
    image = np.random.default_rng(1).normal(size=(4, 2))
    options = dict(kind="v", weighting=weightings.edm(0.7), times=weightings.uniform_log_snr)

    @jax.jit
    def all_of(params, image):
        batch = {"image": image}
        value = lambda make, **more: make(VP, network, **options, **more)(params, {}, rng, batch)[0]
        found = [
            value(losses.denoising_score_matching, stratified=True),
            value(losses.implicit_score_matching, stratified=True),
            value(losses.sliced_score_matching, stratified=True, num_probes=3),
            losses.flow_matching(VP, network, times=weightings.log_normal())(
                params, {}, rng, batch
            )[0],
        ]
        keys = draws.example_keys(rng, 4, 4)
        u = jax.vmap(jax.random.uniform)(keys[0])
        t, factor = weightings.uniform_log_snr(VP, (jnp.arange(4) + u) / 4)
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys[1])
        alpha, sigma = VP.alpha(t)[:, None], VP.sigma(t)[:, None]
        x = alpha * image + sigma * noise

        def score(x):  # of a network that predicts v = alpha eps - sigma x_0
            return -(sigma * x + alpha * network(params, x, t)) / sigma

        error = jnp.mean((score(x) * sigma + noise) ** 2, 1)
        one = lambda i: jnp.trace(jax.jacobian(lambda y: score(x.at[i].set(y))[i])(x[i]))
        square = jnp.mean(score(x) ** 2, 1)
        implicit = square + 2 * jnp.stack([one(i) for i in range(4)]) / 2
        signs = jax.vmap(lambda key: jax.random.rademacher(key, (3, 2), x.dtype))(keys[3])
        slope = lambda v: jnp.sum(v * jax.jvp(score, (x,), (v,))[1], 1)
        sliced = square + 2 * jnp.mean(jax.vmap(slope, 1)(signs), 0) / 2
        weight = factor * weightings.edm(0.7)(VP, t)
        variance = sigma[:, 0] ** 2
        expected = [weight * error, weight * variance * implicit, weight * variance * sliced]
        s, _ = weightings.log_normal()(VP, u)
        alpha, sigma = VP.alpha(s)[:, None], VP.sigma(s)[:, None]
        velocity = VP.alpha_prime(s)[:, None] * image + VP.sigma_prime(s)[:, None] * noise
        plain = network(params, alpha * image + sigma * noise, s) - velocity
        return found, [jnp.mean(part) for part in (*expected, jnp.mean(plain**2, 1))]

    np.testing.assert_allclose(*all_of(params, image), rtol=1e-9)


@pytest.mark.parametrize("factory", FACTORIES)
def test_accumulated_step_draws_the_same_noise(factory, x64):
    optimizer = optax.sgd(0.1)
    state = train_step.init_state(network_params(), optimizer, jax.random.key(3))
    batch = {"image": np.random.default_rng(1).normal(size=(4, 2))}

    def params_after(accumulate, state, batch):
        step = train_step.make_train_step(
            factory(VP, network), optimizer, accumulate, rng_per_example=True
        )
        return step(state, batch)[0].params

    both = jax.jit(lambda *args: [params_after(accumulate, *args) for accumulate in (1, 2)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11), *both(state, batch))


@pytest.mark.parametrize("process", noisings.NAMED, ids=lambda process: process.name)
def test_edm_weighting_of_a_silent_network_is_one(process, x64):
    """weight c_out^2 = 1 and the target of F has unit variance: arXiv:2206.00364, appendix B.6."""
    data_std = 0.7
    noise, weights = quadrature(4)  # exact for polynomials
    x_0, eps = data_std * noise[:, :1], noise[:, 1:]
    silent = predictions.edm_denoiser(process, lambda x, t: jnp.zeros_like(x), data_std)

    def value(log_snr):
        t = jnp.full(len(x_0), process.inverse_log_snr(log_snr))
        error = losses.denoising_error(process, "data", drawn(silent, x_0, eps, t))
        return jnp.sum(weights * error * weightings.edm(data_std)(process, t))

    @jax.jit
    def values():
        low, high = process.log_snr(jnp.array([process.t_max, process.t_min]))
        return jax.vmap(value)(jnp.linspace(low, high, 5)[1:-1])

    np.testing.assert_allclose(values(), np.ones(3), rtol=1e-9)


def test_flow_matching_regresses_on_noise_minus_data(x64):
    flow, params = processes.flow(), network_params()
    x_0 = np.random.default_rng(0).normal(size=(3, 2))

    @jax.jit
    def both(x_0, rngs):
        keys = draws.example_keys(rngs, 3, 4)
        t = flow.t_min + (flow.t_max - flow.t_min) * jax.vmap(jax.random.uniform)(keys[0])
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys[1])
        x = (1 - t[:, None]) * x_0 + t[:, None] * noise
        expected = jnp.mean((network(params, x, t) - (noise - x_0)) ** 2)
        value, aux = losses.flow_matching(flow, network)(params, {}, rngs, {"image": x_0})
        return value, expected, aux.weight

    value, expected, weight = both(x_0, jax.random.split(jax.random.key(1), 3))
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert weight == 3


def test_likelihood_loss_does_not_depend_on_the_path(x64):
    """(1/2) int E|eps - eps_hat|^2 dlambda over two processes with equal ends, data N(0, s^2)."""
    s = 0.6
    noise, weights = quadrature(4)
    ends = (8.0, -6.0)
    nodes, node_weights = np.polynomial.legendre.leggauss(200)
    x_0, eps = (np.tile(column[:, None], (200, 1)) for column in (s * noise[:, 0], noise[:, 1]))

    def value(process):
        low, high = process.inverse_log_snr(jnp.array(ends))
        t = jnp.repeat(low + (high - low) * (nodes + 1) / 2, len(noise))

        def optimal(x, t):
            alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
            return sigma * x / (alpha**2 * s**2 + sigma**2)

        error = losses.denoising_error(process, "noise", drawn(optimal, x_0, eps, t))
        density = weightings.likelihood(process, t) / (process.t_max - process.t_min)
        mean = (error * density).reshape(200, -1) @ weights
        return (mean @ node_weights) * (high - low) / 2

    values = jax.jit(lambda: [value(process) for process in (processes.cosine(), processes.vp())])()
    closed_form = 0.5 * np.log((1 + s**2 * np.exp(8.0)) / (1 + s**2 * np.exp(-6.0)))  # I-MMSE
    np.testing.assert_allclose(values, closed_form, rtol=1e-8)


def test_the_first_class_may_stand_for_none():
    seen = losses.drop_labels(lambda params, x, t, labels, rng: labels, null_label=0, rate=1.0)
    rngs = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_array_equal(seen({}, None, None, jnp.array([1, 2, 3]), rngs), [0, 0, 0])


def test_drop_labels_at_its_rate_and_by_example():
    seen = losses.drop_labels(lambda params, x, t, labels, rng: labels, null_label=7, rate=0.25)
    x, t, labels = np.zeros((4000, 1)), np.zeros(4000), np.arange(4000) % 7

    @jax.jit
    def both(rng):
        keys = jax.random.split(rng, 4000)
        some = seen({}, x[:9], t[:9], jnp.asarray(labels[:9]), keys[:9])
        return seen({}, x, t, jnp.asarray(labels), keys), some

    out, some = jax.tree.map(np.asarray, both(jax.random.key(0)))
    assert abs((out == 7).mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    assert ((out == labels) | (out == 7)).all()
    np.testing.assert_array_equal(some, out[:9])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: losses.denoising_score_matching(VP, network, "epsilon"), "kind='epsilon'"),
        (lambda: losses.denoising_score_matching(VP, network, weighting="snr"), "weighting='snr'"),
        (lambda: losses.denoising_score_matching(VP, network, times="uniform"), "times='uniform'"),
        (lambda: losses.sliced_score_matching(VP, network, num_probes=0), "num_probes=0"),
        (lambda: losses.drop_labels(network, 3, 1.5), "rate=1.5"),
        (lambda: losses.drop_labels(network, 3, float("nan")), "rate=nan"),
        (lambda: losses.drop_labels(network, -1), "null_label=-1"),
        (lambda: losses.drop_labels(network, 3)({}, None, None, None, None), "no leaf 'label'"),
        (lambda: losses.sliced_score_matching(VP, network, num_probes=1.0), "num_probes=1.0"),
        (lambda: losses.dequantised(network, float("nan")), "width=nan"),
        (
            lambda: losses.flow_matching(VP, network)(
                {}, {}, jax.random.key(0), {"image": jnp.zeros((2, 2), jnp.uint8)}
            ),
            "uint8",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_dequantised_data_fill_their_cells_evenly():
    """What the inner loss is given, against uniform quantiles; false alarm below 1e-6."""

    def inner(params, model_state, rng, batch):
        assert rng.shape == (8,) and batch["label"].shape == (8,)
        return batch["image"].mean(), batch["image"]

    low = np.array([-1.0, 0.25], np.float32) * np.ones((8, 2), np.float32)
    batch = {"image": np.tile(low[:, None], (1, 500, 1)), "label": np.zeros(8, int)}
    spread = jax.jit(lambda rng: losses.dequantised(inner, 0.5)(None, {}, rng, batch))
    loss, image = spread(jax.random.key(0))
    fill = np.sort((np.asarray(image) - batch["image"]).reshape(-1)) / 0.5
    quantiles = (np.arange(fill.size) + 0.5) / fill.size
    assert np.abs(fill - quantiles).max() < 2.7 / fill.size**0.5  # Kolmogorov-Smirnov
    assert abs(loss - (low.mean() + 0.25)) < 6 * 0.5 / (12 * fill.size) ** 0.5
    again, _ = spread(jax.random.split(jax.random.key(1), 8))
    assert again != loss  # keys of the examples are taken as well
    with pytest.raises(ValueError, match="width=0"):
        losses.dequantised(inner, 0.0)
