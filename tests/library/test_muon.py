"""Muon: which leaves are matrices, that their updates are orthogonal, and Adam for the others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from library import muon

SHAPES = {
    "dense": {"kernel": (6, 4), "bias": (4,)},
    "conv": {"kernel": (3, 3, 4, 5)},
    "attention": {
        "query": {"kernel": (8, 2, 4)},
        "value": {"kernel": (8, 8)},
        "out": {"kernel": (2, 4, 8), "bias": (8,)},
    },
    "layers": {"key": {"kernel": (3, 8, 2, 4), "bias": (3, 2, 4)}, "up": {"kernel": (3, 6, 4)}},
    "norm": {"scale": (7,)},
    "embedding": (11, 8),
    "table": {"positions": (5, 8)},
}
# Inputs and outputs of each matrix.
MATRICES = {
    ("dense", "kernel"): ((0,), (1,)),
    ("conv", "kernel"): ((0, 1, 2), (3,)),
    ("attention", "query", "kernel"): ((0,), (1, 2)),
    ("attention", "value", "kernel"): ((0,), (1,)),
    ("attention", "out", "kernel"): ((0, 1), (2,)),
    ("layers", "key", "kernel"): ((1,), (2, 3)),
    ("layers", "up", "kernel"): ((1,), (2,)),
}


def _leaves(tree, is_leaf=None):
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {tuple(key.key for key in path): leaf for path, leaf in found}


@pytest.fixture(scope="module")
def gradient():
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return jax.tree.map(draw, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def _update(gradient, *args, **options):
    optimizer = muon.muon(*args, **options)
    step = jax.jit(lambda g: optimizer.update(g, optimizer.init(g), g)[0])
    return _leaves(step(gradient))


def test_matrices_are_kernels_and_nothing_else(gradient):
    found = _leaves(muon.matrices(gradient), lambda x: x is None or hasattr(x, "reduction_axis"))
    assert {path for path, each in found.items() if each is not None} == set(MATRICES)
    for path, (inputs, outputs) in MATRICES.items():
        assert found[path] == MuonDimensionNumbers(inputs, outputs)


def test_updates_of_matrices_are_near_orthogonal_and_as_large_as_adams(gradient):
    """Singular values over 0.2 sqrt(max(m, n)): from 0.6 to 1.3, as the quintic leaves them."""
    for path, update in _update(gradient, 0.01).items():
        if path not in MATRICES:
            continue
        inputs, outputs = MATRICES[path]
        layers = np.asarray(update).reshape(-1, *update.shape[min(inputs) :])
        for layer in layers:
            shape = layer.shape[: len(inputs)]
            matrix = layer.reshape(int(np.prod(shape)), -1)
            assert matrix.shape[1] == np.prod(layer.shape[-len(outputs) :])
            sizes = np.linalg.svd(matrix, compute_uv=False) / (
                0.01 * 0.2 * np.sqrt(max(matrix.shape))
            )
            assert 0.6 < sizes.min() <= sizes.max() < 1.3, path


def test_the_others_are_adams(gradient):
    for options, adam in (
        ({"adam_b2": 0.9}, optax.nadam(0.01, b2=0.9)),
        ({"nesterov": False}, optax.adam(0.01)),
    ):
        found = _update(gradient, 0.01, **options)
        want = _leaves(jax.jit(lambda g, adam=adam: adam.update(g, adam.init(g))[0])(gradient))
        for path in set(found) - set(MATRICES):
            np.testing.assert_allclose(found[path], want[path], rtol=1e-5)


def test_a_schedule_and_options_reach_the_iteration(gradient):
    whole = _update(gradient, 0.01)
    half = _update(gradient, lambda step: 0.005)
    for path in whole:
        np.testing.assert_allclose(half[path], whole[path] / 2, rtol=1e-4, atol=1e-9)
    one = _update(gradient, 0.01, ns_steps=1)
    assert any(abs(one[path] - whole[path]).max() > 1e-4 for path in MATRICES)
