"""Weighted means over a stream of batches are the means over all units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import evaluate
from library.types import Aux


def test_evaluation_of_a_padded_stream_equals_one_whole_batch(x64):
    def loss_fn(params, model_state, rng, batch):
        error = (batch["x"] - params) ** 2 * batch["mask"]
        weight = batch["mask"].sum()
        return error.sum() / weight, Aux(weight, {"double": 2 * error.sum() / weight})

    x = np.arange(10.0)
    batches = [{"x": x[:4], "mask": np.ones(4)}, {"x": x[4:8], "mask": np.ones(4)}]
    batches += [{"x": np.r_[x[8:], 99, 99], "mask": np.array([1.0, 1, 0, 0])}]
    batches += [{"x": x[:4], "mask": np.zeros(4)}]
    evaluator = evaluate.make_evaluator(loss_fn)
    means = evaluator(jnp.asarray(3.0), {}, jax.random.key(0), batches)
    expected = ((x - 3.0) ** 2).mean()
    np.testing.assert_allclose(
        [means["loss"], means["double"]], [expected, 2 * expected], rtol=1e-14
    )
    assert means["weight"] == 10  # the padding and the empty batch count for nothing
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluator(jnp.asarray(3.0), {}, jax.random.key(0), batches[3:])
    for wrong in (np.nan, -5.0):  # would be left out of the mean, or be taken from it
        bad = {"x": x[:4], "mask": np.array([1.0, 1, 1, wrong])}
        with pytest.raises(ValueError, match="batch 1 has weight (nan|-2.0)"):
            evaluator(jnp.asarray(3.0), {}, jax.random.key(0), [batches[0], bad])


@pytest.mark.parametrize(
    "output, message",
    [
        (lambda x: (x, Aux(1.0)), "the loss has shape"),
        (lambda x: (x.sum(), Aux(1.0, {"m": x})), "metric 'm' has shape"),
        (lambda x: (x.sum(), Aux(1.0, {"weight": x.sum()})), "own"),
        (lambda x: (x.sum(), Aux(x.astype("float16").sum())), "weight is float16 of shape"),
    ],
)
def test_a_loss_of_the_wrong_form_is_named(output, message):
    evaluator = evaluate.make_evaluator(lambda params, state, rng, batch: output(batch["x"]))
    with pytest.raises(ValueError, match=message):
        evaluator({}, {}, jax.random.key(0), [{"x": np.ones(3, np.float32)}])
