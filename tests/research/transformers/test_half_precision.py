"""Losses and norms in half precision: thousands of tokens and features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.transformers import layers, losses, mup
from tests import half_precision

RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.integers(0, 7, (16, 258)))
TABLE = jnp.asarray(3 * RNG.normal(size=(7, 7)), jnp.float32)
WIDE = jnp.asarray(RNG.uniform(1, 2, (2, 4096)), jnp.float32)


def read(params, tokens, **_):
    return params[tokens]


def with_loss(loss_fn, batch):
    """Loss, weight and metrics of 4,096 tokens."""

    @jax.jit
    def run(params):
        loss, aux = loss_fn(params, {}, jax.random.key(0), batch)
        return loss, aux.weight, aux.metrics

    return run, (TABLE,)


def normed(norm):
    return jax.jit(lambda x, scale: norm(None).apply({"params": {"scale": scale}}, x))


CASES = {
    "losses.cross_entropy": lambda: (
        jax.jit(losses.cross_entropy), (jnp.asarray(30 * TABLE), jnp.arange(7)),
    ),
    "losses.cross_entropy, 4,096 symbols": lambda: (
        jax.jit(losses.cross_entropy), (jnp.zeros((1, 4096)), jnp.array([3])),
    ),
    "losses.next_token": lambda: with_loss(
        losses.next_token(read), {"tokens": TOKENS, "mask": jnp.ones((16, 257))}
    ),
    "losses.masked_tokens": lambda: with_loss(
        losses.masked_tokens(
            lambda params, tokens: {"logits": read(params, tokens)},
            losses.Masking(mask_token=0, vocab_size=7, rate=0.9),
        ),
        {"tokens": TOKENS},
    ),
    "losses.sequence_to_sequence": lambda: with_loss(
        losses.sequence_to_sequence(lambda params, source, target: read(params, target)),
        {"source": TOKENS, "target": TOKENS, "mask": jnp.ones((16, 257))},
    ),
    "layers.Norm, layer": lambda: (normed(layers.Norm(use_bias=False)), (100 * WIDE, WIDE[0])),
    "layers.Norm, rms": lambda: (normed(layers.Norm("rms")), (100 * WIDE, WIDE[0])),
    "layers.dropout": lambda: (
        lambda x: layers.dropout(jax.random.key(0), x, 0.3), (WIDE,),
    ),
    "mup.rescale": lambda: (
        lambda w: mup.rescale({"a": {"kernel": w}, "b": {"scale": w}}, 3.0), (WIDE,),
    ),
    "mup.scale_updates": lambda: (
        lambda w: mup.scale_updates(3.0).update({"a": {"kernel": w}}, None)[0], (WIDE,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])
