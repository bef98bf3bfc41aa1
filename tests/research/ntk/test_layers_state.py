"""What travels through an infinitely wide network: layouts, gaps, computations apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.ntk.layers import state


def test_what_is_computed_apart_is_differentiated_and_mapped(x64):
    def total(x, size):
        pairs = state.Pairs(nngp=x, gap=x**2, ntk=None, full=True)
        function = lambda p: p.replace(nngp=p.nngp * p.gap, gap=p.nngp + 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state, "_LARGE", size)
            after = state.apart(function, pairs)
        assert after.ntk is None
        return (after.nngp * after.gap).sum()  # x^3 (x + 1)

    x = jax.random.normal(jax.random.key(0), (2, 3))
    text = str(jax.make_jaxpr(lambda x: total(x, 1))(x))
    assert "cond" in text
    grads = jax.jit(jax.vmap(jax.grad(lambda x: total(x, 1))))(x)
    np.testing.assert_allclose(grads, 4 * x**3 + 3 * x**2, rtol=1e-12)


def test_gap_of_rounded_numbers_is_no_noise():
    total, nngp = np.float32([1.0, 1.0, 1.0]), np.float32([1.0, 1.0 - 1e-7, 0.9])
    gap = jax.jit(state.gap_of)(total, total, nngp)
    np.testing.assert_allclose(gap, [0, 0, 0.2], rtol=1e-6)


def some_pairs(paired=False, full=True):
    shape = (2,) * (2 - paired) + (3,) * (1 + full)
    nngp = np.arange(float(np.prod(shape))).reshape(shape)
    return state.Pairs(nngp=nngp, gap=2 * nngp, ntk=np.zeros(()), paired=paired, full=full)


def test_single_positions_meet_in_every_layout():
    """Values [N, S] of both sides against sums by hand."""
    first, second = np.arange(6.0).reshape(2, 3), 10 * np.arange(6.0).reshape(2, 3)
    for paired in (False, True):
        for full in (False, True):
            pairs = some_pairs(paired, full)
            one, two = pairs.sides(first, second)
            total = np.broadcast_to(one + two, pairs.nngp.shape)
            n, m = (1, 1) if paired else (1, 0)
            lead = (1,) if paired else (1, 0)
            at = (*lead, 2, 1) if full else (*lead, 2)
            assert total[at] == first[n, 2] + second[m, 1 if full else 2]


def test_equal_positions_of_two_axes():
    array = np.random.default_rng(0).normal(size=(2, 3, 3, 4, 4))
    found = state.equal_positions(array, 1)
    np.testing.assert_array_equal(found, np.einsum("nsstt->nst", array).astype(np.float32))
    flat = some_pairs().at_equal_positions()
    assert not flat.full and flat.ntk.ndim == 0
    np.testing.assert_array_equal(flat.nngp, np.einsum("nmss->nms", some_pairs().nngp))


def make_state(mask, same):
    pairs = some_pairs()
    var = np.full((2, 3), 40.0)
    return state.State(
        cross=pairs, own1=None, own2=None, var1=var, var2=2 * var, mask1=mask, mask2=mask,
        pattern1=None, pattern2=None, same=same, channels=1, space=(3,),
    )  # fmt: skip


def test_masked_positions_are_zeros_whose_gap_is_the_others_variance():
    mask = np.array([[1, 1, 0], [1, 1, 1]], bool)
    hidden = make_state(mask, np.eye(2, dtype=bool)).hide_masked()
    both = mask[:, None, :, None] & mask[None, :, None, :]
    np.testing.assert_array_equal(hidden.cross.nngp, np.where(both, some_pairs().nngp, 0))
    assert hidden.cross.gap[0, 0, 2, 0] == 80 and hidden.cross.gap[0, 0, 2, 2] == 0
    assert hidden.cross.gap[1, 1, 2, 2] == 2 * some_pairs().nngp[1, 1, 2, 2]
    np.testing.assert_array_equal(hidden.var1, np.where(mask, 40, 0))
    assert make_state(None, np.eye(2, dtype=bool)).hide_masked().mask1 is None


def test_only_one_position_of_one_example_is_identical():
    here = make_state(None, np.eye(2, dtype=bool))
    refreshed = here.refresh_gaps().cross
    expected = 120 - 2 * some_pairs().nngp
    same = np.eye(2, dtype=bool)[:, :, None, None] & np.eye(3, dtype=bool)
    np.testing.assert_array_equal(refreshed.gap, np.where(same, 0, expected))


def test_needs_are_united():
    one, two = state.Needs(cross=True), state.Needs(variances=True)
    assert one.union(two) == (True, False, True)


def test_small_functions_where_they_are_singular():
    x = jnp.array([0.0, 4.0])
    np.testing.assert_array_equal(state.safe_sqrt(x), [0, 2])
    np.testing.assert_array_equal(jax.grad(lambda x: state.safe_sqrt(x).sum())(x), [0, 0.25])
    np.testing.assert_array_equal(state.safe_reciprocal(x), [0, 0.25])
    np.testing.assert_array_equal(
        jax.grad(lambda x: state.safe_reciprocal(x).sum())(x), [0, -1 / 16]
    )
    assert state.widest(jnp.ones((), jnp.bfloat16)) == jnp.float32
    assert state.apply(abs, None) is None and state.apply(abs, -2) == 2
    assert float(state.highest("i,i->", x, x)) == 16
