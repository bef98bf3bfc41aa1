"""Sums and means over windows and all positions: exact kernels, and what a mean counts."""

import jax
import numpy as np
import pytest

from research import ntk
from tests.research.ntk.linear import AFFINE, assert_exact
from tests.research.ntk.wide import points

L = ntk.layers

LINEAR = {
    "average_pool": (
        L.serial(L.dense(1, **AFFINE), L.average_pool((2, 2), padding="SAME")), (3, 3, 2)
    ),
    "sum_pool": (L.serial(L.conv(1, (2, 2)), L.sum_pool((2, 1), strides=1)), (3, 3, 2)),
    "sum_pool_same": (L.serial(L.conv(1, (2,)), L.sum_pool((2,), padding="SAME")), (5, 2)),
    "local_pooled": (L.serial(L.conv_local(1, (2, 2)), L.global_average_pool()), (3, 3, 2)),
    "global_sum_pool": (L.serial(L.conv(1, (3,)), L.global_sum_pool()), (4, 2)),
}  # fmt: skip


def test_kernels_are_exact(x64):
    assert_exact(LINEAR)


def test_a_mean_counts_the_positions_that_exist(x64):
    """Windows of two with stride one over five positions, of which the mask keeps three or two."""
    x, mask = points(2, 5, 3), np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 0]], bool)
    kept = x * mask[..., None]
    counts = np.stack([mask[:, i].astype(int) + mask[:, i + 1] for i in range(4)], 1)
    windows = (kept[:, :4] + kept[:, 1:]) / np.maximum(counts, 1)[..., None]
    whole = kept.sum(1) / mask.sum(1)[:, None]
    windowed, pooled = L.average_pool((2,), strides=1), L.global_average_pool()

    @jax.jit
    def found(x, mask):
        kernel = windowed.kernel(x, mask1=mask, get="nngp", positions="all")
        return (
            windowed.apply((), x, mask=mask),
            kernel,
            pooled.apply((), x, mask=mask),
            pooled.kernel(x, mask1=mask, get="nngp"),
        )

    values, kernel, mean, mean_kernel = found(x, mask)
    np.testing.assert_allclose(values, windows, rtol=1e-12)
    expected = np.einsum("nsc,mtc->nmst", windows, windows) / 3
    np.testing.assert_allclose(kernel, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(mean, whole, rtol=1e-12)
    np.testing.assert_allclose(mean_kernel, whole @ whole.T / 3, rtol=1e-12, atol=1e-14)


def test_bad_input_is_named():
    for make, message in (
        (lambda: L.average_pool((2,), padding="FULL"), "padding='FULL'"),
        (lambda: L.sum_pool((2, 0)), "window=0: expected a positive"),
        (lambda: L.average_pool((2, 2)).shape((5, 3)), r"pool takes inputs \(H, W, C\)"),
        (lambda: L.average_pool((2,)).shape((5, 4, 3)), "does not fit"),
        (lambda: L.global_sum_pool().shape((3,)), r"global pool takes inputs \(H, C\)"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
