"""Attention as pure functions: one `attend`, masks and biases as functions of positions.

>>> import jax
>>> from research import attention
>>> query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 16, 4, 8))  # [B, T, H, K]
>>> out = jax.jit(attention.attend)(query, key, value, mask=attention.masks.Causal())
>>> out.shape, bool((out[:, 0] == value[:, 0]).all())  # the first token sees itself alone
((2, 16, 4, 8), True)

    dot_product.py  attend: the entry; plain softmax attention, and the choice of implementation
    blocked.py      the same in O(T) memory: online softmax, recomputing backward pass
    ring.py         the same over a mesh axis, for sequences that one device cannot hold
    masks.py        causal, window, padding, prefix, documents, every: who sees whom
    positions.py    sinusoidal, RoPE and its scalings, ALiBi, T5 buckets
    multihead.py    a Flax Linen layer: projections, grouped queries, rotary positions, cache
    cache.py        keys and values of earlier tokens: the protocol, and the contiguous one

A mask is a pytree that is called with positions i [B or 1, T, 1] and j [B or 1, 1, S] and returns
a bool that broadcasts to [B, T, S]; a bias returns a float that broadcasts to [B, H, T, S] and may
hold parameters. So neither needs a T x S array unless the implementation wants one.
"""

from research.attention import blocked, cache, dot_product, masks, multihead, positions, ring
from research.attention.dot_product import attend
from research.attention.multihead import MultiHead

PARENTS = ()

__all__ = [
    "MultiHead",
    "attend",
    "blocked",
    "cache",
    "dot_product",
    "masks",
    "multihead",
    "positions",
    "ring",
]
