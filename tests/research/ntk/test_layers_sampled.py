"""Infinite width against finite networks drawn at random, layer by layer."""

import functools

import jax
import numpy as np
import pytest

from research import ntk
from tests.research.ntk.linear import AFFINE, tangents

L = ntk.layers

WIDTH, DRAWS, BATCH = 16, 2000, 20


def hidden(*layers, **options):
    """One hidden layer before, a readout after: the kernels' means are exact at every width."""
    affine = AFFINE | options
    return L.serial(L.dense(WIDTH, **affine), L.gelu(), *layers, L.dense(1, **affine))


# name: network, shape of an input. Finite kernels average to the infinite ones exactly.
EXACT = {
    "dense": (hidden(), (3,)),
    "standard": (hidden(parameterisation="standard"), (3,)),
    "conv": (
        L.serial(L.conv(8, (2, 2), **AFFINE), L.relu(), L.conv(8, (3, 2), strides=2),
                 L.average_pool((2, 2), padding="SAME"), L.flatten(), L.dense(1)),
        (3, 3, 2),
    ),
    "transposed": (
        L.serial(L.conv_transpose(WIDTH, (3,), strides=2, **AFFINE), L.erf(),
                 L.global_average_pool(), L.dense(1, **AFFINE)),
        (3, 2),
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
                WIDTH, num_heads=4, key_features=8, mechanism="identity", scaling="sqrt",
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
    return np.random.default_rng(seed).normal(size=(num, *shape)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 4))
def draws(net, shape, num, x, dropped=False):
    """Kernels of finite networks with one output, each [num, N, N]."""

    def one(rng):
        draw_rng, drop_rng = jax.random.split(rng)
        params = net.init(draw_rng, shape)
        values, theta = tangents(
            lambda p: net.apply(p, x, rng=drop_rng if dropped else None)[..., 0], params
        )
        return values[:, None] * values[None], theta

    rngs = jax.random.split(jax.random.key(0), num)
    return jax.lax.map(one, rngs, batch_size=BATCH)


@pytest.mark.parametrize("name", EXACT)
def test_mean_of_finite_kernels_is_the_infinite_one(name):
    net, shape = EXACT[name]
    x = inputs(shape, 3, 1)
    found, exact = jax.device_get((draws(net, shape, DRAWS, x, name == "dropout"), net.kernel(x)))
    for sample, wanted in zip(found, (exact.nngp, exact.ntk)):
        error, standard = sample.mean(0) - wanted, sample.std(0) / DRAWS**0.5
        # 6 distinct entries, two kernels, 10 networks: a false alarm in 1 of 130 seeds; seed fixed.
        assert np.all(np.abs(error) < 4 * standard), error / wanted
        # The draws must be able to tell: a tenth of the kernel is many standard errors.
        assert standard.max() < 0.05 * np.abs(wanted).max()


NARROWING = {
    "layer_norm": lambda n: L.serial(
        L.dense(n, **AFFINE), L.layer_norm(), L.relu(), L.dense(n), L.erf(), L.dense(1)
    ),
    "attention": lambda n: L.serial(
        L.dense(n, weight_std=1.5), L.relu(),
        L.self_attention(n, num_heads=n // 4, key_features=n // 2, value_features=4, bias_std=0.2),
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


# Smallest number of channels. With one head to four channels, 16 channels are four heads, and means
# of four products of Gaussians have tails too heavy for 100 draws.
FIRST_WIDTH = {"layer_norm": 16, "attention": 16, "attention_sqrt": 32}


@pytest.mark.parametrize("name", NARROWING)
def test_finite_kernels_approach_the_infinite_one_as_the_root_of_the_width(name):
    shape, errors = (2,) if name == "layer_norm" else (3, 2), []
    x, first = inputs(shape, 2, 3), FIRST_WIDTH[name]
    exact = np.asarray(NARROWING[name](first).kernel(x, get="ntk"))
    for width in (first, 8 * first):
        found = np.asarray(draws(NARROWING[name](width), shape, 100, x)[1])
        errors.append(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))
    # Three doublings; 100 draws know an error to 7 %, the slope to 0.05.
    slope = np.log(errors[1] / errors[0]) / np.log(8)
    assert abs(slope + 0.5) < 0.15, errors
