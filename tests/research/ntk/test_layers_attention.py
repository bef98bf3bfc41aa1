"""Attention over positions and averages over graphs: masks, closed form, relabelled nodes."""

import jax
import numpy as np
import pytest
import scipy.special

from research import ntk
from tests.research.ntk.wide import points

L = ntk.layers


TOPS = {
    "mean": [L.global_average_pool()],
    "attention": [L.self_attention(4, bias_std=0.1), L.relu(), L.flatten()],
}


@pytest.mark.parametrize("top", TOPS)
def test_masked_positions_have_no_influence(x64, top):
    net = L.serial(
        L.dense(4, bias_std=0.2), L.relu(), L.dense(4, bias_std=0.3), L.erf(), *TOPS[top]
    )
    x = points(3, 3, 2)
    padded = np.concatenate([x, 100 * points(3, 2, 2, seed=2)], 1)
    mask = np.broadcast_to(np.arange(5) < 3, (3, 5))
    short, long = net.kernel(x), net.kernel(padded, mask1=mask)
    scale = 1 if top == "mean" else 5 / 3  # flatten divides by all positions
    np.testing.assert_allclose(scale * long.nngp, short.nngp, rtol=1e-12)
    np.testing.assert_allclose(scale * long.ntk, short.ntk, rtol=1e-12)
    params = jax.jit(net.init, static_argnums=1)(jax.random.key(0), (3, 2))
    apply = jax.jit(net.apply)
    kept = np.asarray(apply(params, padded, mask=mask))
    if top != "mean":
        kept = kept.reshape(3, 5, 4)[:, :3].reshape(3, 12)
    np.testing.assert_allclose(kept, apply(params, x), rtol=1e-12, atol=1e-12)


def test_aggregate_averages_over_the_graph(x64):
    net = L.serial(L.dense(8, bias_std=0.1), L.aggregate(), L.dense(8), L.relu(), L.aggregate())
    x, y = points(2, 4, 3), points(3, 4, 3, seed=1)
    p, r = (scipy.special.softmax(points(n, 4, 4, seed=n), -1) for n in (2, 3))
    linear = L.serial(L.dense(8, bias_std=0.1), L.aggregate())
    q = np.einsum("nsc,mtc->nmst", x, y) / 3 + 0.01
    found = linear.kernel(x, y, pattern1=p, pattern2=r, get="nngp", positions="all")
    np.testing.assert_allclose(found, np.einsum("nab,nmbc,mdc->nmad", p, q, r), rtol=1e-12)
    order = np.array([2, 0, 3, 1])
    params = jax.device_get(linear.init(jax.random.key(0), (4, 3)))
    averaged = linear.apply(params, x, pattern=p)
    hidden = x @ params[0]["w"] / 3**0.5 + 0.1 * params[0]["b"]
    np.testing.assert_allclose(averaged, np.einsum("nst,ntc->nsc", p, hidden), rtol=1e-6)
    shuffled = net.kernel(x[:, order], y, pattern1=p[:, order][:, :, order], pattern2=r,
                          positions="all", get="ntk")  # fmt: skip
    plain = net.kernel(x, y, pattern1=p, pattern2=r, positions="all", get="ntk")
    np.testing.assert_allclose(shuffled, plain[:, :, order], rtol=1e-12)


STDS = {"query_std": 1.3, "key_std": 0.7, "value_std": 1.2, "weight_std": 0.8, "bias_std": 0.3}


@pytest.mark.parametrize("scaling", ["linear", "sqrt"])
def test_attention_is_its_closed_form(x64, scaling):
    """Hron et al. 2020, of inputs without a tangent kernel yet: identity weights, by einsum."""
    layer = L.self_attention(4, mechanism="identity", scaling=scaling, **STDS)
    x = points(2, 3, 5)
    query, key, value, weight, bias = STDS.values()
    q = np.einsum("nsc,mtc->nmst", x, x) / 5
    if scaling == "linear":
        attention = query * key * np.einsum("nnst->nst", q)
        mixed = (value * weight) ** 2 * np.einsum("nab,nmbc,mdc->nmad", attention, q, attention)
        factor = 2
    else:
        square = np.sum(q**2, (2, 3), keepdims=True)
        mixed = (query * key * value * weight) ** 2 * q * square
        factor = 4
    found = jax.jit(lambda x: layer.kernel(x, positions="all"))(x)
    np.testing.assert_allclose(found.nngp, mixed + bias**2, rtol=1e-10)
    np.testing.assert_allclose(found.ntk, factor * mixed + bias**2, rtol=1e-10)


def test_plain_attention_is_the_softmax_of_covariances(x64):
    x = points(2, 3, 5)
    q = np.einsum("nsc,mtc->nmst", x, x) / 5
    weights = scipy.special.softmax(np.einsum("nnst->nst", q), -1)
    mixed = np.einsum("nab,nmbc,mdc->nmad", weights, q, weights)
    found = L.self_attention(4).kernel(x, positions="all")
    np.testing.assert_allclose(found.nngp, mixed, rtol=1e-10)
    np.testing.assert_allclose(found.ntk, 2 * mixed, rtol=1e-10)


@pytest.mark.parametrize("scaling", ["linear", "sqrt"])
def test_finite_attention_is_its_formula(x64, scaling):
    """Head by head; with linear scaling the queries serve as keys and both deviations act."""
    layer = L.self_attention(
        2, num_heads=2, key_features=3, value_features=4, mechanism="identity", scaling=scaling,
        **STDS,
    )  # fmt: skip
    x, params = points(2, 3, 5), jax.device_get(layer.init(jax.random.key(0), (3, 5)))
    query, key, value, weight, bias = STDS.values()
    heads = []
    for head in range(2):
        queries = x @ params["query"][head] / 5**0.5
        keys = queries if scaling == "linear" else x @ params["key"][head] / 5**0.5
        logits = query * key * np.einsum("nsk,ntk->nst", queries, keys)
        logits = logits / (3 if scaling == "linear" else 3**0.5)
        heads.append(logits @ (x @ params["value"][head] * value / 5**0.5))
    mixed = np.concatenate(heads, -1) @ params["out"]["w"] * weight / 8**0.5
    expected = mixed + bias * params["out"]["b"]
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-10)
