"""Decomposed kernels: eigenvalues, ridge, condition, and what is said of singular ones."""

import numpy as np
import pytest

from research import ntk


def test_condition_number(x64):
    matrix = np.diag([1.0, 4.0, 9.0])
    parts = ntk.eigen.decompose(matrix, 1.0)
    np.testing.assert_allclose(parts.condition_number, 5.0, rtol=1e-14)
    assert parts.num_unresolved == 0
    # No kernel has a negative eigenvalue: it is an error, and must not eat up the ridge.
    parts = ntk.eigen.decompose(np.diag([-0.5, 1.0]), 0.1)
    np.testing.assert_allclose(parts.values, [0.1, 1.1], rtol=1e-14)


def test_a_kernel_is_its_parts(x64):
    factor = np.random.default_rng(0).normal(size=(6, 8))
    kernel = factor @ factor.T
    parts = ntk.eigen.decompose(kernel, 0.3)
    expected = np.linalg.eigvalsh(kernel) + 0.3
    np.testing.assert_allclose(parts.values, expected, rtol=1e-12)
    again = parts.vectors * parts.values @ parts.vectors.T
    np.testing.assert_allclose(again, kernel + 0.3 * np.eye(6), rtol=1e-12)
    np.testing.assert_allclose(parts.vectors @ parts.vectors.T, np.eye(6), atol=1e-13)
    assert parts.ridge == 0.3


def test_float32_kernels_are_as_noisy_as_their_entries():
    """The cutoff follows the dtype of the kernel, the decomposition is in float64 all the same."""
    kernel = np.diag(np.float32([1e-7, 1.0, 2.0]))
    with pytest.warns(RuntimeWarning, match="weights of 3 rows.*1 eigenvalues are below"):
        parts = ntk.eigen.decompose(kernel, name="weights")
    assert parts.values.dtype == np.float64 and parts.num_unresolved == 1
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(parts.cutoff, 4 * 3**0.5 * 2 * eps, rtol=1e-6)
    assert parts.condition_number == pytest.approx(2e7)


def test_the_cutoff_grows_with_the_root_of_the_size():
    """Errors of D entries a row, each eps: an eigenvalue is off by 2 sqrt(D) eps (Wigner)."""
    cutoff = lambda dim: ntk.eigen.decompose(np.eye(dim, dtype=np.float32)).cutoff
    np.testing.assert_allclose(cutoff(400) / cutoff(25), 4, rtol=1e-6)
    np.testing.assert_allclose(cutoff(25), 20 * np.finfo(np.float32).eps, rtol=1e-6)


def test_equal_rows_are_named(x64):
    x = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    with pytest.warns(RuntimeWarning, match=r"rows 0 and 2 are equal"):
        ntk.eigen.decompose(x @ x.T)


@pytest.mark.parametrize(
    "kernel, ridge, message",
    [
        (np.ones((2, 3)), 0.0, r"kernel has shape \(2, 3\): expected a square"),
        (np.ones((0, 0)), 0.0, "expected a square"),
        (np.eye(2), -1.0, "ridge=-1.0"),
        (np.eye(2), np.nan, "ridge=nan"),
        (np.eye(2), np.inf, "ridge=inf"),
        (np.eye(2), np.ones(2), "ridge="),
        (1j * np.eye(2), 0.0, "kernel has dtype complex128: expected floats"),
        (np.full((2, 2), np.nan), 0.0, "not finite"),
    ],
)
def test_bad_input_is_named(kernel, ridge, message):
    with pytest.raises(ValueError, match=message):
        ntk.eigen.decompose(kernel, ridge)
