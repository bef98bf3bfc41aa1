"""The model that is timed, its two loops, and peers that cannot be run."""

import sys

import jax
import numpy as np
import pytest

from experiments.speed.text_to_image import ours, question


def test_the_model_has_the_size_that_is_stated():
    outline = jax.eval_shape(lambda: ours.build(32, 16, False)[1])
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(net)) for name, net in outline.items()}
    assert round(sizes["unet"] / 1e6, 1) == 1.1


def test_both_loops_ask_the_network_as_often():
    """With a network that counts: guided sampling asks it once a step on both prompts."""
    made, params = ours.build(4, 4, False)
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(made, name)

        def predict(self, params, x, t, context):
            jax.debug.callback(lambda x: calls.append(x.shape), x)
            return 0.1 * x

    loops = ours.loops(Counting(), params, 2, 3)
    for run in loops.values():
        calls.clear()
        assert np.isfinite(run())
        jax.effects_barrier()
        assert calls == [(4, 4, 4, 4)] * 3


def test_a_peer_that_cannot_be_run(tmp_path):
    config = question.Config(peer="/no/python", rounds=1)
    with pytest.raises(ValueError, match="peer=/no/python cannot be run: No such file"):
        question.beside(config, tmp_path, lambda: 0.0)
    config = question.Config(peer=sys.executable, rounds=1)
    with pytest.raises(ValueError, match="ended early"):
        question.beside(config, tmp_path, lambda: 0.0)
