"""The pieces that networks share: attention, dropout and the condition."""

import jax
import jax.numpy as jnp
import numpy as np

from research.diffusion import layers


def test_attention_is_a_mean_under_softmax_weights(x64):
    """Value and derivatives, also where the exponentials of the logits overflow."""
    noise = np.random.default_rng(0)
    query, tangent = noise.standard_normal((2, 2, 5, 3, 4))
    key, value = noise.standard_normal((2, 2, 7, 3, 4))
    query[0] *= 1e4

    def plain(query):
        logits = jnp.einsum("bthk,bshk->bhts", query, key) / 2
        return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(logits, axis=-1), value)

    for function in (lambda f: (f(query),), lambda f: jax.jvp(f, (query,), (tangent,)),
                     lambda f: jax.vjp(f, query)[1](tangent)):  # fmt: skip
        expected, found = function(plain), function(lambda q: layers.attend(q, key, value))
        for one, two in zip(expected, found, strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-12)
