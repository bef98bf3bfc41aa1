"""Attention in O(T) memory: online softmax over blocks of keys, recomputed in the backward pass.

The logits of a block of queries and a block of keys are made, used and dropped; a running maximum
and sum per query carry the softmax over the blocks (Milakov and Gimelshein 2018, arXiv:1805.02867;
Rabe and Staats 2021, arXiv:2112.05682; FlashAttention, Dao et al. 2022, arXiv:2205.14135,
algorithm 1). Saved for the backward pass is one number per query, the logarithm of its softmax's
denominator. A block in which the mask shows nothing is skipped.

Shapes inside: G groups of R query heads share a key head; t, s are the lengths of a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, PyTree, at_least_float32
from research.attention import masks

Bias = Callable[[Array, Array], Array]
Places = tuple[Array, Array]  # slots and positions of a block, [B or 1, t] each


@flax.struct.dataclass
class Context:
    """What an attention is asked beside its queries, keys and values; see `dot_product.attend`."""

    query_slots: Array  # [B or 1, T], what the mask is called with
    key_slots: Array  # [B or 1, S]
    query_positions: Array  # [B or 1, T], what the bias is called with
    key_positions: Array  # [B or 1, S]
    mask: masks.Mask | None = None
    bias: Bias | None = None
    scale: float = flax.struct.field(pytree_node=False, default=1.0)
    block: tuple[int, int] = flax.struct.field(pytree_node=False, default=(512, 512))


@jax.custom_vjp
def attend(query: Array, key: Array, value: Array, context: Context) -> tuple[Array, Array]:
    """Softmax attention, block by block.

    Args:
        query, key, value: [B, T, H, K], [B, S, G, K], [B, S, G, V]; G divides H.
        context: slots, positions, mask, bias, scale and sizes of blocks.
    Returns:
        [B, T, H, V], zero where a query sees nothing; and the log of the softmax's denominator,
        [B, T, H] float32 or wider, -inf there.
    """
    return forward(query, key, value, context)


def forward(query: Array, key: Array, value: Array, context: Context) -> tuple[Array, Array]:
    """`attend` without its derivative."""
    cut = _Cut(query, key, context)
    keys = (cut.keys(key), cut.keys(value), cut.key_places)
    shape = (query.shape[0], *cut.groups, cut.t)  # [B, G, R, t]

    def over_queries(block: tuple[Array, Places]) -> tuple[Array, Array]:
        q, i = block

        def over_keys(carry: tuple, block: tuple) -> tuple[tuple, None]:
            k, v, j = block
            seen = _visible(context, i, j)  # [B or 1, 1, 1, t, s]

            def visit(carry: tuple) -> tuple:
                top, total, out = carry
                logits = jnp.where(seen, _logits(q, k, context.bias, i, j, context.scale), -jnp.inf)
                new_top = jnp.maximum(top, logits.max(-1))
                # exp(-inf - -inf) would be nan where a row has seen nothing so far.
                safe = jnp.where(new_top == -jnp.inf, 0.0, new_top)
                p = jnp.exp(logits - safe[..., None])
                shrink = jnp.exp(top - safe)
                out = out * shrink[..., None] + _mix(p, v)
                return new_top, total * shrink + p.sum(-1), out

            return jax.lax.cond(seen.any(), visit, lambda carry: carry, carry), None

        wide = _wide(q.dtype)
        start = (
            jnp.full(shape, -jnp.inf, wide),
            jnp.zeros(shape, wide),
            jnp.zeros((*shape, value.shape[-1]), wide),
        )
        (top, total, out), _ = jax.lax.scan(over_keys, start, keys)
        some = total > 0
        out = out / jnp.where(some, total, 1.0)[..., None]
        # The double where: log(0) must not be made even where it is not taken.
        log_total = jnp.where(some, top + jnp.log(jnp.where(some, total, 1.0)), -jnp.inf)
        return out.astype(value.dtype), log_total

    out, log_total = jax.lax.map(over_queries, (cut.queries(query), cut.query_places))
    return cut.join(out), cut.join(log_total[..., None])[..., 0]


def backward(
    query: Array,
    key: Array,
    value: Array,
    context: Context,
    out: Array,
    log_total: Array,
    d_out: Array,
    d_log_total: Array | None = None,
) -> tuple[Array, Array, Array, list[Array]]:
    """Cotangents of query, key and value, and those of the bias's float leaves.

    With p = exp(logits - log_total): d_logits = p (d_out . value - d_out . out + d_log_total). The
    keys given may be a part of those that `out` and `log_total` are over: then these are that
    part's contributions, which add up.
    """
    cut = _Cut(query, key, context)
    wide = _wide(query.dtype)
    delta = jnp.einsum("bthv,bthv->bth", out.astype(wide), d_out.astype(wide))
    delta = delta if d_log_total is None else delta - d_log_total
    blocks = (cut.queries(query), cut.query_places, cut.queries(d_out))
    rows = (cut.queries(log_total[..., None])[..., 0], cut.queries(delta[..., None])[..., 0])
    free, rebuild = _split(context.bias)

    def over_keys(carry: tuple, block: tuple) -> tuple[tuple, tuple]:
        k, v, j = block

        def over_queries(carry: tuple, block: tuple) -> tuple[tuple, Array]:
            (q, i, d_o), (log_total, delta) = block
            seen = _visible(context, i, j)

            def visit(carry: tuple) -> tuple[tuple, Array]:
                d_k, d_v, d_bias = carry
                logits, pull = jax.vjp(
                    lambda q, k, free: _logits(q, k, rebuild(free), i, j, context.scale),
                    *(q, k, free),
                )
                safe = jnp.where(log_total == -jnp.inf, 0.0, log_total)[..., None]
                p = jnp.exp(jnp.where(seen, logits - safe, -jnp.inf))
                d_p = jnp.einsum("bgrtv,bgsv->bgrts", d_o, v, preferred_element_type=wide)
                d_q, d_k_here, d_free = pull(p * (d_p - delta[..., None]))
                d_v_here = jnp.einsum("bgrts,bgrtv->bgsv", p.astype(d_o.dtype), d_o)
                d_bias = [total + here for total, here in zip(d_bias, d_free)]
                return (d_k + d_k_here, d_v + d_v_here, d_bias), d_q.astype(wide)

            def skip(carry: tuple) -> tuple[tuple, Array]:
                return carry, jnp.zeros(q.shape, wide)

            return jax.lax.cond(seen.any(), visit, skip, carry)

        d_query, d_bias = carry
        start = (jnp.zeros(k.shape, wide), jnp.zeros(v.shape, wide), d_bias)
        (d_k, d_v, d_bias), d_q = jax.lax.scan(over_queries, start, (blocks, rows))
        return (d_query + d_q, d_bias), (d_k, d_v)

    start = (jnp.zeros(blocks[0].shape, wide), [jnp.zeros_like(leaf) for leaf in free])
    keys = (cut.keys(key), cut.keys(value), cut.key_places)
    (d_query, d_bias), (d_key, d_value) = jax.lax.scan(over_keys, start, keys)
    return cut.join(d_query), cut.join_keys(d_key), cut.join_keys(d_value), d_bias


def _forward(query: Array, key: Array, value: Array, context: Context) -> tuple:
    out, log_total = forward(query, key, value, context)
    return (out, log_total), (query, key, value, context, out, log_total)


def _backward(saved: tuple, cotangents: tuple[Array, Array]) -> tuple:
    query, key, value, context, _, _ = saved
    *d_inputs, d_bias = backward(*saved, *cotangents)
    like = (query, key, value)
    d_inputs = [d.astype(x.dtype) for d, x in zip(d_inputs, like)]
    return (*d_inputs, context_cotangent(context, d_bias))


attend.defvjp(_forward, _backward)


def context_cotangent(context: Context, d_bias: list[Array]) -> Context:
    """The cotangent of a context: that of the bias's float leaves, nothing else."""
    zeros = jax.tree.map(lambda leaf: _zero(leaf), context)
    d_bias = iter(d_bias)
    bias = jax.tree.map(lambda leaf: next(d_bias) if _is_float(leaf) else _zero(leaf), context.bias)
    return zeros.replace(bias=bias)


def float_leaves(bias: Bias | None) -> list[Array]:
    """The leaves of a bias that gradients reach."""
    return [leaf for leaf in jax.tree.leaves(bias) if _is_float(leaf)]


class _Cut:
    """Cuts arrays into blocks, the last one padded, and joins them again."""

    def __init__(self, query: Array, key: Array, context: Context):
        self.num_queries, self.num_keys = query.shape[1], key.shape[1]
        self.t = min(context.block[0], self.num_queries)
        self.s = min(context.block[1], self.num_keys)
        self.groups = (key.shape[2], query.shape[2] // key.shape[2])  # G, R
        self.query_places = tuple(
            _blocks(places, self.t, 0) for places in (context.query_slots, context.query_positions)
        )
        self.key_places = tuple(  # padding: no key
            _blocks(places, self.s, -1) for places in (context.key_slots, context.key_positions)
        )

    def queries(self, x: Array) -> Array:
        """[B, T, H, K] -> [N, B, G, R, t, K]."""
        x = _blocks(x, self.t, 0)
        x = x.reshape(*x.shape[:3], *self.groups, x.shape[-1])
        return x.transpose(0, 1, 3, 4, 2, 5)

    def keys(self, x: Array) -> Array:
        """[B, S, G, K] -> [N, B, G, s, K]."""
        return _blocks(x, self.s, 0).swapaxes(2, 3)

    def join(self, blocks: Array) -> Array:
        """[N, B, G, R, t, K] -> [B, T, H, K]."""
        x = blocks.transpose(1, 0, 4, 2, 3, 5)  # [B, N, t, G, R, K]
        x = x.reshape(x.shape[0], -1, x.shape[3] * x.shape[4], x.shape[5])
        return x[:, : self.num_queries]

    def join_keys(self, blocks: Array) -> Array:
        """[N, B, G, s, K] -> [B, S, G, K]."""
        x = blocks.transpose(1, 0, 3, 2, 4)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : self.num_keys]


def _blocks(x: Array, size: int, fill: int) -> Array:
    """[B, T, ...] -> [N, B, size, ...], padded at the end."""
    missing = -x.shape[1] % size
    x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
    return x.reshape(x.shape[0], -1, size, *x.shape[2:]).swapaxes(0, 1)


def _logits(q: Array, k: Array, bias: Bias | None, i: Places, j: Places, scale: float) -> Array:
    """[B, G, R, t, K], [B, G, s, K] -> [B, G, R, t, s]."""
    wide = _wide(q.dtype)
    logits = scale * jnp.einsum("bgrtk,bgsk->bgrts", q, k, preferred_element_type=wide)
    if bias is None:
        return logits
    (_, i), (_, j) = i, j
    values = bias(i[:, :, None], j[:, None, :]).astype(wide)  # [B or 1, H, t, s]
    return logits + values.reshape(values.shape[0], *q.shape[1:3], *values.shape[2:])


def _visible(context: Context, i: Places, j: Places) -> Array:
    return masks.visible(context.mask, i[0], j[0])[:, None, None]  # [B or 1, 1, 1, t, s]


def _mix(p: Array, v: Array) -> Array:
    """[B, G, R, t, s], [B, G, s, V] -> [B, G, R, t, V]."""
    return jnp.einsum("bgrts,bgsv->bgrtv", p.astype(v.dtype), v, preferred_element_type=p.dtype)


def _split(bias: Bias | None) -> tuple[list[Array], Callable[[list[Array]], Bias | None]]:
    """The float leaves of a bias, and the function that puts others in their place."""
    leaves, structure = jax.tree.flatten(bias)

    def rebuild(free: list[Array]) -> Bias | None:
        given = iter(free)
        full = [next(given) if _is_float(leaf) else leaf for leaf in leaves]
        return jax.tree.unflatten(structure, full)

    return float_leaves(bias), rebuild


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _zero(leaf: Array) -> PyTree:
    if _is_float(leaf):
        return jnp.zeros_like(leaf)
    return np.zeros(jnp.shape(leaf), jax.dtypes.float0)


@functools.lru_cache
def _wide(dtype: np.dtype) -> np.dtype:
    return at_least_float32(dtype)
