"""Counted operations and memory against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from research.ntk.jacobians import cost


def test_counted_flops_of_a_layer_are_exact():
    a, b = jax.ShapeDtypeStruct((7, 5), jnp.float32), jax.ShapeDtypeStruct((5, 3), jnp.float32)
    counted = cost.count(lambda a, b: a @ b, a, b)
    assert counted.flops == 2 * 7 * 5 * 3 and counted.bytes == 4 * 21
    assert counted.peak_bytes == 4 * (35 + 15 + 21)
    looped = cost.count(lambda a, b: jax.lax.map(lambda row: row @ b, a), a, b)
    assert looped.flops == pytest.approx(2 * 7 * 5 * 3, rel=0.3)
    kernel = jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32)
    image = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    conv = lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert cost.count(conv, image, kernel).flops == 2 * (2 * 8 * 8 * 6) * (3 * 3 * 4)


def test_loops_branches_and_free_operations():
    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 4), (4, 4)))
    product = 2 * 4**3
    scanned = cost.count(lambda a, b: jax.lax.scan(lambda c, _: (c @ b, None), a, None, 5)[0], a, b)
    assert scanned.flops == 5 * product and scanned.bytes == 5 * 64
    branches = cost.count(
        lambda a, b: jax.lax.switch(0, [lambda a: a @ b, lambda a: a @ b @ b], a), a, b
    )
    assert 2 * product <= branches.flops < 2 * product + 4  # the dearest; 3 for the index
    assert cost.count(lambda a: a.reshape(2, 8), a) == cost.Cost(0, 0, 128)
    assert cost.count(lambda a: a.T, a).flops == 0 and cost.count(lambda a: a.T, a).bytes == 64
    assert cost.count(lambda a: a.sum(), a).flops == 16  # an operation an entry read
    assert cost.count(jnp.exp, a).flops == 16


def test_peak_is_what_is_alive_at_once():
    """Of three products in a row, an operand, a result and what is still to be read."""
    a = jax.ShapeDtypeStruct((8,), jnp.float32)
    assert cost.count(lambda a: jnp.sin(jnp.sin(jnp.sin(a))), a).peak_bytes == 2 * 32
    kept = cost.count(lambda a: jnp.sin(jnp.sin(a)) + a, a)
    assert kept.peak_bytes == 3 * 32
