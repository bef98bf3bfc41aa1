"""Infinite width against finite networks drawn at random, layer by layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk

L = ntk.layers
AFFINE = {"weight_std": 1.4, "bias_std": 0.3}

# name: layers with one output channel and one layer of weights, shape of an input. The tangent
# kernel of a network that is linear in its parameters does not depend on them: it is exact.
LINEAR = {
    "dense": (L.dense(1, **AFFINE), (3, 2)),
    "standard": (L.dense(1, parameterisation="standard", **AFFINE), (3, 2)),
    "conv": (L.conv(1, (3, 2), **AFFINE), (3, 4, 2)),
    "conv_strides": (L.conv(1, (2, 2), strides=2, padding="VALID"), (4, 5, 2)),
    "conv_circular": (L.conv(1, (2, 3), padding="CIRCULAR", strides=(1, 2), **AFFINE), (4, 3, 2)),
    "conv_standard": (L.conv(1, (2, 2), parameterisation="standard"), (3, 3, 2)),
    "conv_1d": (L.conv(1, (3,), dilations=2, **AFFINE), (5, 2)),
    "conv_3d": (L.conv(1, (2, 3, 2)), (2, 2, 2, 1)),
    "conv_large": (L.conv(1, (3, 5), strides=(2, 1)), (5, 4, 1)),
    "conv_transpose": (L.conv_transpose(1, (3, 2), strides=2, **AFFINE), (2, 3, 2)),
    "conv_transpose_valid": (
        L.conv_transpose(1, (2, 3), strides=(1, 2), padding="VALID"), (2, 3, 2)
    ),
    "conv_local": (L.conv_local(1, (2, 2), **AFFINE), (3, 3, 2)),
    "average_pool": (
        L.serial(L.dense(1, **AFFINE), L.average_pool((2, 2), padding="SAME")), (3, 3, 2)
    ),
    "sum_pool": (L.serial(L.conv(1, (2, 2)), L.sum_pool((2, 1), strides=1)), (3, 3, 2)),
    "local_pooled": (L.serial(L.conv_local(1, (2, 2)), L.global_average_pool()), (3, 3, 2)),
    "global_sum_pool": (L.serial(L.conv(1, (3,)), L.global_sum_pool()), (4, 2)),
    "mix": (
        L.serial(L.dense(1), L.mix([[1, 0.5, 0], [0, 1, -2]]), L.select([2, 0], size=3, axis=1)),
        (3, 3, 2),
    ),
    "resize": (L.serial(L.dense(1), L.resize((4, 2))), (3, 3, 2)),
    "branches": (
        L.sum_branches(
            L.conv(1, (2,)),
            L.serial(L.dense(1, **AFFINE), L.average_pool((3,), strides=1, padding="SAME")),
        ),
        (4, 2),
    ),
}  # fmt: skip


def tangents(outputs, params):
    """Outputs and their tangent kernel: [N, *S] and [N, *S, N, *S]."""
    jacobians = jax.tree.leaves(jax.jacrev(outputs)(params))
    values = outputs(params)
    rows = jnp.concatenate([j.reshape(values.size, -1) for j in jacobians], 1)
    return values, (rows @ rows.T).reshape(*values.shape, *values.shape)


@pytest.mark.parametrize("name", LINEAR)
def test_kernels_of_linear_layers_are_exact(x64, name):
    net, shape = LINEAR[name]
    x = jax.random.normal(jax.random.key(1), (2, *shape))
    kernels = net.kernel(x, positions="all")

    @jax.jit
    def exact(x):
        params = net.init(jax.random.key(0), shape)
        return tangents(lambda p: net.apply(p, x)[..., 0], params)[1]

    theta = exact(x)  # [N, *S, M, *S]
    num = (theta.ndim - 2) // 2
    order = [0, 1 + num, *(axis for i in range(num) for axis in (1 + i, 2 + num + i))]
    theta = theta.transpose(order)
    np.testing.assert_allclose(kernels.ntk, theta, rtol=1e-10, atol=1e-12)
    if "standard" not in name:
        np.testing.assert_allclose(kernels.nngp, theta, rtol=1e-10, atol=1e-12)


WIDTH = 16


def hidden(*layers, **options):
    """One hidden layer before, a readout after: the kernels' means are exact at every width."""
    affine = AFFINE | options
    return L.serial(L.dense(WIDTH, **affine), L.gelu(), *layers, L.dense(1, **affine))


# name: network, shape of an input. Finite kernels average to the infinite ones exactly.
EXACT = {
    "dense": (hidden(), (3,)),
    "standard": (hidden(parameterisation="standard"), (3,)),
    "conv": (
        L.serial(L.conv(WIDTH, (2, 2), **AFFINE), L.relu(), L.conv(WIDTH, (3, 2), strides=2),
                 L.average_pool((2, 2), padding="SAME"), L.flatten(), L.dense(1)),
        (3, 4, 2),
    ),
    "residual": (hidden(L.residual(L.dense(WIDTH, **AFFINE))), (3,)),
    "concatenate": (hidden(L.concatenate(L.identity(), L.dense(8))), (3,)),
    "product": (L.serial(L.product(L.dense(WIDTH), L.dense(WIDTH, **AFFINE)), L.dense(1)), (3,)),
    "dropout": (hidden(L.dropout(0.4)), (3,)),
    "parallel": (
        L.serial(
            L.parallel(hidden(), L.serial(L.dense(WIDTH), L.erf(), L.dense(1))), L.sum_branches()
        ),
        ((3,), (2,)),
    ),
    "attention_sqrt": (
        L.serial(
            L.self_attention(
                WIDTH, num_heads=2, key_features=4, mechanism="identity", scaling="sqrt",
                query_std=0.9, value_std=1.2, **AFFINE,
            ),
            L.flatten(), L.dense(1),
        ),
        (3, 2),
    ),
}  # fmt: skip


def inputs(shape, num, seed):
    if isinstance(shape[0], tuple):
        return tuple(inputs(s, num, seed + i) for i, s in enumerate(shape))
    return jax.random.normal(jax.random.key(seed), (num, *shape))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def draws(net, shape, num, x, dropped=None):
    """Kernels of finite networks with one output, each [num, N, N]."""

    def one(rng):
        draw_rng, drop_rng = jax.random.split(rng)
        params = net.init(draw_rng, shape)

        def outputs(p):
            return net.apply(p, x, rng=drop_rng if dropped else None)[..., 0]

        values, theta = tangents(outputs, params)
        return values[:, None] * values[None], theta

    return jax.vmap(one)(jax.random.split(jax.random.key(0), num))


@pytest.mark.parametrize("name", EXACT)
def test_mean_of_finite_kernels_is_the_infinite_one(name):
    net, shape = EXACT[name]
    x, num = inputs(shape, 3, 1), 4000
    exact = net.kernel(x)
    for found, wanted in zip(draws(net, shape, num, x, name == "dropout"), (exact.nngp, exact.ntk)):
        error = found.mean(0) - wanted
        # 6 distinct entries, two kernels, 9 networks: a false alarm in 1 of 140 seeds; seed fixed.
        assert np.all(np.abs(error) < 4 * found.std(0) / num**0.5), error / wanted
        # The draws must be able to tell: a tenth of the kernel is many standard errors.
        assert np.all(found.std(0).max() / num**0.5 < 0.05 * np.abs(wanted).max())


NARROWING = {
    "layer_norm": lambda n: L.serial(
        L.dense(n, **AFFINE), L.layer_norm(), L.relu(), L.dense(n), L.erf(), L.dense(1)
    ),
    "attention": lambda n: L.serial(
        L.dense(n, weight_std=1.5), L.relu(),
        L.self_attention(n, num_heads=n // 4, key_features=n, value_features=4, bias_std=0.2),
        L.relu(), L.global_average_pool(), L.dense(1),
    ),
    "attention_sqrt": lambda n: L.serial(
        L.dense(n, weight_std=1.2),
        L.self_attention(
            n, num_heads=n // 4, key_features=4, value_features=4, mechanism="identity",
            scaling="sqrt",
        ),
        L.relu(), L.flatten(), L.dense(1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NARROWING)
def test_finite_kernels_approach_the_infinite_one_as_the_root_of_the_width(name):
    shape, widths = (2,) if name == "layer_norm" else (3, 2), (32, 128, 512)
    x, make = inputs(shape, 2, 3), NARROWING[name]
    exact = make(8).kernel(x, get="ntk")
    errors = []
    for width in widths:
        found = draws(make(width), shape, 48, x)[1]
        errors.append(float(jnp.sqrt(jnp.mean((found / exact - 1) ** 2))))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.15, errors
