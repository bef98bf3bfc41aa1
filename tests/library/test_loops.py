"""Loops that would slow convolutions down are found, and their updates made one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import loops, testing
from library.train_step import init_state, make_train_step, scan_steps
from library.types import Aux

SGD = optax.sgd(0.1)


def convolve(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)


def conv_loss(params, model_state, rng, batch):
    return jnp.square(jax.jit(convolve)(batch, params["kernel"])).mean(), Aux(len(batch))


def dense_loss(params, model_state, rng, batch):
    mixed = jnp.tensordot(batch, params["kernel"][0, 0], 1)
    return jnp.square(mixed).mean(), Aux(len(batch))


def start():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
    return init_state({"kernel": jnp.asarray(kernel)}, SGD, jax.random.key(0))


BATCHES = np.random.default_rng(1).normal(size=(3, 4, 5, 5, 2)).astype(np.float32)


@pytest.mark.parametrize(
    "function, slow",
    [
        (convolve, True),
        (jax.jit(convolve), True),
        (lambda x, k: jax.vmap(lambda row: convolve(row[None], k))(x), True),
        (lambda x, k: jax.lax.cond(x.sum() > 0, convolve, lambda x, k: x @ k[0, 0], x, k), True),
        (jax.checkpoint(lambda x, k: jax.grad(lambda k: convolve(x, k).sum())(k)), True),
        (lambda x, k: jnp.tensordot(x, k[0, 0], 1), False),
        (lambda x, k: x, False),
    ],
)  # fmt: skip
def test_convolutions_are_found_wherever_they_are(monkeypatch, function, slow):
    traced = jax.make_jaxpr(function)(BATCHES[0], start().params["kernel"])
    assert loops.slowed(traced) == slow
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not loops.slowed(traced)


@pytest.mark.parametrize("loss, in_turn", [(conv_loss, True), (dense_loss, False)])
def test_updates_of_one_call_are_those_in_turn(loss, in_turn):
    step, calls = make_train_step(loss, SGD), []
    one, scanned = jax.jit(step), jax.jit(scan_steps(step))
    many = loops.many(step, lambda *a: calls.append("one") or one(*a),
                      lambda *a: calls.append("scan") or scanned(*a))  # fmt: skip
    state, metrics = many(start(), BATCHES)
    assert calls == (["one"] * 3 if in_turn else ["scan"])
    expected, rows = start(), []
    for batch in BATCHES:
        expected, row = one(expected, batch)
        rows.append(row)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    testing.assert_trees_close((state.params, metrics), (expected.params, stacked), rtol=1e-6)


@pytest.mark.parametrize("loss, looped", [(conv_loss, False), (dense_loss, True)])
def test_microbatches_of_convolutions_are_unrolled(loss, looped):
    """And their update is that of the whole batch."""
    step = jax.jit(make_train_step(loss, SGD, accumulate=2))
    assert ("stablehlo.while" in step.lower(start(), BATCHES[0]).as_text()) == looped
    whole = jax.jit(make_train_step(loss, SGD))(start(), BATCHES[0])
    found, expected = (out[0].params for out in (step(start(), BATCHES[0]), whole))
    testing.assert_trees_close(found, expected, rtol=1e-5, atol=1e-6)
