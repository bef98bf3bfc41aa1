"""Losses of the population on finite graphs, at the optima that theory gives."""

import functools

import jax
import numpy as np
import pytest

from research.self_supervised import graphs, losses

MAX_DIM = 8


@functools.cache
def graph():
    """40 states whose eigenvalues are apart."""
    return np.asarray(jax.jit(functools.partial(graphs.random, num_states=40))(jax.random.key(0)))


def minimised(value_and_grad, start):
    from scipy import optimize

    host = lambda x: [np.asarray(part, float).ravel() for part in value_and_grad(x)]  # noqa: E731
    options = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 30}
    return optimize.minimize(
        lambda x: host(x.reshape(start.shape)), start.ravel(), jac=True, method="L-BFGS-B",
        options=options,
    ).x.reshape(start.shape)  # fmt: skip


@functools.cache
def spectral_with_mask():
    """One program for all dimensions: columns that a mask leaves out are zero."""
    loss = lambda features, mask: graphs.spectral(graph(), features * mask)  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))


def test_a_random_graph(x64):
    found = graph()
    assert (found > 0).all() and np.isclose(found.sum(), 1, rtol=1e-12)
    np.testing.assert_array_equal(found, found.T)
    values, vectors = graphs.eigen(found)
    np.testing.assert_allclose(values[0], 1, rtol=1e-12)
    np.testing.assert_allclose(np.abs(vectors[:, 0]), np.sqrt(found.sum(1)), rtol=1e-9)
    assert (values[:3] - values[1:4] > 0.1).sum() >= 1  # clusters
    other = graphs.random(jax.random.key(0), 40, num_clusters=2, within=20.0)
    inside = np.asarray(other)[::2, ::2].sum() + np.asarray(other)[1::2, 1::2].sum()
    assert 0.9 < inside < 0.98  # 20 / 21 in the mean


@pytest.mark.parametrize("dim", range(2, MAX_DIM + 1))
def test_the_spectral_loss_finds_the_top_eigenspace(x64, dim):
    """Minimum: minus the sum of squared top eigenvalues; span: their vectors."""
    mask = (np.arange(MAX_DIM) < dim).astype(float)[None]
    start = 0.5 * np.random.default_rng(dim).normal(size=(40, MAX_DIM)) * mask
    run = spectral_with_mask()
    features = minimised(lambda x: run(x, mask), start)[:, :dim]
    reached = run(np.pad(features, ((0, 0), (0, MAX_DIM - dim))), mask)[0]
    values = graphs.eigen(graph())[0]
    minimum = -np.square(values[:dim]).sum()
    np.testing.assert_allclose(reached, minimum, atol=1e-6)
    np.testing.assert_allclose(graphs.spectral_minimum(graph(), dim), minimum, rtol=1e-12)
    assert graphs.angle(graph(), features) < 1e-3
    if dim > 2:  # and no smaller space has it: the angle sees what is missing
        assert graphs.angle(graph(), features, 1) > 0.1


def test_negative_eigenvalues_are_not_found(x64):
    """Two states that are always seen with the other: eigenvalues 1 and -1."""
    swap = np.array([[0.0, 0.5], [0.5, 0.0]])
    np.testing.assert_allclose(graphs.spectral_minimum(swap, 2), -1.0, rtol=1e-12)


def test_info_nce_recovers_the_ratio(x64):
    """log p(x, y) / (p(x) p(y)) up to a function of x, and minus the mutual information."""
    weights = np.asarray(graph())
    ratio = jax.jit(graphs.log_ratio)(weights)
    seen = weights.sum(1)
    np.testing.assert_allclose(ratio, np.log(weights / np.outer(seen, seen)), rtol=1e-12)
    run = jax.jit(jax.value_and_grad(lambda scores: graphs.info_nce(weights, scores)))
    value, grad = run(ratio + np.arange(40.0)[:, None])
    information = (weights * np.asarray(ratio)).sum()
    np.testing.assert_allclose(value, -information, rtol=1e-10)
    np.testing.assert_allclose(grad, 0, atol=1e-15)
    scale = 40.0 * 40  # the loss of scores of order 1, so that L-BFGS stops late
    scores = minimised(lambda s: [scale * part for part in run(s)], np.zeros((40, 40)))
    apart = scores - np.asarray(ratio)
    assert np.ptp(apart, axis=1).max() < 1e-4


def test_populations_are_limits_of_samples(x64):
    """Every pair of states as often as it is seen, on a graph of whole counts."""
    counts = np.array([[4, 1, 2], [1, 6, 3], [2, 3, 2]])
    weights = counts / counts.sum()
    rows, columns = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices((3, 3)))
    features = np.random.default_rng(3).normal(size=(3, 2))
    z1, z2, size = features[rows], features[columns], len(rows)
    found, many = jax.jit(
        lambda: (
            {
                "barlow": graphs.barlow_twins(weights, features, weight=0.3),
                "barlow, default": graphs.barlow_twins(weights, features),
                "vicreg": graphs.vicreg(weights, features, 2.0, 3.0, 5.0),
                "vicreg, default": graphs.vicreg(weights, features),
            },
            {
                "barlow": losses.barlow_twins(z1, z2, 0.3),
                "barlow, default": losses.barlow_twins(z1, z2),
                "vicreg": losses.vicreg(z1, z2, 2.0, 3.0, 0.0),
                "vicreg, default": losses.vicreg(z1, z2, covariance=0.0),
            },
        )
    )()
    for name in ("barlow", "barlow, default"):
        np.testing.assert_allclose(found[name], many[name], rtol=1e-10)
    # Variances of a sample divide by B - 1: by hand.
    cov = np.cov(z1.T, bias=True)
    hinge = np.maximum(0, 1 - np.sqrt(np.diag(cov) + 1e-4)).mean()
    apart = np.square(z1 - z2).mean()
    off = 2 * cov[0, 1] ** 2 / 2
    expected = 2 * apart + 2 * (3 * hinge + 5 * off)
    np.testing.assert_allclose(found["vicreg"], expected, rtol=1e-10)
    np.testing.assert_allclose(
        found["vicreg, default"], 25 * apart + 2 * (25 * hinge + off), rtol=1e-10
    )
    spectral = np.square(z1 @ z2.T).mean() - 2 * (z1 * z2).sum(1).mean()
    np.testing.assert_allclose(graphs.spectral(weights, features), spectral, rtol=1e-10)
    assert size == counts.sum()


def test_pairs_are_drawn_as_often_as_they_are_seen():
    """chi^2 of 9 cells at 8 degrees of freedom: false alarm 1e-4."""
    weights = np.array([[4, 1, 2], [1, 6, 3], [2, 3, 2]]) / 24
    x, y = jax.jit(functools.partial(graphs.pairs, num=24_000))(jax.random.key(1), weights)
    counts = np.zeros((3, 3))
    np.add.at(counts, (np.asarray(x), np.asarray(y)), 1)
    expected = 24_000 * weights
    assert (np.square(counts - expected) / expected).sum() < 31.8


@pytest.mark.parametrize("message, call", [
    ("num_states=0", lambda: graphs.random(None, 0)),
    ("num_clusters=0", lambda: graphs.random(None, 4, num_clusters=0)),
    ("within=0: expected a positive", lambda: graphs.random(None, 4, within=0)),
    ("graph has shape .4,.: expected .N, N.", lambda: graphs.eigen(np.ones(4))),
    ("not symmetric", lambda: graphs.eigen(np.array([[0.5, 0.5], [0.0, 0.0]]))),
    ("negative", lambda: graphs.eigen(np.array([[1.5, -0.5], [-0.5, 0.5]]))),
    ("sums to 4", lambda: graphs.eigen(np.ones((2, 2)))),
    ("dim=0", lambda: graphs.spectral_minimum(np.ones((1, 1)), 0)),
])  # fmt: skip
def test_bad_input(message, call):
    with pytest.raises(ValueError, match=message):
        call()
