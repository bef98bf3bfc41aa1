"""Inputs, masks with what they say in words, and attention by loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from research.attention import dot_product, masks

LENGTHS = jnp.array([5, 0])
IDS = jnp.array([[0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], [0] * 6 + [1] * 5])
MASKS = {
    "none": None,
    "causal": masks.Causal(),
    "window": masks.Window(3),
    "padding": masks.Padding(LENGTHS),
    "prefix": masks.Prefix(jnp.array([4, 0])),
    "documents": masks.every(masks.Causal(), masks.Documents(IDS)),
    "every": masks.every(masks.Causal(), masks.Window(4), masks.Padding(LENGTHS)),
}
SEES = {  # these masks in words: does query i of example b see key j?
    "none": lambda b, i, j: True,
    "causal": lambda b, i, j: j <= i,
    "window": lambda b, i, j: abs(i - j) <= 2,
    "padding": lambda b, i, j: j < (5, 0)[b],
    "prefix": lambda b, i, j: j <= i or j < (4, 0)[b],
    "documents": lambda b, i, j: j <= i and IDS[b, i] == IDS[b, j],
    "every": lambda b, i, j: i - 3 <= j <= i and j < (5, 0)[b],
}


def inputs(length=11, num_heads=4, num_kv_heads=2, dtype=jnp.float64, batch=2):
    rng = np.random.default_rng(0)
    shapes = [(batch, length, num_heads, 6)] + [(batch, length, num_kv_heads, 6)] * 2
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def by_loops(query, key, value, sees, bias=None, scale=None):
    """Attention as written in the paper, one query at a time."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros((*query.shape[:3], value.shape[-1]))
    group = query.shape[2] // key.shape[2]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    for b, i, h in np.ndindex(*query.shape[:3]):
        seen = [j for j in range(key.shape[1]) if sees(b, i, j)]
        logits = scale * key[b, seen, h // group] @ query[b, i, h]
        logits = logits + (0 if bias is None else bias[h, i, seen])
        weights = np.exp(logits - logits.max()) if seen else np.zeros(0)
        if seen:
            out[b, i, h] = weights @ value[b, seen, h // group] / weights.sum()
    return out


@functools.partial(jax.jit, static_argnames=("implementation", "block"))
def value_and_grads(query, key, value, mask, bias, implementation, block=(4, 3)):
    """The output, and the gradients of a curved function of it."""

    def loss(query, key, value, bias):
        out = dot_product.attend(
            query, key, value, mask, bias, implementation=implementation, block=block
        )
        return (jnp.sin(out) * out).sum(), out

    return jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(query, key, value, bias)
