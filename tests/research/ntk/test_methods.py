"""Three ways to one tile of the empirical kernel give the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from tests.research.ntk import networks

SMALL = dict(rtol=1e-9, atol=1e-11)  # atol for entries that are zero but for rounding


def contract(full, outputs):
    """Diagonal and trace of [N1, N2, *O, *O], by definition."""
    half = (full.ndim - 2) // 2
    size = int(np.prod(full.shape[2 : 2 + half]))
    flat = np.asarray(full).reshape(*full.shape[:2], size, size)
    diagonal = np.einsum("nmcc->nmc", flat)
    if outputs == "trace":
        return diagonal.sum(-1)
    return diagonal.reshape(full.shape[: 2 + half])


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_all_methods_and_outputs_agree_and_are_positive_semi_definite(x64, name):
    apply, params, x1, x2 = networks.build(name)
    x = np.concatenate([x1, x2])

    @jax.jit
    def kernels(params, x1, x2, x):
        one = lambda method, outputs, *x: ntk.empirical(
            apply, params, *x, method=method, outputs=outputs
        )
        square = {out: one("structured", out, x) for out in ("full", "diagonal")}
        trace = one("structured", "trace", x1, x2)
        return one("jacobian", "full", x), one("vector_products", "full", x1, x2), square, trace

    full, products, square, trace = kernels(params, x1, x2, x)
    assert full.shape[:2] == (5, 5) and full.dtype == jnp.float64
    np.testing.assert_allclose(products, full[:3, 3:], **SMALL)
    np.testing.assert_allclose(square["full"], full, **SMALL)
    np.testing.assert_allclose(square["diagonal"], contract(full, "diagonal"), **SMALL)
    np.testing.assert_allclose(trace, contract(full, "trace")[:3, 3:], **SMALL)
    square = square["full"]
    size = len(x) * int(np.prod(square.shape[2 : square.ndim // 2 + 1]))
    half = square.ndim // 2 - 1
    order = (0, *range(2, 2 + half), 1, *range(2 + half, square.ndim))
    matrix = np.transpose(square, order).reshape(size, size)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12, atol=1e-12)
    values = np.linalg.eigvalsh(matrix)
    assert values[0] > -1e-12 * values[-1] and values[0] < values[-1]


@pytest.mark.parametrize("method", ["jacobian", "vector_products"])
def test_diagonal_and_trace_of_the_other_methods(x64, method):
    apply, params, x1, x2 = networks.build("mlp")
    full = ntk.empirical(apply, params, x1, x2, method=method)
    for outputs in ("diagonal", "trace"):
        found = ntk.empirical(apply, params, x1, x2, method=method, outputs=outputs)
        np.testing.assert_allclose(found, contract(full, outputs), rtol=1e-12, atol=1e-13)
