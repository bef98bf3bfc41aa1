"""Taylor expansions and kernel-vector products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research import ntk
from tests.research.ntk import networks


def shifted(params, size):
    keys = iter(jax.random.split(jax.random.key(7), len(jax.tree.leaves(params))))
    return jax.tree.map(
        lambda leaf: leaf + size * jax.random.normal(next(keys), leaf.shape, leaf.dtype), params
    )


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_error_of_the_expansion_has_the_next_order(x64, degree):
    apply, params = networks.plain_mlp()
    x = networks.vectors(1, 3)

    @jax.jit
    def error(size):
        expanded = ntk.taylor_expand(apply, params, degree)
        moved = shifted(params, size)
        return jnp.abs(expanded(moved, x) - apply(moved, x)).max()

    errors = np.array([error(0.04 / 2**k) for k in range(4)])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), degree + 1, atol=0.15)


def test_linearized_network_is_linear_and_touches_the_network(x64):
    apply, params = networks.plain_mlp()
    x = networks.vectors(1, 3)
    linear = jax.jit(lambda p: ntk.linearize(apply, params)(p, x))
    np.testing.assert_allclose(linear(params), apply(params, x), rtol=1e-12)
    a, b = shifted(params, 1.0), shifted(params, -2.0)
    middle = jax.tree.map(lambda u, v: 0.3 * u + 0.7 * v, a, b)
    np.testing.assert_allclose(linear(middle), 0.3 * linear(a) + 0.7 * linear(b), rtol=1e-10)


@pytest.mark.parametrize("batch_size", [None, 2, 3, 10])
def test_vector_product_is_the_kernel_times_the_vector(x64, batch_size):
    apply, params, x1, x2 = networks.build("mlp", num1=3, num2=4)
    vector = jax.random.normal(jax.random.key(5), (4, 3))

    @jax.jit
    def both(params, vector):
        product = ntk.vector_product(apply, params, x1, x2, batch_size=batch_size)
        return product(vector), ntk.empirical(apply, params, x1, x2, method="jacobian")

    found, kernel = both(params, vector)
    np.testing.assert_allclose(found, jnp.einsum("nmcd,md->nc", kernel, vector), rtol=1e-9)


def test_vector_product_of_pytree_outputs_sums_over_them(x64):
    apply = lambda w, x: {"a": x @ w, "b": jnp.tanh(x @ w).sum(1)}
    w, x = jnp.ones((4, 2)), networks.vectors(1, 3)
    vector = {"a": jnp.ones((3, 2)), "b": jnp.arange(3.0)}
    product = ntk.vector_product(apply, w, x)(vector)
    gradient = jax.grad(lambda w: sum(jnp.vdot(apply(w, x)[k], vector[k]) for k in vector))(w)
    expected = jax.jvp(lambda w: apply(w, x), (w,), (gradient,))[1]
    testing.assert_trees_close(product, expected, rtol=1e-12)


def test_bad_degree_is_named():
    with pytest.raises(ValueError, match="degree=-1"):
        ntk.taylor_expand(lambda p, x: x, jnp.ones(()), -1)
