"""Arrays of another shape than an inner function expects are named, where they would broadcast."""

import jax
import numpy as np
import pytest

from research.diffusion import (
    bits,
    divergence,
    draws,
    layers,
    likelihood,
    moments,
    predictions,
    processes,
    solver_tables,
)

VP = processes.vp()
KEYS = jax.random.split(jax.random.key(0), 2)
X, ROW, ONE = np.zeros((2, 3), np.float32), np.zeros(3, np.float32), np.ones(1, np.float32)
T = np.array([0.2, 0.4], np.float32)
HEADS = np.zeros((1, 2, 1, 4), np.float32)
TIMES = np.array([0.9, 0.5, 0.1], np.float32)  # two steps
TWO = T, T
DECODER = bits.discretised_decoder()
TABLE = solver_tables.single(TIMES, TWO, TWO)


def staged(nodes=(T, T), rows=(np.zeros((2, 2), np.float32),)):
    return solver_tables.staged(list(nodes), [np.zeros((2, 2), np.float32)], list(rows))


def field(x):
    return x


CASES = {
    "attention": lambda: layers.attend(HEADS, HEADS, HEADS[0]),
    "dropout": lambda: layers.dropout(KEYS[:1], X, 0.5),
    "normals": lambda: draws.normals(KEYS[:1], X),
    "keys": lambda: draws.example_keys(KEYS, 3, 1),
    "one key": lambda: draws.example_keys(KEYS[:1], 2, 1),
    "to data": lambda: predictions.to_data_and_noise(VP, X[:1], X, T, "noise"),
    "from data": lambda: predictions.from_data_and_noise(VP, X[:1], X, T, "noise"),
    "prior gap, mean": lambda: likelihood.prior_gap(VP, X, ROW),
    "prior gap, covariance": lambda: likelihood.prior_gap(VP, ROW, np.zeros((1, 3, 3))),
    "slopes": lambda: divergence.slopes(field, X, X),
    "probes": lambda: divergence.probes(jax.random.normal, KEYS[:1], 1, X),
    "gaussian decoder": lambda: bits.gaussian_decoder(X, X[:1], T),
    "discretised decoder": lambda: DECODER(X, X[:1], T),
    "single": lambda: solver_tables.single(TIMES, (T, ONE), TWO),
    "staged, nodes": lambda: staged(nodes=(T, ONE)),
    "staged, rows": lambda: staged(rows=(np.zeros((2, 3), np.float32),)),
    "linear score": lambda: moments.linear_score(VP, T, X, ROW),
    "push, variance": lambda: moments.push(TABLE, ROW, ONE, X, X),
    "push, slope": lambda: moments.push(TABLE, ROW, ROW, X[:1], X),
    "divergence": lambda: moments.kl_divergence(ROW, ROW, ROW, ONE),
    "distance": lambda: moments.wasserstein(ROW, ROW, ONE, ROW),
}


@pytest.mark.parametrize("call", CASES.values(), ids=CASES)
def test_a_shape_that_does_not_fit_is_named(call):
    with pytest.raises(AssertionError, match="shape|rank"):
        call()


def test_what_fits_passes():
    """So that the cases above are refused for their shapes alone."""
    both = jax.eval_shape(lambda: (layers.dropout(KEYS, X, 0.5), draws.normals(KEYS, X)))
    assert [leaf.shape for leaf in both] == [(2, 3), (2, 3)]
    assert jax.eval_shape(lambda: draws.example_keys(KEYS, 2, 1)).shape == (1, 2)
    assert jax.eval_shape(lambda: likelihood.prior_gap(VP, ROW, ROW)).shape == ()
    assert staged().num_rows == TABLE.num_rows == 2
