"""What the networks check: ladders of sizes, latents, images and labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.gan import checks


def test_sizes_are_a_ladder():
    assert checks.sizes(8) == [4, 8]
    assert checks.sizes(1024) == [4, 8, 16, 32, 64, 128, 256, 512, 1024]
    for bad in (0, 4, 12, 24, 100, 16.0, True):
        with pytest.raises(ValueError, match=rf"resolution={bad}: expected 4 \* 2\^n, n >= 1"):
            checks.sizes(bad)


def test_known_labels_are_refused_and_traced_ones_lead_to_nan():
    table = jnp.arange(3.0)
    look = lambda labels: jnp.take(table, checks.labels(labels, 3), axis=0)
    np.testing.assert_array_equal(look(np.array([2, 0])), [2, 0])
    np.testing.assert_array_equal(jax.jit(look)(jnp.array([-1, 1, 3])), [np.nan, 1, np.nan])
    for bad in (np.array([0, 3]), np.array([-1])):
        with pytest.raises(ValueError, match=r"label (3|-1): expected 0 to 2"):
            look(bad)
    for bad in (np.array([0.0]), np.array([[1]]), np.array(1)):
        with pytest.raises(ValueError, match=r"labels .*: expected int \[B\]"):
            look(bad)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: checks.latents(jnp.zeros((2, 3)), 4), r"z float32\[2, 3\]: expected float \[B, 4"),
        (lambda: checks.latents(jnp.zeros(3)), r"z float32\[3\]: expected float \[B, Z\]"),
        (lambda: checks.latents(jnp.zeros((2, 3), int)), "z int32"),
        (lambda: checks.images(jnp.zeros((2, 8, 9, 1)), 8), r"images .*: expected float \[B, 8, 8"),
        (lambda: checks.images(jnp.zeros((2, 8, 8, 1), int), 8), "images int32"),
        (lambda: checks.given_labels(None, 3), r"labels are missing: expected int \[B\] in 0 .. 2"),
        (lambda: checks.given_labels(jnp.zeros(2), None), "network with num_classes=None"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
    checks.latents(jnp.zeros((2, 4)), 4)
    checks.images(jnp.zeros((2, 8, 8, 1)), 8)
    checks.given_labels(None, None)
    checks.given_labels(jnp.zeros(2), 3)
