"""Branches and their joins: exact kernels by the algebra of sums, products and channels."""

import jax
import numpy as np
import pytest

from research import ntk
from tests.research.ntk.linear import AFFINE, assert_exact
from tests.research.ntk.wide import points

L = ntk.layers

LINEAR = {
    "branches": (
        L.sum_branches(
            L.conv(1, (2,)),
            L.serial(L.dense(1, **AFFINE), L.average_pool((3,), strides=1, padding="SAME")),
        ),
        (4, 2),
    ),
}


def test_kernels_are_exact(x64):
    assert_exact(LINEAR)


def test_joins_of_linear_branches(x64):
    """Two dense layers of one input: sums add, products multiply, channels weigh by their count."""
    x, one, two = points(4, 3), L.dense(3, weight_std=1.3), L.dense(3, bias_std=0.5)
    six = L.dense(6, weight_std=1.3)
    nets = {
        "sum": L.sum_branches(one, two),
        "product": L.product(one, two),
        "concatenate": L.concatenate(six, two),
        "residual": L.residual(one),
        "shortcut": L.residual(one, shortcut=two),
        "repeat": L.repeat(L.dense(4, weight_std=1.3), 3),
        "inputs": L.serial(L.parallel(one, two), L.sum_branches()),
    }
    plain = np.asarray(x @ x.T) / 3
    a, b = 1.69 * plain, plain + 0.25  # dense layers: their tangent kernels are the same
    y = points(4, 5, seed=1)
    other = y @ y.T / 5 + 0.25
    expected = {
        "sum": (a + b, a + b),
        "product": (a * b, 2 * a * b),
        "concatenate": ((6 * a + 3 * b) / 9,) * 2,
        "residual": (plain + a, a),
        "shortcut": (a + b, a + b),
        "repeat": (1.69**3 * plain, 3 * 1.69**3 * plain),
        "inputs": (a + other, a + other),
    }
    found = jax.jit(
        lambda x, y: {n: net.kernel((x, y) if n == "inputs" else x) for n, net in nets.items()}
    )(x, y)
    for name, (nngp, tangent) in expected.items():
        np.testing.assert_allclose(found[name].nngp, nngp, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(found[name].ntk, tangent, rtol=1e-12, err_msg=name)


def test_finite_joins_are_those_of_their_branches():
    x, one, two = points(4, 3), L.dense(2), L.dense(2, bias_std=0.5)
    rng = jax.random.key(0)

    @jax.jit
    def outputs(x):
        joined = L.branches(one, two)
        params = joined.init(rng, (3,))
        u, v = joined.apply(params, x)
        joins = (L.sum_branches(), L.product(), L.concatenate())
        return u, v, [L.serial(joined, join).apply((params, ()), x) for join in joins]

    u, v, (total, product, both) = outputs(x)
    assert np.abs(u - v).min() > 0  # branches draw weights of their own
    np.testing.assert_allclose(total, u + v, rtol=1e-6)
    np.testing.assert_allclose(product, u * v, rtol=1e-6)
    np.testing.assert_array_equal(both, np.concatenate([u, v], 1))
    copies = L.fan_out(3).apply((), x)
    assert len(copies) == 3 and all(np.array_equal(copy, x) for copy in copies)


def test_bad_input_is_named():
    x = points(2, 3)
    for make, message in (
        (lambda: L.serial(), "at least one layer"),
        (lambda: L.serial(L.dense(4), L.relu), "is no layer"),
        (lambda: L.fan_out(0), "num=0"),
        (lambda: L.repeat(L.dense(2), -1), "num=-1"),
        (lambda: L.parallel(L.dense(2)).kernel((x, x)), "1 layers for 2 inputs"),
        (lambda: L.sum_branches().kernel(x), "sum joins branches"),
        (lambda: L.residual(L.identity()).kernel(x), "share their inputs"),
        (lambda: L.residual(L.dense(4)).init(jax.random.key(0), (3,)), "different shapes"),
        (lambda: L.branches(L.dense(2)).kernel(x), "join them before"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


class Forget(L.Layer):
    """A layer of a user's own that drops the mask."""

    def shape(self, shape):
        return shape

    def forward(self, params, signal):
        return signal.replace(mask=None)

    def propagate(self, state):
        return state.replace(mask1=None, mask2=None)


@pytest.mark.parametrize("branches", [[Forget(), L.identity()], [L.identity(), Forget()]])
@pytest.mark.parametrize("join", [L.sum_branches, L.product, L.concatenate])
def test_branches_with_and_without_a_mask_are_refused(branches, join):
    net, x, mask = join(*branches), points(2, 3, 1), np.ones((2, 3), bool)
    params = net.init(jax.random.key(0), (3, 1))
    for call in (lambda: net.kernel(x, mask1=mask), lambda: net.apply(params, x, mask=mask)):
        with pytest.raises(ValueError, match="branches with and without a mask"):
            call()


def test_flattened_inputs_without_positions_keep_which_exist():
    net = L.serial(L.sum_branches(L.dense(2), L.flatten()), L.dense(2, bias_std=1.0))
    x, mask = points(3, 2), np.array([True, False, True])
    params = net.init(jax.random.key(0), (2,))
    found, kernel = net.apply(params, x, mask=mask), net.kernel(x, mask1=mask, get="nngp")
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_array_equal(kernel, np.where(np.outer(mask, mask), net.kernel(x).nngp, 0))
    y, other = points(2, 2, seed=1), np.array([False, True])
    kernel = net.kernel(x, y, mask1=mask, mask2=other, get="nngp")
    exact = 2 * x @ y.T / 2 + 1.0
    np.testing.assert_allclose(kernel, np.where(np.outer(mask, other), exact, 0), rtol=1e-5)


def test_a_join_exists_where_either_branch_does(x64):
    """A convolution reaches one position beyond those that exist, in both sets of examples."""
    net = L.serial(L.sum_branches(L.dense(2), L.conv(2, (3,))), L.dense(2, bias_std=1.0))
    x, y = points(2, 5, 2), points(1, 5, 2, seed=1)
    masks = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 1, 1]], bool), np.array([[0, 1, 0, 0, 0]], bool)
    q = np.einsum("ns,nsc,mtc,mt->nmst", masks[0], x, y, masks[1]) / 2
    padded = np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sum(padded[..., o : o + 5, o : o + 5] for o in range(3)) / 3
    wide = [np.pad(mask, ((0, 0), (1, 1))) for mask in masks]
    one, two = (w[:, :-2] | w[:, 1:-1] | w[:, 2:] for w in wide)
    expected = np.einsum("ns,nmst,mt->nmst", one, q + windows + 1.0, two)
    found = net.kernel(x, y, mask1=masks[0], mask2=masks[1], get="nngp", positions="all")
    np.testing.assert_allclose(found, expected, rtol=1e-12)
