"""Negatives: which sizes fit together, and that chunks are compared with the whole batch."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from experiments.self_supervised import _pretrain, batch_and_queue
from library import report
from research.self_supervised import methods


def tiny(batch_free):
    sizes = _pretrain.Sizes((4, 4, 1), 4, (1,), hidden=6, dim=5, batch_free=batch_free)
    crops = lambda keys, images: np.stack([images, images[:, ::-1]])
    return _pretrain.pretraining("simclr", sizes, crops, 10)


def test_chunks_are_off_by_rounding_and_other_losses_by_much(monkeypatch):
    images = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype(np.float32)
    made = tiny(batch_free=True)
    assert batch_and_queue.chunks_off(made, images, 4) < 1e-5
    replace = dataclasses.replace  # a loss of another temperature in place of the chunks
    hot = replace(made, method=methods.SimCLR(1.0))
    other = lambda it, **changes: hot if it is made else replace(it, **changes)  # JAX has it too
    monkeypatch.setattr(batch_and_queue.dataclasses, "replace", other)
    assert batch_and_queue.chunks_off(made, images, 4) > 0.1


def test_without_batch_statistics_only_when_asked():
    shape = jax.eval_shape(lambda: tiny(True).networks.init(jax.random.key(0), (4, 4, 1)))
    assert not jax.tree.leaves(shape[1])
    shape = jax.eval_shape(lambda: tiny(False).networks.init(jax.random.key(0), (4, 4, 1)))
    assert jax.tree.leaves(shape[1])


def test_all_see_equally_many_images():
    config = batch_and_queue.Config(num_images=1000)
    assert [batch_and_queue._steps(config, size) for size in (50, 250, 2000)] == [20, 4, 1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"queue_sizes": (256, 100)}, "queue_sizes=.*: expected multiples of 64"),
        ({"num_chunks": 3}, "num_chunks=3: expected a divisor of 256"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_any_work(changes, message):
    config = dataclasses.replace(batch_and_queue.Config(), **changes)
    with pytest.raises(ValueError, match=message):
        batch_and_queue.run(config, report.RunDir(pathlib.Path("never")))
