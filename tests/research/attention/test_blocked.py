"""Attention by blocks is attention: values, gradients, the log-denominator, and linear memory."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import blocked, dot_product, masks, positions
from tests.research.attention import cases


@pytest.mark.parametrize("name", ["none", "window", "prefix", "documents", "every"])
def test_blocked_equals_plain_equals_loops(name, x64):
    """Eleven positions in blocks of 4 and 3; rows of the second example see nothing."""
    bias = positions.Buckets(jnp.asarray(np.random.default_rng(1).normal(size=(8, 4))))
    arguments = (*cases.inputs(), cases.MASKS[name], bias)
    plain_grads, plain = cases.value_and_grads(*arguments, "plain")
    grads, out = cases.value_and_grads(*arguments, "blocked")
    index = positions.bucket(jnp.arange(11)[None, :] - jnp.arange(11)[:, None], 8, True, 128)
    added = np.moveaxis(np.asarray(bias.table)[np.asarray(index)], -1, 0)
    np.testing.assert_allclose(
        plain, cases.by_loops(*cases.inputs(), cases.SEES[name], added), atol=1e-12
    )
    np.testing.assert_allclose(out, plain, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(plain_grads)):
        assert np.isfinite(mine).all()
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)
    if name == "every":
        assert (out[1] == 0).all() and all((grad[1] == 0).all() for grad in grads[:3])


@pytest.mark.parametrize("length, heads, kv_heads", [(1, 2, 2), (13, 4, 1)])
def test_float32_and_bfloat16_hold_their_precision(length, heads, kv_heads):
    arguments = (*cases.inputs(length, heads, kv_heads, jnp.float32), masks.Causal(), None)
    plain_grads, plain = cases.value_and_grads(*arguments, "plain")
    grads, out = cases.value_and_grads(*arguments, "blocked")
    np.testing.assert_allclose(out, plain, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(grads[:3], plain_grads[:3]):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-6)
    half = [x.astype(jnp.bfloat16) for x in arguments[:3]]
    grads, out = cases.value_and_grads(*half, masks.Causal(), None, "blocked")
    assert out.dtype == jnp.bfloat16 and grads[0].dtype == jnp.bfloat16
    # bfloat16 carries 8 bits: each of a few roundings may be off by 2^-9 of values up to about 3.
    np.testing.assert_allclose(out.astype(float), plain, atol=0.03)


def test_log_denominator_and_its_gradient(x64):
    query, key, value = cases.inputs()
    i = jnp.arange(11)[None]
    context = blocked.Context(i, i, i, i, masks.Causal(), None, 0.7, (4, 3))

    def by_blocks(query, key):
        return jnp.sin(blocked.attend(query, key, value, context)[1]).sum()

    def at_once(query, key):
        logits = 0.7 * jnp.einsum("bthk,bshk->bths", query, jnp.repeat(key, 2, 2))
        hidden = (i[:, :, None] < i[:, None, :])[:, :, None]
        return jnp.sin(jax.nn.logsumexp(jnp.where(hidden, -jnp.inf, logits), -1)).sum()

    for mine, theirs in zip(
        *(jax.jit(jax.value_and_grad(f, (0, 1)))(query, key)[1] for f in (by_blocks, at_once))
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)


@flax.struct.dataclass
class Shifted:
    """A bias with a whole number before its slope, and another one behind."""

    after: jax.Array
    slope: jax.Array
    times: jax.Array

    def __call__(self, i, j):
        seen = (jnp.abs(i - j) >= self.after) * self.times
        return self.slope[None, :, None, None] * seen[:, None]


def test_whole_numbers_in_a_bias_have_no_gradient_and_the_rest_has(x64):
    bias = Shifted(jnp.array(2), jnp.array([0.5, 0.1, -1.0, 2.0]), jnp.array(3))

    def gradient(implementation):
        def loss(slope):
            out = dot_product.attend(
                *cases.inputs(), masks.Causal(), bias.replace(slope=slope),
                implementation=implementation, block=(4, 3),
            )  # fmt: skip
            return (jnp.sin(out) * out).sum()

        return jax.jit(jax.grad(loss))(bias.slope)

    np.testing.assert_allclose(gradient("blocked"), gradient("plain"), rtol=1e-10)
    assert (np.abs(gradient("plain")) > 1e-3).all()


def test_memory_grows_linearly_and_is_a_tenth_of_plain():
    """XLA's own account of the compiled gradient; one head of size 32."""

    def temporary_bytes(length, implementation):
        x = jax.ShapeDtypeStruct((1, length, 1, 32), jnp.float32)

        def loss(query, key, value):
            return dot_product.attend(
                query, key, value, masks.Causal(), implementation=implementation
            ).sum()

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
        analysis = compiled.memory_analysis()
        return analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    short, long = (temporary_bytes(n, "blocked") for n in (2048, 8192))
    assert long <= 4.4 * short
    assert long <= 0.1 * temporary_bytes(8192, "plain")
