"""The attention layer as a Flax Linen module: projections, grouped queries, rotation, cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array
from research.attention import blocked, dot_product, masks
from research.attention import cache as caches
from research.attention import positions as places


class MultiHead(nn.Module):
    """Multi-head, grouped-query or multi-query attention, of itself or of a memory.

    Parameters: `query/kernel` [D, H, K], `key/kernel` and `value/kernel` [D, G, K], `out/kernel`
    [H, K, D], and biases of the same axes without the first.

    Attributes:
        num_heads: H.
        head_dim: K; None is D / H.
        num_kv_heads: G; None is H.
        use_bias: whether the four projections add a vector.
        scale: factor on the logits; None is K^-1/2.
        rope: rotation of queries and keys by position.
        kernel_init, out_init: of the first three projections and of the last.
        implementation: of `dot_product.attend`.
    """

    num_heads: int
    head_dim: int | None = None
    num_kv_heads: int | None = None
    use_bias: bool = True
    scale: float | None = None
    rope: places.Rope | None = None
    kernel_init: Any = nn.initializers.xavier_uniform()
    out_init: Any = nn.initializers.xavier_uniform()
    implementation: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Array,
        memory: Array | None = None,
        mask: masks.Mask | None = None,
        bias: blocked.Bias | None = None,
        positions: Array | None = None,
        cache: caches.Cache | None = None,
        slots: Array | None = None,
    ) -> tuple[Array, caches.Cache | None]:
        """Attends from x to x, to a memory, or to x and what a cache holds.

        Args:
            x: [B, T, D] float.
            memory: [B, S, M] float to attend to instead of x; excludes a cache.
            mask, bias: see `dot_product.attend`.
            positions: [B or 1, T] int of x, for rotation and bias; 0, 1, ... when None, needed with
                a cache. A token at a negative one is padding.
            cache: of one layer.
            slots: [B or 1, T] int, where the tokens lie in their row, for mask and cache. None is
                the positions with a cache (whose keys the bias then sees by slot), else 0, 1, ...;
                so without a cache positions may start again with every packed document.
        Returns:
            [B, T, D], and the cache with the new keys and values (None without one).
        Raises:
            ValueError: for head counts that do not divide, a cache without positions, or with
                `masks.Documents` and no slots.
        """
        chex.assert_rank(x, 3)
        num_kv_heads = self.num_kv_heads or self.num_heads
        self._check(x, num_kv_heads, memory, positions, cache)
        check_slots(mask, cache, slots)
        if cache is None and slots is None:
            masks.check(mask, *x.shape[:2], (x if memory is None else memory).shape[1])
        head_dim = self.head_dim or x.shape[-1] // self.num_heads
        source = x if memory is None else memory
        query = on_rows(self._project("query", self.num_heads, head_dim), x)  # [B, T, H, K]
        key = on_rows(self._project("key", num_kv_heads, head_dim), source)  # [B, S, G, K]
        value = on_rows(self._project("value", num_kv_heads, head_dim), source)
        if self.rope is not None:
            i = jnp.arange(x.shape[1])[None] if positions is None else positions
            query, key = self.rope(query, i), self.rope(key, i)
        query_positions = positions
        slots = _slots(positions, slots, cached=cache is not None)
        key_positions, key_slots = (positions, slots) if memory is None else (None, None)
        if cache is not None:
            cache, key, value, key_slots = cache.update(key, value, slots)
            query_positions, key_positions = slots, key_slots
        mixed = dot_product.attend(
            query,
            key.astype(query.dtype),
            value.astype(query.dtype),
            mask,
            bias,
            scale=self.scale,
            query_positions=query_positions,
            key_positions=key_positions,
            query_slots=slots,
            key_slots=key_slots,
            implementation=self.implementation,
        )
        out = nn.DenseGeneral(
            x.shape[-1],
            axis=(-2, -1),
            use_bias=self.use_bias,
            kernel_init=self.out_init,
            name="out",
        )
        return on_rows(out, mixed), cache

    def _project(self, name: str, num_heads: int, head_dim: int) -> nn.DenseGeneral:
        return nn.DenseGeneral(
            (num_heads, head_dim), use_bias=self.use_bias, kernel_init=self.kernel_init, name=name
        )

    def _check(self, x, num_kv_heads, memory, positions, cache) -> None:
        if self.num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads={num_kv_heads} does not divide {self.num_heads} heads")
        if self.head_dim is None and x.shape[-1] % self.num_heads:
            raise ValueError(f"width {x.shape[-1]} is not a multiple of {self.num_heads} heads")
        if cache is not None and (positions is None or memory is not None):
            raise ValueError("a cache needs the positions of the new tokens, and no memory")


def _slots(positions: Array | None, slots: Array | None, cached: bool) -> Array | None:
    """Where tokens lie in their row; negative where there is none."""
    if slots is not None or positions is None or cached:
        return positions if slots is None else slots
    return jnp.where(positions < 0, -1, jnp.arange(positions.shape[1])[None])  # [B or 1, T]


def check_slots(mask: masks.Mask | None, cache: caches.Cache | None, slots: Array | None) -> None:
    """Raises ValueError for a mask of documents with a cache and no slots to look them up by."""
    if cache is not None and slots is None and masks.holds(mask, masks.Documents):
        raise ValueError(
            "Documents with a cache: give slots [B or 1, T], where the tokens lie in their row, "
            "beside positions, which may start again with every document"
        )


def on_rows(function: Callable[[Array], Array], x: Array) -> Array:
    """A map of tokens [B, T, ...] -> [B, T, ...], on a CPU as one of rows [B T, ...].

    The gradient of a matrix sums over tokens. Where these are two axes, XLA copies what it
    multiplies into the transposed order first, which took a CPU longer than the product; other
    backends do without, and there a mesh may split both axes.
    """
    if jax.default_backend() != "cpu":
        return function(x)
    rows = function(x.reshape(-1, *x.shape[2:]))
    return rows.reshape(*x.shape[:2], *rows.shape[1:])
