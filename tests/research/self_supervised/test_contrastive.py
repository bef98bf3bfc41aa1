"""Contrastive losses against copies by loops, the optimum that theory gives, and two devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.self_supervised import losses
from tests.research.self_supervised import oracles

CASES = [case for case in oracles.ROWS if oracles.ROWS[case][0] in (
    "nt_xent", "sup_con", "info_nce", "moco_v3", "spectral"
)]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(x64, case):
    oracles.check(case, oracles.found()[case])


@pytest.mark.parametrize("case", [case for case in CASES if case in oracles.PLAIN])
def test_defaults(x64, case):
    oracles.check_default(case)


@pytest.mark.parametrize("case", CASES)
def test_two_devices_are_one(x64, case):
    """Raw gradients averaged over devices under pmap, summed by shard_map's types there."""
    oracles.check(case, oracles.pmapped()[case])
    if case in oracles.PLAIN:
        oracles.check(case, oracles.shard_mapped()[case])


def simplex(size):
    """Unit vectors [B, B] of which any two have the cosine -1 / (B - 1)."""
    return np.sqrt(size / (size - 1)) * (np.eye(size) - 1 / size)


def optimum(size, temperature):
    return np.log1p((2 * size - 2) * np.exp(-size / ((size - 1) * temperature)))


@pytest.mark.parametrize("size, temperature, value", [
    (2, 0.5, 0.03597629974819316),
    (8, 0.5, 0.8853445985444924),
    (4, 0.5, 0.348471885802267),
    (6, 0.3, 0.168185773120673),
])  # fmt: skip
def test_the_simplex(x64, size, temperature, value):
    """ln(1 + (2B - 2) exp(-B / ((B - 1) tau))), where views agree and pairs form a simplex."""
    points = 3 * simplex(size)  # of any length
    np.testing.assert_allclose(optimum(size, temperature), value, rtol=1e-12)
    loss = jax.jit(losses.nt_xent)(points, points, temperature)
    np.testing.assert_allclose(loss, value, rtol=1e-10)


@pytest.mark.parametrize("size", [2, 256])
def test_equal_embeddings(x64, size):
    z = np.ones((size, 3))
    np.testing.assert_allclose(jax.jit(losses.nt_xent)(z, z), np.log(2 * size - 1), rtol=1e-10)


def test_the_optimum_is_reached(x64):
    """From a random start, B = 4 in 4 dimensions, and B = 4 in 2, where there is no simplex."""
    from scipy import optimize

    value = jax.jit(jax.value_and_grad(lambda z: losses.nt_xent(z[0], z[1])))

    def minimum(dim, seed):
        start = np.random.default_rng(seed).normal(size=(2, 4, dim))
        shaped = lambda z: jnp.asarray(z.reshape(start.shape))  # noqa: E731
        loss = lambda z: [np.asarray(x, float).ravel() for x in value(shaped(z))]  # noqa: E731
        options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 500}
        found = optimize.minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options)
        return found.fun

    np.testing.assert_allclose(minimum(4, 1), optimum(4, 0.5), atol=1e-6)
    np.testing.assert_allclose(minimum(2, 0), 0.45614, atol=1e-5)


def test_two_views_of_different_labels_are_nt_xent(x64):
    expected, _ = oracles.expected("nt_xent")
    found = jax.jit(losses.sup_con)(oracles.Z, np.arange(oracles.B), 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


Z = np.ones((4, 3), np.float32)
PAIR = np.ones((2, 4, 3), np.float32)
LABELS = np.arange(4)


@pytest.mark.parametrize("message, call", [
    ("z1 has shape .4,.: expected .B, D.", lambda: losses.nt_xent(Z[:, 0], Z)),
    ("z2 has shape .2, 3.: expected that of z1, .4, 3.", lambda: losses.nt_xent(Z, Z[:2])),
    ("a batch of 1 in all: expected two .* for negatives", lambda: losses.nt_xent(Z[:1], Z[:1])),
    ("temperature=0: expected a positive", lambda: losses.nt_xent(Z, Z, 0)),
    ("temperature=-1: expected a positive", lambda: losses.sup_con(PAIR, LABELS, -1)),
    ("z has 1 view: expected two views or more", lambda: losses.sup_con(PAIR[:1], LABELS)),
    ("z has shape .4, 3.: expected .V, B, D.", lambda: losses.sup_con(Z, LABELS)),
    ("labels int32.3.: expected integers .4.", lambda: losses.sup_con(PAIR, LABELS[:3])),
    ("labels float32.4.: expected integers", lambda: losses.sup_con(PAIR, Z[:, 0])),
    ("a batch of 1 in all", lambda: losses.sup_con(PAIR[:, :1], LABELS[:1])),
    ("temperature=nan", lambda: losses.info_nce(Z, Z, Z, float("nan"))),
    ("keys has shape .2, 3.: expected that of queries", lambda: losses.info_nce(Z, Z[:2], Z)),
    ("negatives have shape .4, 2.: expected .Q, 3.", lambda: losses.info_nce(Z, Z, Z[:, :2])),
    ("negatives have shape .0, 3.: expected .Q, 3.", lambda: losses.info_nce(Z, Z, Z[:0])),
    ("temperature=True", lambda: losses.moco_v3(PAIR, PAIR, True)),
    ("queries has 1 view: expected 2 views", lambda: losses.moco_v3(PAIR[:1], PAIR[:1])),
    ("keys has shape .2, 3, 3.: expected", lambda: losses.moco_v3(PAIR, PAIR[:, :3])),
    ("a batch of 1 in all", lambda: losses.moco_v3(PAIR[:, :1], PAIR[:, :1])),
    ("z2 has shape .4, 2.", lambda: losses.spectral(Z, Z[:, :2])),
    ("a batch of 1 in all.* pairs of different", lambda: losses.spectral(Z[:1], Z[:1])),
])  # fmt: skip
def test_bad_input(message, call):
    with pytest.raises(ValueError, match=message):
        call()
