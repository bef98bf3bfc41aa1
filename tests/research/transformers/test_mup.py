"""muP: nothing changes at the base width, and no coordinate's first change knows the width."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.transformers import losses, models, mup, published

WIDTHS = (32, 256)


def make(width, **options):
    return published.nano_gpt(8, 1, width, 2, 4, init_std=0.25, **options)


def init(config, m=1.0):
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(models.Decoder(config).init)(jax.random.key(0), tokens)
    return mup.rescale(params, m)


TOKENS = jax.random.randint(jax.random.key(1), (4, 5), 0, 8)


def test_the_base_model_is_the_plain_one():
    plain = make(16)
    config = mup.widened(plain, plain)
    assert config.logit_scale == 1.0 and config.stack.scale == 8**-0.5
    params = init(plain)
    for found, leaf in zip(jax.tree.leaves(mup.rescale(params, 1.0)), jax.tree.leaves(params)):
        np.testing.assert_array_equal(found, leaf)
    apply = jax.jit(models.Decoder.apply, static_argnums=0)
    logits = [apply(models.Decoder(c), params, TOKENS[:, :-1]) for c in (plain, config)]
    np.testing.assert_allclose(*logits, rtol=1e-6)


def test_table_8():
    """Factors at four times the width: 1/4 on logits, variances and rates, 1 / K in attention."""
    base = make(16)
    config = mup.widened(make(64), base)
    assert config.logit_scale == 0.25
    assert config.stack.scale == pytest.approx(8**0.5 / 32)
    params = init(make(64))
    ones = jax.tree.map(jnp.ones_like, params)
    scaled, rescaled = mup.scale_updates(4.0).update(ones, optax.EmptyState())[0], init(make(64), 4)
    for path, leaf in jax.tree_util.tree_leaves_with_path(scaled):
        names = [part.key for part in path]
        inside = "layers" in names and names[-1] == "kernel"
        assert float(leaf.mean()) == (0.25 if inside else 1.0), names
    for fresh, leaf in zip(jax.tree.leaves(params), jax.tree.leaves(rescaled)):
        assert fresh.shape == leaf.shape
    kernel = rescaled["params"]["stack"]["layers"]["mlp"]["up"]["kernel"]  # [1, D, F]
    assert float(kernel.std()) == pytest.approx(0.25 / 2, rel=0.02)
    assert float(rescaled["params"]["embedding"].std()) == pytest.approx(0.25, rel=0.1)


def test_an_output_matrix_of_its_own_counts_as_a_table():
    config = dataclasses.replace(make(16), tied=False)
    inner = mup.inner(init(config))
    assert not inner["params"]["output"]["kernel"]
    assert inner["params"]["stack"]["layers"]["attention"]["out"]["kernel"]


def changes(width, standard):
    """Mean change of features and logits by one Adam update."""
    base, config = make(WIDTHS[0]), make(width)
    m = width / WIDTHS[0]
    config = config if standard else mup.widened(config, base)
    loss = losses.next_token(models.Decoder(config).apply)
    adam = optax.chain(optax.adam(0.02), mup.scale_updates(1.0 if standard else m))
    features = jax.jit(lambda params: mup.features(config, params, TOKENS[:, :-1]))

    @jax.jit
    def update(params):
        grads = jax.grad(lambda p: loss(p, {}, None, {"tokens": TOKENS})[0])(params)
        return optax.apply_updates(params, adam.update(grads, adam.init(params), params)[0])

    before = init(make(width), m)
    was, now = features(before), features(update(before))
    return {name: float(np.abs(now[name] - was[name]).mean()) for name in was}


@pytest.mark.parametrize("standard", [False, True])
def test_coordinate_check(standard):
    """Powers of the width: 0 under muP; 1 in every branch where matrices keep their rate."""
    narrow, wide = (changes(width, standard) for width in WIDTHS)
    for name in narrow:
        slope = np.log(wide[name] / narrow[name]) / np.log(WIDTHS[1] / WIDTHS[0])
        # From width 32 on: finite-width corrections are of order width^-1/2.
        assert (slope > 0.5) if standard else (abs(slope) < 0.25), (name, slope)


def test_what_is_not_only_wider_is_refused():
    base = make(16)
    with pytest.raises(ValueError, match="depth=2, base 1"):
        mup.widened(published.nano_gpt(8, 2, 64, 2, 4), base)
    with pytest.raises(ValueError, match="hidden_dim 64 -> 64: expected to grow"):
        stack = dataclasses.replace(make(64).stack, hidden_dim=64)
        mup.widened(dataclasses.replace(make(64), stack=stack), base)
    with pytest.raises(ValueError, match="2 heads of 8 -> 2 of 8"):
        stack = dataclasses.replace(make(64).stack, head_dim=8)
        mup.widened(dataclasses.replace(make(64), stack=stack), base)


@pytest.mark.parametrize("m", [0, -1.0, np.nan, np.inf])
def test_ratios_of_widths_are_positive(m):
    for use in (mup.scale_updates, lambda m: mup.rescale({}, m)):
        with pytest.raises(ValueError, match=f"m={m}: expected a positive ratio"):
            use(m)
