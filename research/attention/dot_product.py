"""`attend`: softmax attention with masks and biases of positions; picks the implementation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from library.types import Array, at_least_float32
from research.attention import blocked, masks

IMPLEMENTATIONS = ("auto", "plain", "blocked", "cudnn")
_PLAIN_LOGITS = 1024 * 1024  # T x S up to which all logits of a head are made at once


def attend(
    query: Array,
    key: Array,
    value: Array,
    mask: masks.Mask | None = None,
    bias: blocked.Bias | None = None,
    *,
    scale: float | None = None,
    query_positions: Array | None = None,
    key_positions: Array | None = None,
    query_slots: Array | None = None,
    key_slots: Array | None = None,
    implementation: str = "auto",
    block: tuple[int, int] = (512, 512),
) -> Array:
    """softmax(scale query key' + bias) value, Vaswani et al. 2017, arXiv:1706.03762, eq. (1).

    G = H is multi-head attention, G = 1 multi-query (Shazeer 2019, arXiv:1911.02150), between them
    grouped-query (Ainslie et al. 2023, arXiv:2305.13245): query head h uses key head h // (H/G).
    A query that sees nothing gets zero, with zero gradient, from every implementation.

    Args:
        query: [B, T, H, K] float.
        key: [B, S, G, K]; G divides H.
        value: [B, S, G, V]. Hidden keys and values must be finite: their weight is 0, but 0 times
            nan is nan.
        mask: from `research.attention.masks`; None lets every query see every key.
        bias: a pytree like `positions.Alibi`: (i [B or 1, T, 1], j [B or 1, 1, S]) -> float that
            broadcasts to [B, H, T, S]; gradients reach its float leaves.
        scale: factor on the logits, K^-1/2 when None.
        query_positions, key_positions: [B or 1, T], [B or 1, S] int, what the bias is called with;
            0, 1, ... when None.
        query_slots, key_slots: the same shapes, what the mask is called with (see `masks`); when
            None the positions, which `masks.Documents` refuses. A key at a negative slot is not
            there.
        implementation: "plain" makes all logits at once, "blocked" never more than a block of them,
            "cudnn" hands over to `jax.nn.dot_product_attention` (bias-free, masks that it knows),
            "auto" takes cuDNN on a GPU where it can, else blocks where T x S > 2^20.
        block: queries and keys in a block.
    Returns:
        [B, T, H, V] in the dtype of `value`.
    Raises:
        ValueError: for shapes that do not fit, or an implementation that cannot do what is asked.
    """
    places = (query_positions, key_positions, query_slots, key_slots)
    check(query, key, value, *places, implementation, block)
    _check_mask(mask, query, key, *places)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    numbered = all(given is None for given in places)
    native = cudnn_arguments(mask) if numbered and bias is None else None
    if implementation == "auto":
        implementation = _choose(query, key, value, native)
    if implementation == "cudnn":
        if native is None:
            raise ValueError(f"cuDNN knows no bias, no positions and no mask {mask}: use 'blocked'")
        return _native(query, key, value, scale, native)
    i = _positions(query_positions, query.shape[1])
    j = _positions(key_positions, key.shape[1])
    slots = (i if query_slots is None else query_slots, j if key_slots is None else key_slots)
    context = blocked.Context(*slots, i, j, mask, bias, scale, block)
    if implementation == "blocked":
        return blocked.attend(query, key, value, context)[0]
    return plain(query, key, value, context)


def plain(query: Array, key: Array, value: Array, context: blocked.Context) -> Array:
    """The same with all logits [B, H, T, S] at once; arguments as `blocked.attend`."""
    batch, length, num_heads, _ = query.shape
    wide = at_least_float32(query.dtype)
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # [B, H or G, ., K]
    # The H/G queries of a group are further rows of one product, which takes the keys as they lie.
    grouped = query.reshape(*key.shape[:2], -1, key.shape[-1])  # [B, G, H/G T, K]
    logits = jnp.einsum("bgmk,bgsk->bgms", grouped, key, preferred_element_type=wide)
    logits = context.scale * logits.reshape(batch, num_heads, length, -1)  # [B, H, T, S]
    if context.bias is not None:
        i, j = context.query_positions[:, :, None], context.key_positions[:, None, :]
        logits = logits + context.bias(i, j).astype(wide)
    seen = masks.visible(context.mask, context.query_slots, context.key_slots)[:, None]
    weights = softmax(logits, seen).astype(value.dtype)
    weights = weights.reshape(*grouped.shape[:3], -1)
    out = jnp.einsum("bgms,bgsv->bgmv", weights, value, preferred_element_type=wide)
    out = out.astype(value.dtype).reshape(batch, num_heads, length, -1)
    return jnp.swapaxes(out, 1, 2)


def softmax(logits: Array, seen: Array) -> Array:
    """Softmax over what is seen along the last axis; zero where nothing is.

    Args:
        logits: [..., S] float.
        seen: bool that broadcasts to it.
    Returns:
        [..., S] float, rows that sum to 1 or are all zero.
    """
    logits = jnp.where(seen, logits, -jnp.inf)
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    # The double where: exp(-inf - -inf) is nan, and so would its gradient be.
    p = jnp.exp(logits - jnp.where(top == -jnp.inf, 0.0, top))
    total = p.sum(-1, keepdims=True)
    return p / jnp.where(total > 0, total, 1.0)


def cudnn_arguments(mask: masks.Mask | None) -> dict[str, Any] | None:
    """How `jax.nn.dot_product_attention` is told a mask without T x S numbers; None if it can't be.

    It knows causal, window, padding, and all of these together.
    """
    parts = mask.masks if isinstance(mask, masks.Every) else (mask,) if mask is not None else ()
    kinds = [type(part) for part in parts]
    if not set(kinds) <= {masks.Causal, masks.Window, masks.Padding} or len(set(kinds)) < len(
        kinds
    ):
        return None
    causal = masks.Causal in kinds
    arguments: dict[str, Any] = {"is_causal": causal}
    for part in parts:
        if isinstance(part, masks.Window):
            reach = part.width - 1
            arguments["local_window_size"] = (reach, 0 if causal else reach)
        if isinstance(part, masks.Padding):
            arguments["key_value_seq_lengths"] = part.lengths
    return arguments


def _native(
    query: Array,
    key: Array,
    value: Array,
    scale: float,
    arguments: dict[str, Any],
    implementation: str = "cudnn",
) -> Array:
    out = jax.nn.dot_product_attention(
        query, key, value, scale=scale, implementation=implementation, **arguments
    )
    # A query without keys gets the kernel's own choice, in XLA the mean of all values. The nearest
    # key that is there decides: the query's own place or the last one.
    i = jnp.arange(query.shape[1])[None]
    lengths = arguments.get("key_value_seq_lengths", jnp.array([key.shape[1]]))[:, None]
    nearest = jnp.minimum(i, jnp.minimum(lengths, key.shape[1]) - 1)  # [B or 1, T]
    reach = arguments.get("local_window_size", (query.shape[1],))[0]
    seen = (nearest >= 0) & (i - nearest <= reach)
    return jnp.where(seen[:, :, None, None], out, jnp.zeros((), out.dtype))


def _choose(query: Array, key: Array, value: Array, native: dict[str, Any] | None) -> str:
    if native is not None and jax.default_backend() == "gpu":
        size = query.shape[-1]
        fits = size <= 128 and size % 8 == 0 and value.shape[-1] == size
        if fits and query.dtype in (jnp.bfloat16, jnp.float16):
            return "cudnn"
    return "blocked" if query.shape[1] * key.shape[1] > _PLAIN_LOGITS else "plain"


def _positions(given: Array | None, length: int) -> Array:
    return jnp.arange(length)[None] if given is None else given


def _check_mask(mask, query, key, query_positions, key_positions, query_slots, key_slots) -> None:
    if masks.holds(mask, masks.Documents):
        for name, places, slots in (
            ("query", query_positions, query_slots),
            ("key", key_positions, key_slots),
        ):
            if places is not None and slots is None:
                raise ValueError(
                    f"Documents go by slots: give {name}_slots beside {name}_positions, which may "
                    "start again with every document"
                )
    num_queries = query.shape[1] if query_slots is None else None
    num_keys = key.shape[1] if key_slots is None else None
    masks.check(mask, query.shape[0], num_queries, num_keys)


def check(
    query, key, value, query_positions, key_positions, query_slots, key_slots, implementation, block
) -> None:
    """Raises ValueError for what `attend` cannot take."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation={implementation!r}: expected one of {IMPLEMENTATIONS}")
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"{shapes}: expected [B, T, H, K], [B, S, G, K], [B, S, G, V]")
    if query.shape[0] != key.shape[0] or key.shape[:3] != value.shape[:3]:
        raise ValueError(f"{shapes}: expected the same B, S and G")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"{shapes}: queries and keys differ in size")
    if query.shape[2] % key.shape[2]:
        raise ValueError(f"{shapes}: {query.shape[2]} query heads over {key.shape[2]} key heads")
    if min(block) < 1:
        raise ValueError(f"block={block}: expected two positive sizes")
    for name, given, like in (
        ("query_positions", query_positions, query),
        ("key_positions", key_positions, key),
        ("query_slots", query_slots, query),
        ("key_slots", key_slots, key),
    ):
        if given is not None and given.shape not in ((1, like.shape[1]), like.shape[:2]):
            raise ValueError(
                f"{name} {given.shape}: expected (1 or {like.shape[0]}, {like.shape[1]})"
            )
