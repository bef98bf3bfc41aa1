"""Matrix-free spectra against the dense kernel; probes within three standard errors of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from tests.research.ntk import networks

RNG = jax.random.key(4)  # fixed: a right estimate passes each 3-sigma check with odds of 370 to 1


@pytest.fixture(scope="module")
def case():
    """apply, parameters, inputs, the dense kernel [D, D], targets."""
    with jax.enable_x64(True):
        apply, params = networks.plain_mlp()
        x = networks.vectors(1, 12)
        kernel = np.asarray(ntk.empirical(apply, params, x))  # [12, 12, 3, 3]
        y = np.random.default_rng(0).normal(size=(12, 3)) + np.asarray(apply(params, x))
        return apply, params, x, kernel.swapaxes(1, 2).reshape(36, 36), y


def within(estimate, truth):
    error = float(estimate.standard_error)
    assert 0 < error < 0.3 * abs(truth)
    assert abs(float(estimate.value) - truth) < 3 * error


@pytest.mark.parametrize("batch_size", [None, 5])
def test_top_eigenpairs_are_those_of_the_dense_kernel(x64, case, batch_size):
    apply, params, x, kernel, _ = case
    values, vectors = ntk.spectrum.top_eigenpairs(
        apply, params, x, num=5, rng=RNG, batch_size=batch_size, num_steps=8
    )
    expected = np.linalg.eigvalsh(kernel)[::-1][:5]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert vectors.shape == (5, 12, 3)
    flat = np.asarray(vectors).reshape(5, 36)
    np.testing.assert_allclose(flat @ flat.T, np.eye(5), atol=1e-8)
    np.testing.assert_allclose(kernel @ flat.T, flat.T * np.asarray(values), atol=1e-3 * values[0])


def test_multiple_eigenvalues_are_found_as_often_as_they_are_there(x64):
    """A linear layer of 3 outputs: every eigenvalue of x x' three times."""
    x = networks.vectors(2, 20)
    values, vectors = ntk.spectrum.top_eigenpairs(
        lambda w, x: x @ w, jnp.zeros((4, 3)), x, num=7, rng=RNG
    )
    expected = np.repeat(np.linalg.eigvalsh(x.T @ x)[::-1], 3)[:7]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    flat = vectors.reshape(7, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(7), atol=1e-7)


def test_copies_of_eigenvalues_far_apart(x64):
    """Two outputs and 30 distinct eigenvalues, more than there are steps at first."""
    x = np.random.default_rng(0).normal(size=(40, 30)) * 0.5 ** np.arange(30)
    values, vectors = ntk.spectrum.top_eigenpairs(
        lambda w, x: x @ w, jnp.zeros((30, 2)), x, num=3, rng=RNG, num_steps=16
    )
    first, second = np.linalg.eigvalsh(x.T @ x)[::-1][:2]
    np.testing.assert_allclose(values, [first, first, second], rtol=1e-6)
    flat = vectors.reshape(3, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(3), atol=1e-7)


def test_copies_that_the_first_space_does_not_see(x64):
    """Two large eigenvalues far above thirty others, each twice: four steps are accurate enough.

    In longer spaces rounding grows into the second copies, and the first space finds them alone.
    """
    values = np.concatenate([[100.0, 50.0], np.linspace(0.01, 0.1, 30)])
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 32)))[0] * np.sqrt(values)
    found, vectors = ntk.spectrum.top_eigenpairs(
        lambda w, x: x @ w, jnp.zeros((32, 2)), rows, num=2, rng=RNG, num_steps=4, rtol=1e-2
    )
    np.testing.assert_allclose(found, [100, 100], rtol=1e-4)
    flat = vectors.reshape(2, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(2), atol=1e-7)


def test_all_eigenvalues_of_a_singular_kernel(x64):
    """More outputs than parameters: the rest are zeros, with vectors still orthonormal."""
    x = networks.vectors(2, 6)
    apply = lambda w, x: jnp.tanh(x @ w)[:, None]
    values, vectors = ntk.spectrum.top_eigenpairs(apply, jnp.ones(4), x, num=5, rng=RNG)
    kernel = ntk.empirical(apply, jnp.ones(4), x, outputs="trace")
    np.testing.assert_allclose(values, np.linalg.eigvalsh(kernel)[::-1][:5], atol=1e-12)
    flat = vectors.reshape(5, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(5), atol=1e-9)


def test_trace_diagonal_and_norm(x64, case):
    apply, params, x, kernel, _ = case
    blocks = np.diagonal(kernel).reshape(12, 3).sum(1)
    for method in ("structured", "jacobian"):
        rows = ntk.spectrum.diagonal(apply, params, x, method=method, batch_size=5)
        np.testing.assert_allclose(rows, blocks, rtol=1e-10)
    for given in ({}, {"method": "vector_products", "batch_size": 5}):
        exact = ntk.spectrum.exact_trace(apply, params, x, **given)
        np.testing.assert_allclose(exact, np.trace(kernel), rtol=1e-10)
    found = ntk.spectrum.trace(apply, params, x, rng=RNG, num_probes=64, batch_size=5)
    within(found, np.trace(kernel))
    norm = ntk.spectrum.frobenius_norm(apply, params, x, rng=RNG, num_probes=64, batch_size=7)
    within(norm, np.linalg.norm(kernel))


def test_effective_rank(x64, case):
    apply, params, x, kernel, _ = case
    truth = np.trace(kernel) ** 2 / np.linalg.norm(kernel) ** 2
    found = ntk.spectrum.effective_rank(apply, params, x, rng=RNG, num_probes=64, batch_size=5)
    within(found, truth)
    # Orthonormal inputs to a linear layer: all eigenvalues are equal.
    equal = ntk.spectrum.effective_rank(lambda w, x: x @ w, jnp.ones((4, 3)), jnp.eye(4), rng=RNG)
    np.testing.assert_allclose(equal.value, 12.0, rtol=1e-12)


@pytest.mark.parametrize("centred", [False, True])
def test_alignment(x64, case, centred):
    apply, params, x, kernel, y = case
    h = np.kron(np.eye(12) - centred / 12, np.eye(3))
    dense, target = h @ kernel @ h, h @ y.reshape(-1)
    truth = target @ dense @ target / np.linalg.norm(dense) / (target @ target)
    found = ntk.spectrum.alignment(
        apply, params, x, y, rng=RNG, num_probes=64, centred=centred, batch_size=5
    )
    within(found, truth)


def test_centring_takes_the_mean_from_both_sides(x64, case):
    """A linear layer on inputs far from zero: nearly all of the kernel is in the mean."""
    *_, y = case
    x = networks.vectors(2, 12) + 5
    h = np.eye(12) - 1 / 12
    dense = np.kron(h @ x @ x.T @ h, np.eye(3))
    target = (h @ y).reshape(-1)
    truth = target @ dense @ target / np.linalg.norm(dense) / (target @ target)
    found = ntk.spectrum.alignment(
        lambda w, x: x @ w, jnp.ones((4, 3)), x, y, rng=RNG, num_probes=64, centred=True
    )
    within(found, truth)


def test_distance_between_kernels(x64, case):
    apply, params, x, kernel, _ = case
    other = jax.tree.map(lambda leaf: leaf + 0.2 * jnp.sin(1 + jnp.arange(leaf.size).reshape(
        leaf.shape)), params)  # fmt: skip
    dense = np.asarray(ntk.empirical(apply, other, x)).swapaxes(1, 2).reshape(36, 36)
    truth = 1 - np.sum(kernel * dense) / np.linalg.norm(kernel) / np.linalg.norm(dense)
    found = ntk.spectrum.distance(apply, params, other, x, rng=RNG, num_probes=64, batch_size=5)
    within(found, truth)
    same = ntk.spectrum.distance(apply, params, params, x, rng=RNG, num_probes=4)
    np.testing.assert_allclose([same.value, same.standard_error], 0, atol=1e-14)


def test_standard_errors_are_those_of_repeated_estimates(x64, case):
    """40 estimates scatter as they say, within the 22 % that their own scatter is known to (2x)."""
    apply, params, x, kernel, _ = case
    found = [
        ntk.spectrum.frobenius_norm(apply, params, x, rng=jax.random.key(seed), num_probes=16)
        for seed in range(40)
    ]
    values = np.array([float(estimate.value) for estimate in found])
    stated = np.sqrt(np.mean([float(estimate.standard_error) ** 2 for estimate in found]))
    assert abs(values.std(ddof=1) / stated - 1) < 0.45
    assert abs(values.mean() - np.linalg.norm(kernel)) < 3 * stated / 40**0.5


def test_bad_input_is_named(x64, case):
    apply, params, x, _, y = case
    with pytest.raises(ValueError, match="num=37: expected 1 to 36"):
        ntk.spectrum.top_eigenpairs(apply, params, x, num=37, rng=RNG)
    for change in ({"num": 0}, {"num_steps": 3}, {"batch_size": 2.5}, {"rtol": 0.0}):
        ((name, value),) = change.items()
        with pytest.raises(ValueError, match=f"{name}={value}: expected"):
            ntk.spectrum.top_eigenpairs(apply, params, x, **({"num": 4, "rng": RNG} | change))
    with pytest.raises(ValueError, match="batch_size=0"):
        ntk.spectrum.exact_trace(apply, params, x, batch_size=0)
    with pytest.raises(ValueError, match="method='auto'"):
        ntk.spectrum.diagonal(apply, params, x, method="auto")
    with pytest.raises(ValueError, match="num_probes=1"):
        ntk.spectrum.trace(apply, params, x, rng=RNG, num_probes=1)
    with pytest.raises(ValueError, match=r"targets have shapes \(11, 3\)"):
        ntk.spectrum.alignment(apply, params, x, y[1:], rng=RNG)
    with pytest.raises(ValueError, match="all zero"):
        ntk.spectrum.alignment(apply, params, x, 0 * y, rng=RNG)
    with pytest.raises(ValueError, match="params and other differ"):
        ntk.spectrum.distance(apply, params, params[:1], x, rng=RNG)
