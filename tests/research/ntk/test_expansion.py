"""Taylor expansions and kernel-vector products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research import ntk
from tests.research.ntk import networks


def shifted(params, size):
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: leaf + size * rng.normal(size=leaf.shape), params)


@pytest.fixture(scope="module")
def errors():
    """Of degrees 0 to 3, each halving of the step: [4 steps, 4 degrees], in one compilation."""
    apply, params = testing.mlp_apply, jax.tree.map(np.float64, networks.plain_mlp()[1])
    x = networks.vectors(1, 3)

    @jax.jit
    def of_degrees(size):
        moved = shifted(params, size)
        exact = apply(moved, x)
        expanded = [ntk.taylor_expand(apply, params, degree)(moved, x) for degree in range(4)]
        return jnp.stack([jnp.abs(found - exact).max() for found in expanded])

    with jax.enable_x64(True):
        return np.array([of_degrees(0.04 / 2**k) for k in range(4)])


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_error_of_the_expansion_has_the_next_order(errors, degree):
    orders = np.log2(errors[:-1, degree] / errors[1:, degree])
    np.testing.assert_allclose(orders, degree + 1, atol=0.15)


def test_linearized_network_is_linear_and_touches_the_network(x64):
    apply, params = networks.plain_mlp()
    x = networks.vectors(1, 3)
    linear = jax.jit(lambda p: ntk.linearize(apply, params)(p, x))
    np.testing.assert_allclose(linear(params), apply(params, x), rtol=1e-12)
    a, b = shifted(params, 1.0), shifted(params, -2.0)
    middle = jax.tree.map(lambda u, v: 0.3 * u + 0.7 * v, a, b)
    np.testing.assert_allclose(linear(middle), 0.3 * linear(a) + 0.7 * linear(b), rtol=1e-10)


def test_vector_product_is_the_kernel_times_the_vector(x64):
    """Whole, in blocks that fill up, that divide one of the two sets, and that are larger."""
    apply, params, x1, x2 = networks.build("mlp", num1=3, num2=4)
    vector, sizes = networks.normal(5, 4, 3), (None, 2, 3, 10)

    @jax.jit
    def both(params, vector):
        products = [ntk.vector_product(apply, params, x1, x2, batch_size=size) for size in sizes]
        kernel = ntk.empirical(apply, params, x1, x2, method="jacobian")
        return [product(vector) for product in products], kernel

    found, kernel = both(params, vector)
    for product, size in zip(found, sizes):
        expected = np.einsum("nmcd,md->nc", kernel, vector)
        np.testing.assert_allclose(product, expected, rtol=1e-9, err_msg=str(size))


def test_vector_product_of_pytree_outputs_sums_over_them(x64):
    apply = lambda w, x: {"a": x @ w, "b": jnp.tanh(x @ w).sum(1)}
    w, x = jnp.ones((4, 2)), networks.vectors(1, 3)
    vector = {"a": jnp.ones((3, 2)), "b": jnp.arange(3.0)}
    product = ntk.vector_product(apply, w, x)(vector)
    gradient = jax.grad(lambda w: sum(jnp.vdot(apply(w, x)[k], vector[k]) for k in vector))(w)
    expected = jax.jvp(lambda w: apply(w, x), (w,), (gradient,))[1]
    testing.assert_trees_close(product, expected, rtol=1e-12)


def test_complex_parameters_are_pairs_of_real_ones(x64):
    """|x w|^2: its line by hand, its kernel [[320, 80], [80, 1490]] as a product."""
    apply = lambda p, x: jnp.abs(x @ p["w"]) ** 2
    params = {"w": np.array([1 + 2j, -0.5 + 1j])}
    x = np.array([[1.0, 2.0], [3.0, -1.0]])
    product = jax.jit(lambda v: ntk.vector_product(apply, params, x)(v))
    np.testing.assert_allclose(product(np.array([1.0, 10.0])), [1120, 14980], rtol=1e-13)
    step = np.array([0.3 - 0.2j, 1j])
    moved = ntk.linearize(apply, params)({"w": params["w"] + step}, x)
    f = x @ params["w"]
    np.testing.assert_allclose(moved, abs(f) ** 2 + 2 * (f.conj() * (x @ step)).real, rtol=1e-13)
    parabola = ntk.taylor_expand(apply, params, 2)({"w": params["w"] + step}, x)
    np.testing.assert_allclose(parabola, abs(x @ (params["w"] + step)) ** 2, rtol=1e-13)


@pytest.mark.parametrize(
    "params, degree, message",
    [
        (jnp.ones(()), -1, "degree=-1: expected a whole number >= 0"),
        (jnp.ones(()), 1.0, "degree=1.0"),
        ({"w": jnp.ones(2), "n": jnp.arange(2)}, 1, r"params\['n'\] has dtype int32"),
    ],
)
def test_bad_expansions_are_named(params, degree, message):
    with pytest.raises(ValueError, match=message):
        ntk.taylor_expand(lambda p, x: x, params, degree)


def test_bad_products_are_named():
    apply, params = networks.plain_mlp()
    with pytest.raises(ValueError, match="batch_size=0"):
        ntk.vector_product(apply, params, np.ones((3, 4)), batch_size=0)
    with pytest.raises(ValueError, match="x1 and x2 hold different examples"):
        ntk.vector_product(apply, params, np.ones((3, 4)), np.ones((3, 5)))
    with pytest.raises(ValueError, match="output has dtype complex64"):
        ntk.vector_product(lambda p, x: x @ p, jnp.ones((4, 2), complex), np.ones((3, 4)))
