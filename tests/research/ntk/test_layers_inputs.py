"""The kernel of the inputs: products over channels, gaps that rounding does not spoil."""

import jax
import numpy as np
import pytest

from research.ntk.layers import inputs
from research.ntk.layers.state import Needs
from tests.research.ntk.wide import points

EVERYTHING = Needs(cross=True, own=True, variances=True)


def examples(x, first=True, mask=None):
    ids = np.arange(len(x))
    return inputs.Examples(x, mask, None, ids if first else -1 - ids)


@pytest.mark.parametrize("channels", [3, 12])  # few: gaps from differences; many: where needed
def test_covariances_variances_and_gaps(x64, channels):
    x, y = points(3, 4, channels), points(2, 4, channels, seed=1)
    make = jax.jit(
        lambda x, y: inputs.input_state(
            examples(x), examples(y, False), EVERYTHING, paired=False, ntk=True
        )
    )
    found = make(x, y)
    np.testing.assert_allclose(
        found.cross.nngp, np.einsum("nsc,mtc->nmst", x, y) / channels, rtol=1e-12
    )
    gap = ((x[:, None, :, None] - y[None, :, None]) ** 2).mean(-1)
    np.testing.assert_allclose(found.cross.gap, gap, rtol=1e-12)
    np.testing.assert_allclose(
        found.own2.nngp, np.einsum("nsc,ntc->nst", y, y) / channels, rtol=1e-12
    )
    np.testing.assert_allclose(found.var1, (x**2).mean(-1), rtol=1e-12)
    own = ((x[:, :, None] - x[:, None]) ** 2).mean(-1)
    np.testing.assert_allclose(found.own1.gap, own, rtol=1e-12, atol=1e-15)
    assert found.cross.ntk.shape == () and found.space == (4,) and found.channels == channels
    assert not found.same.any() and not found.gaussian


@pytest.mark.parametrize("channels", [3, 12])
@pytest.mark.parametrize("paired", [False, True])
def test_near_duplicates_keep_their_distance_in_float32(channels, paired):
    """Rounded products would leave a gap of 1e-8 of the variances no digit."""
    x = points(2, 2, channels)
    y = x + np.float32(1e-4) * points(2, 2, channels, seed=1)
    needs = Needs(cross=False, own=False, variances=True)
    found = jax.jit(
        lambda x, y: inputs.input_state(
            examples(x), examples(y, False), needs, paired=paired, ntk=False
        )
    )(x, y)
    gap = ((np.float64(x)[:, None] - np.float64(y)[None]) ** 2).mean(-1)
    gap = gap[[0, 1], [0, 1]] if paired else gap
    np.testing.assert_allclose(found.cross.gap, gap, rtol=1e-5)
    assert found.cross.ntk is None and found.own1 is None


def test_one_and_the_same_example_has_no_gap_to_itself():
    x = points(2, 12)
    found = inputs.input_state(
        examples(x), examples(x), Needs(variances=True), paired=False, ntk=False
    )
    np.testing.assert_array_equal(found.same, np.eye(2, dtype=bool))
    np.testing.assert_array_equal(np.diagonal(found.cross.gap), 0)
    plain = inputs.input_state(examples(x), examples(x), Needs(), paired=False, ntk=False)
    assert plain.cross.gap is None and plain.var1 is None


def test_masked_positions_are_zeros(x64):
    x, mask = points(2, 3, 2), np.array([[1, 1, 0], [1, 0, 1]], bool)
    both = examples(x, mask=mask)
    found = inputs.input_state(both, both, EVERYTHING, paired=False, ntk=False)
    kept = x * mask[..., None]
    np.testing.assert_allclose(found.cross.nngp, np.einsum("nsc,mtc->nmst", kept, kept) / 2)
    np.testing.assert_array_equal(found.var1[~mask], 0)
