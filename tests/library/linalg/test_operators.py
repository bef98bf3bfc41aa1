"""Jacobian, Hessian and Gauss-Newton products of an MLP against jax.hessian and dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import testing
from library.linalg import cg, hutchinson, lanczos, operators, quadrature, trees

NUM_PARAMETERS = 4 * 5 + 5 + 5 * 3 + 3


@pytest.fixture
def problem(x64):
    """Parameters, model and mean loss of a small classifier."""
    params = testing.mlp_init(jax.random.key(0), (4, 5, 3))
    inputs = jax.random.normal(jax.random.key(1), (6, 4))
    labels = jnp.arange(6) % 3

    def model(params):
        return testing.mlp_apply(params, inputs)

    def loss_of_logits(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return params, model, loss_of_logits


def flat_function(function, params):
    _, flat, unravel = trees.flatten(lambda v: v, params)
    return flat, lambda vector: function(unravel(vector))


def test_jacobian_products_are_adjoint_and_equal_jax(problem):
    params, model, _ = problem
    flat, of_vector = flat_function(model, params)
    jacobian = jax.jit(jax.jacobian(of_vector))(flat).reshape(18, NUM_PARAMETERS)
    columns = jax.jit(lambda p: jax.vmap(operators.jvp(model, p))(basis(p)))(params)
    np.testing.assert_allclose(columns.reshape(-1, 18).T, jacobian, rtol=1e-12, atol=1e-14)
    cotangents = jnp.eye(18).reshape(18, 6, 3)
    rows = jax.jit(lambda p: jax.vmap(operators.vjp(model, p))(cotangents))(params)
    rows = jax.vmap(lambda row: jax.flatten_util.ravel_pytree(row)[0])(rows)
    np.testing.assert_allclose(rows, jacobian, rtol=1e-12, atol=1e-14)


def dense(operator_at, params):
    return jax.jit(lambda p: operators.dense(operator_at(p), p))(params)


def basis(like):
    _, flat, unravel = trees.flatten(lambda v: v, like)
    return jax.vmap(unravel)(jnp.eye(flat.size))


def test_hvp_is_the_hessian_and_symmetric(problem):
    params, model, loss = problem
    flat, of_vector = flat_function(lambda p: loss(model(p)), params)
    hessian = jax.jit(jax.hessian(of_vector))(flat)
    found = dense(lambda p: operators.hvp(lambda q: loss(model(q)), p), params)
    np.testing.assert_allclose(found, hessian, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(found, found.T, atol=1e-14)


def test_ggn_is_the_product_of_its_factors_and_psd(problem):
    params, model, loss = problem
    flat, of_vector = flat_function(model, params)
    jacobian = jax.jit(jax.jacobian(of_vector))(flat).reshape(18, NUM_PARAMETERS)
    curvature = jax.hessian(loss)(model(params)).reshape(18, 18)
    found = dense(lambda p: operators.ggn(model, loss, p), params)
    np.testing.assert_allclose(found, jacobian.T @ curvature @ jacobian, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(found, found.T, atol=1e-14)
    eigenvalues = np.linalg.eigvalsh(found)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


def test_ggn_of_a_linear_model_is_its_hessian(problem):
    _, _, loss = problem
    inputs = jax.random.normal(jax.random.key(3), (6, 4))
    model = lambda w: inputs @ w
    weights = jax.random.normal(jax.random.key(4), (4, 3))
    ggn = dense(lambda w: operators.ggn(model, loss, w), weights)
    hvp = dense(lambda w: operators.hvp(lambda v: loss(model(v)), w), weights)
    np.testing.assert_allclose(ggn, hvp, rtol=1e-10, atol=1e-14)


def test_mean_over_batches_is_the_operator_of_the_whole(problem):
    params, _, _ = problem
    inputs = jax.random.normal(jax.random.key(1), (8, 4))

    def loss(params, inputs):
        return jnp.mean(testing.mlp_apply(params, inputs) ** 4)

    vector = trees.gaussian(jax.random.key(5), params)
    whole = operators.hvp(lambda p: loss(p, inputs), params)(vector)
    parts = operators.mean_over(
        lambda batch: operators.hvp(lambda p: loss(p, batch), params), inputs.reshape(4, 2, 4)
    )
    testing.assert_trees_close(jax.jit(parts)(vector), whole, rtol=1e-10, atol=1e-13)


def test_every_solver_on_the_hessian_of_an_mlp(problem):
    params, model, loss = problem
    objective = lambda p: loss(model(p))
    matrix = dense(lambda p: operators.hvp(objective, p), params)
    values, vectors = np.linalg.eigh(matrix)

    @jax.jit
    def solve(params, rng):
        hessian = operators.hvp(objective, params)
        pairs = lanczos.top_eigenpairs(hessian, params, 3, rng, NUM_PARAMETERS)
        rules = quadrature.estimate(hessian, params, rng, 50, 10)
        trace = hutchinson.trace(hessian, params, rng, 400)
        curved = operators.shifted(operators.ggn(model, loss, params), 1e-3)
        return pairs, rules, trace, cg.solve(curved, jax.grad(objective)(params), rtol=1e-10)

    pairs, rules, trace, step = solve(params, jax.random.key(0))
    np.testing.assert_allclose(pairs.values, values[::-1][:3], rtol=1e-10)
    overlap = jax.vmap(lambda v: trees.flatten(lambda u: u, v)[1])(pairs.vectors)
    np.testing.assert_allclose(
        np.abs(np.einsum("np,pn->n", overlap, vectors[:, ::-1][:, :3])), 1, atol=1e-9
    )
    assert abs(trace.value - np.trace(matrix)) < 4 * trace.standard_error  # false alarm 6e-5
    squares = quadrature.trace(rules, jnp.square)
    assert abs(squares.value - np.sum(matrix**2)) < 4 * squares.standard_error  # false alarm 6e-5
    ggn = dense(lambda p: operators.ggn(model, loss, p), params)
    gradient = trees.flatten(lambda v: v, jax.grad(objective)(params))[1]
    expected = np.linalg.solve(ggn + 1e-3 * np.eye(NUM_PARAMETERS), gradient)
    assert step.converged
    np.testing.assert_allclose(trees.flatten(lambda v: v, step.x)[1], expected, rtol=1e-6)


def test_a_mean_over_no_batch_is_refused():
    with pytest.raises(ValueError, match="no batch"):
        operators.mean_over(lambda b: lambda v: v, jnp.zeros((0, 3)))
