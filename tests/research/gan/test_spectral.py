"""Spectral norm against the singular value decomposition, carried state, layers, bad input."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.gan import spectral

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(12, 7))
VECTOR = spectral.init(jax.random.key(0), MATRIX.shape)


def largest(matrix):
    return np.linalg.svd(np.float64(matrix), compute_uv=False)[0]


def test_the_largest_singular_value(x64):
    u = spectral.init(jax.random.key(1), MATRIX.shape, jnp.float64)
    assert abs(float(jnp.linalg.norm(u)) - 1) < 1e-14
    sigma, u = spectral.norm(MATRIX, u, 200)
    np.testing.assert_allclose(sigma, largest(MATRIX), rtol=1e-10)
    right = np.linalg.svd(MATRIX)[2][0]
    np.testing.assert_allclose(abs(u @ right), 1, rtol=1e-10)


def test_the_largest_singular_value_in_float32():
    sigma, u = spectral.norm(jnp.float32(MATRIX), VECTOR, 100)
    assert sigma.dtype == u.dtype == jnp.float32
    np.testing.assert_allclose(sigma, largest(np.float32(MATRIX)), rtol=1e-6)


def test_one_iteration_by_hand(x64):
    unit = lambda x: x / np.linalg.norm(x)
    v = unit(MATRIX @ np.asarray(VECTOR))
    u = unit(MATRIX.T @ v)
    found = spectral.norm(MATRIX, VECTOR)
    testing.assert_trees_close(found, (v @ MATRIX @ u, u), rtol=1e-13)
    assert float(found[0]) < largest(MATRIX)


def test_a_scan_of_steps_is_the_carried_state(x64):
    matrix = jnp.asarray(MATRIX)
    step = lambda u, _: spectral.norm(matrix, u)[::-1]
    u, sigmas = jax.jit(lambda u: jax.lax.scan(step, u, None, 5))(jnp.float64(VECTOR))
    assert (np.diff(sigmas) > 0).all()
    testing.assert_trees_close((sigmas[-1], u), spectral.norm(matrix, VECTOR, 5), rtol=1e-14)


def test_the_gradient_holds_vectors_constant(x64):
    matrix = jnp.asarray(MATRIX)
    _, u = spectral.norm(matrix, VECTOR, 3)
    v = MATRIX @ np.asarray(u)
    v, new = v / np.linalg.norm(v), np.asarray(spectral.norm(matrix, u)[1])
    grad, of_u = jax.grad(lambda w, u: spectral.norm(w, u)[0], (0, 1))(matrix, u)
    np.testing.assert_allclose(grad, np.outer(v, new), rtol=1e-12)
    assert not of_u.any()
    # Converged, it is the gradient of the norm itself.
    grad = jax.grad(lambda w: spectral.norm(w, VECTOR, 300)[0])(matrix)
    expected = testing.finite_difference_gradient(lambda w: jnp.linalg.norm(w, 2), matrix)
    np.testing.assert_allclose(grad, expected, atol=1e-8)


def test_nothing_has_no_norm_and_divides_nothing():
    sigma, u = spectral.norm(jnp.zeros((3, 2)), jnp.array([1.0, 0.0]))
    assert sigma == 0 and not u.any()
    sigma, _ = spectral.norm(1e-8 * jnp.eye(2), jnp.array([1.0, 0.0]), epsilon=1e-12)
    np.testing.assert_allclose(sigma, 1e-8, rtol=1e-6)
    layer = spectral.Dense(2, kernel_init=nn.initializers.zeros)
    x = jnp.ones((1, 3))
    assert not layer.apply(layer.init(jax.random.key(0), x), x).any()


IMAGES = RNG.normal(size=(2, 5, 4, 3))
LABELS = np.array([3, 0, 5])


def plain_conv(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (2, 1), "VALID", dimension_numbers=numbers)


normal = nn.initializers.normal()
LAYERS = {
    "conv": (
        spectral.Conv(6, (3, 2), (2, 1), "VALID", kernel_init=normal),
        IMAGES,
        plain_conv,
        (18, 6),
    ),
    "dense": (
        spectral.Dense(6, kernel_init=normal, num_iterations=3),
        IMAGES,
        lambda x, kernel: x @ kernel,
        (3, 6),
    ),
    "no bias": (
        spectral.Dense(6, use_bias=False, epsilon=0.9, kernel_init=normal),
        IMAGES,
        lambda x, kernel: x @ kernel,
        (3, 6),
    ),
    "embed": (
        spectral.Embed(6, 4, embedding_init=normal),
        LABELS,
        lambda x, table: table[x],
        (6, 4),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(x64, name):
    """A layer is the plain one of its weight over `norm`; only `update` moves its vector."""
    layer, x, plain, shape = LAYERS[name]
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    assert set(variables) == {"params", "spectral"} and set(variables["spectral"]) == {"u"}
    params, u = variables["params"], variables["spectral"]["u"]
    assert set(params) == {"embedding"} | set() if name == "embed" else "kernel" in params
    assert ("bias" in params) == (name in ("conv", "dense"))
    if "bias" in params:
        params = {**params, "bias": jnp.arange(6.0)}
    variables = {**variables, "params": params}
    weight = params["embedding" if name == "embed" else "kernel"]
    sigma, new = spectral.norm(
        weight.reshape(shape), u, layer.num_iterations, epsilon=layer.epsilon
    )
    expected = plain(x, weight / max(sigma, layer.epsilon))
    expected += params["bias"].reshape((1,) * (x.ndim - 1) + (-1,)) if "bias" in params else 0
    apply = jax.jit(functools.partial(layer.apply, mutable=["spectral"]), static_argnames="update")
    y, kept = apply(variables, x)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    assert (kept["spectral"]["u"] == u).all()
    y, moved = apply(variables, x, update=True)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    np.testing.assert_allclose(moved["spectral"]["u"], new, rtol=1e-12)
    assert not (new == u).all()


def test_defaults_of_layers():
    dense, conv, embed = spectral.Dense(4), spectral.Conv(4), spectral.Embed(6, 4)
    assert dense.epsilon == conv.epsilon == embed.epsilon == spectral.EPSILON == 1e-6
    assert dense.num_iterations == conv.num_iterations == embed.num_iterations == 1
    variables = jax.jit(conv.init)(jax.random.key(0), IMAGES)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (3, 3, 3, 4)
    # Orthogonal weights have norm 1 already, and images keep their size.
    y = conv.apply(variables, jnp.float32(IMAGES))
    expected = jax.lax.conv(
        jnp.float32(IMAGES).transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), "SAME"
    )
    np.testing.assert_allclose(y, expected.transpose(0, 2, 3, 1), atol=1e-5)


WRONG = {
    r"state has shape \(12,\): expected \(7,\), a vector u \[N\]": lambda: spectral.norm(
        MATRIX, np.ones(12)
    ),
    r"matrix has shape \(3,\): expected \[M, N\]": lambda: spectral.norm(np.ones(3), np.ones(3)),
    "num_iterations=0: expected a positive whole number": lambda: spectral.norm(
        MATRIX, VECTOR, num_iterations=0
    ),
    r"shape=\(3, 3, 2, 2\): expected that of a matrix": lambda: spectral.init(
        jax.random.key(0), (3, 3, 2, 2)
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
