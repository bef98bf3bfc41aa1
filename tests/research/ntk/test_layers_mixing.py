"""Fixed linear maps of positions: exact kernels, interpolation, choices of positions, masks."""

import jax
import numpy as np
import pytest

from research import ntk
from tests.research.ntk.linear import assert_exact
from tests.research.ntk.wide import points

L = ntk.layers

LINEAR = {
    "mix": (
        L.serial(L.dense(1), L.mix([[1, 0.5, 0], [0, 1, -2]]), L.select([2, 0], size=3, axis=1)),
        (3, 3, 2),
    ),
    "mix_pooled": (
        L.serial(L.dense(1), L.mix([[1, 0.5, 0], [0, 1, -2]]), L.global_average_pool()), (3, 2)
    ),
    "resize_pooled": (
        L.serial(L.dense(1), L.resize((5,)), L.average_pool((2,), padding="SAME")), (3, 2)
    ),
    "resize": (L.serial(L.dense(1), L.resize((4, 2))), (3, 3, 2)),
}  # fmt: skip


def test_kernels_are_exact(x64):
    assert_exact(LINEAR)


def test_resize_is_that_of_images(x64):
    x = points(2, 3, 4, 2)
    for method in ("nearest", "cubic"):
        found = jax.jit(L.resize((5, 2), method=method).apply)((), x)
        expected = jax.image.resize(x, (2, 5, 2, 2), method)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_chosen_and_mixed_positions(x64):
    """By hand; an output exists where it sees a position that does."""
    x, mask = points(2, 3, 2), np.array([[1, 1, 0], [0, 1, 1]], bool)
    kept = x * mask[..., None]
    chosen = jax.jit(L.select([-1, 0], size=3).apply)((), x)
    np.testing.assert_array_equal(chosen, x[:, [2, 0]])
    net = L.mix([[2.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    expected = np.stack([2 * kept[:, 0] + kept[:, 2], kept[:, 2]], 1)
    after = L.serial(net, L.dense(1, bias_std=0.5))  # its bias is there where positions are
    found, kernel = jax.jit(
        lambda x: (net.apply((), x, mask=mask), after.kernel(x, mask1=mask, positions="all").nngp)
    )(x)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    exists = np.array([[True, False], [True, True]])  # the second of example 0 sees nothing
    both = exists[:, None, :, None] & exists[None, :, None, :]
    products = np.einsum("nsc,mtc->nmst", expected, expected) / 2 + 0.25
    np.testing.assert_allclose(kernel, np.where(both, products, 0), rtol=1e-12)


def test_bad_input_is_named():
    for make, message in (
        (lambda: L.mix([1.0, 2.0]), "mix of shape"),
        (lambda: L.mix([[1.0, 2.0]]).shape((3, 4)), "a matrix of 2 columns on axis 0"),
        (lambda: L.select([3], size=3), r"index=\[3\]: expected integers in \[-3, 3\)"),
        (lambda: L.resize((2,), method="area"), "method='area'"),
        (lambda: L.resize((2,)).shape((3, 4, 1)), "does not fit inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
