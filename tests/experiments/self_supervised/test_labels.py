"""Few labels: which are drawn, and that fine-tuning trains encoder and head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.self_supervised import _labels
from research.self_supervised import networks


def test_few_labels_are_as_many_of_every_class_and_drawn_by_the_seed():
    labels = np.repeat([2, 0, 1], [5, 9, 7])
    rows = _labels.few(labels, 4, seed=1)
    np.testing.assert_array_equal(np.bincount(labels[rows]), [4, 4, 4])
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, _labels.few(labels, 4, seed=1))
    assert (rows != _labels.few(labels, 4, seed=2)).any()
    with pytest.raises(ValueError, match="class 2 has 5 examples: expected 6"):
        _labels.few(labels, 6, seed=0)


def test_fine_tuning_learns_what_the_encoder_must_move_for():
    """Two classes on a line, that a feature max(0, a x) tells apart for a > 0 only."""

    def apply(params, stats, x, train, axis_name):
        return jax.nn.relu(x.reshape(len(x), -1) * params["a"][None] + 0.5), stats

    part = networks.Part(lambda rng, x: ({"a": jnp.ones(1)}, {}), apply)
    x = np.linspace(-3, 3, 40, dtype=np.float32).reshape(40, 1, 1, 1)
    y = (abs(x.ravel() - 1) < 1).astype(int)  # a band: one feature, one threshold at each side
    encoder = ({"a": jnp.full(1, 0.01)}, {})
    options = {"learning_rate": 0.1, "batch_size": 64, "seed": 0}
    still = _labels.finetuned(part, encoder, (x, y), [(x, y), (x, 1 - y)], num_steps=10, **options)
    np.testing.assert_allclose(sum(still), 1, atol=1e-6)  # of each example one of the two is right
    side = (x.ravel() > 0.4).astype(int)
    (right,) = _labels.finetuned(part, encoder, (x, side), [(x, side)], num_steps=200, **options)
    assert right > 0.95
