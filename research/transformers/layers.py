"""A stack of transformer layers: what differs between architectures is data in a config."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Key, at_least_float32
from research.attention import blocked, masks, multihead
from research.attention import cache as caches
from research.attention import positions as places

gelu_tanh = functools.partial(nn.gelu, approximate=True)  # GPT-2, Gemma
gelu_exact = functools.partial(nn.gelu, approximate=False)  # BERT, nanoGPT


@dataclasses.dataclass(frozen=True)
class Norm:
    """A normalisation over features, with a learned scale.

    "layer": zero mean, unit variance (Ba et al. 2016, arXiv:1607.06450). "rms": unit mean square
    (Zhang and Sennrich 2019, arXiv:1910.07467).

    Attributes:
        kind: which of the two.
        epsilon: added to the variance or mean square.
        use_bias: whether a vector is added; "rms" has none.
        scale_offset: added to the learned scale, which then starts at 1 - scale_offset.
    """

    kind: Literal["layer", "rms"] = "layer"
    epsilon: float = 1e-5
    use_bias: bool = True
    scale_offset: float = 0.0

    def __call__(self, name: str) -> Normalise:
        """The module of this norm."""
        return Normalise(self, name=name)


@dataclasses.dataclass(frozen=True)
class Stack:
    """All that defines a stack of layers.

    Attributes:
        depth, width, num_heads, hidden_dim: L, D, H, F.
        num_kv_heads: G of grouped queries; None is H.
        head_dim: K; None is D / H.
        norm: of every branch.
        pre_norm: normalise the input of each branch, and once more at the end; False normalises
            after each sum, as in 2017 and in BERT.
        activation: of the perceptron.
        gated: a third matrix, multiplied elementwise: act(x gate) * (x up) (arXiv:2002.05202).
        use_bias: vectors in all linear maps.
        scale: of the logits; None is K^-1/2.
        rope: rotary positions.
        num_buckets: buckets of T5's bias, one table for all layers; None has no bias.
        alibi: the bias of arXiv:2108.12409.
        causal: a token sees none after it.
        window: a token sees this many, its own included; None sees all.
        cross: a second attention, to a memory.
        dropout: rate on every branch (not on attention weights).
        init_std: of all matrices; those that write to the sum get init_std / sqrt(2 L), as GPT-2.
        remat: recompute each layer in the backward pass: memory for one layer's inside only.
        unroll: layers per iteration of the scan over layers.
        scanned: False keeps a tree per layer, `layer0/...` without the leading L, and a tuple of
            caches: compiles longer, but takes no layer out of a stack, which on a CPU is a copy of
            its weights at every call (`models.unstack`).
        implementation: of `dot_product.attend`.
    """

    depth: int
    width: int
    num_heads: int
    hidden_dim: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    norm: Norm = Norm()
    pre_norm: bool = True
    activation: Callable[[Array], Array] = gelu_tanh
    gated: bool = False
    use_bias: bool = True
    scale: float | None = None
    rope: places.Rope | None = None
    num_buckets: int | None = None
    alibi: bool = False
    causal: bool = True
    window: int | None = None
    cross: bool = False
    dropout: float = 0.0
    init_std: float = 0.02
    remat: bool = False
    unroll: int = 1
    scanned: bool = True
    implementation: str = "auto"

    def __post_init__(self) -> None:
        sizes = (self.depth, self.width, self.num_heads, self.hidden_dim, self.unroll)
        if min(sizes) < 1:
            raise ValueError(f"depth, width, heads, hidden, unroll = {sizes}: expected all >= 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: expected 0 <= dropout < 1")
        for name in ("num_kv_heads", "head_dim", "num_buckets", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected at least 1, or None")
        if self.num_buckets and self.alibi:
            raise ValueError("num_buckets and alibi are both given: expected one bias")

    @property
    def kv_shape(self) -> tuple[int, int]:
        """G, K: what a cache keeps of a token in a layer."""
        return (
            self.num_kv_heads or self.num_heads,
            self.head_dim or self.width // self.num_heads,
        )


class Normalise(nn.Module):
    """`Norm` as a module; statistics in float32 or wider."""

    norm: Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., D] -> [..., D]."""
        start = nn.initializers.constant(1.0 - self.norm.scale_offset)
        scale = self.param("scale", start, x.shape[-1:]) + self.norm.scale_offset
        wide = x.astype(at_least_float32(x.dtype))
        if self.norm.kind == "layer":
            wide = wide - wide.mean(-1, keepdims=True)
        size = jnp.square(wide).mean(-1, keepdims=True)
        row = (1,) * (x.ndim - 1) + x.shape[-1:]
        y = wide * jax.lax.rsqrt(size + self.norm.epsilon) * scale.reshape(row)
        if self.norm.kind == "layer" and self.norm.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, x.shape[-1:]).reshape(row)
        return y.astype(x.dtype)


class Perceptron(nn.Module):
    """act(x up) down, or gated: (act(x gate) * (x up)) down; all kernels [D, F] but the last."""

    stack: Stack

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, T, D] -> [B, T, D]."""
        return multihead.on_rows(self._rows, x)

    def _rows(self, x: Array) -> Array:
        stack = self.stack
        dense = functools.partial(nn.Dense, use_bias=stack.use_bias)
        into, out = _inits(stack)
        hidden = dense(stack.hidden_dim, kernel_init=into, name="up")(x)  # [B, T, F]
        if stack.gated:
            gate = dense(stack.hidden_dim, kernel_init=into, name="gate")(x)
            hidden = stack.activation(gate) * hidden
        else:
            hidden = stack.activation(hidden)
        return dense(stack.width, kernel_init=out, name="down")(hidden)


class Layer(nn.Module):
    """Attention, perhaps attention to a memory, a perceptron; each a branch that is added."""

    stack: Stack

    @nn.compact
    def __call__(self, x, cache, rng, mask, bias, positions, slots, memory, memory_mask):
        """[B, T, D] and a cache -> [B, T, D] and the cache; the form that `nn.scan` wants."""
        stack = self.stack
        rngs = [None] * 3 if rng is None else list(jax.random.split(rng, 3))
        cached = cache is not None

        def branch(x: Array, name: str, function: Callable[[Array], Array]) -> Array:
            norm, rng = stack.norm(f"{name}_norm"), rngs.pop()
            if stack.pre_norm:
                return x + dropout(rng, function(norm(x)), stack.dropout)
            return norm(x + dropout(rng, function(x), stack.dropout))

        def attend(x: Array) -> Array:
            nonlocal cache
            out, cache = _attention(stack, "attention")(
                x, mask=mask, bias=bias, positions=positions, cache=cache, slots=slots
            )
            return out

        x = branch(x, "attention", attend)
        if stack.cross:
            cross = _attention(stack, "cross")
            slots = positions if slots is None and cached else slots
            options = {"memory": memory, "mask": memory_mask, "slots": slots}
            x = branch(x, "cross", lambda x: cross(x, **options)[0])
        return branch(x, "mlp", Perceptron(stack, name="mlp")), cache


class Layers(nn.Module):
    """All layers of a stack; scanned, parameters are `layers/...` [L, ...] and the body is one."""

    stack: Stack

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        positions: Array | None = None,
        slots: Array | None = None,
        mask: masks.Mask | None = None,
        memory: Array | None = None,
        memory_mask: masks.Mask | None = None,
        cache: caches.Cache | None = None,
        rng: Key | None = None,
    ) -> tuple[Array, caches.Cache | None]:
        """Runs the stack.

        Args:
            x: [B, T, D] float.
            positions, slots: [B or 1, T] int, see `multihead.MultiHead`.
            mask: beside those of the config (causal, window).
            memory: [B, S, M] float, needed by a stack with `cross`.
            memory_mask: which of the memory is seen.
            cache: of all layers, leaves [L, ...], or a tuple of L where they are not scanned; needs
                positions.
            rng: dropout's key; None drops nothing.
        Returns:
            [B, T, D], and the cache with the new tokens (None without one).
        """
        stack = self.stack
        if stack.cross != (memory is not None):
            raise ValueError(f"the stack has cross={stack.cross} and a memory of {memory}")
        multihead.check_slots(memory_mask, cache, slots)
        rngs = None
        if rng is not None and stack.dropout:
            rngs = jax.random.split(rng, stack.depth)
        shared = (self._mask(mask), self._bias(), positions, slots, memory, memory_mask)
        x, cache = (self._scanned if stack.scanned else self._apart)(x, cache, rngs, *shared)
        return stack.norm("final_norm")(x) if stack.pre_norm else x, cache

    def _scanned(self, x: Array, cache, rngs, *shared) -> tuple[Array, caches.Cache | None]:
        stack = self.stack
        layer = nn.remat(Layer, prevent_cse=False) if stack.remat else Layer
        scanned = nn.scan(
            layer,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=(0, 0) + (nn.broadcast,) * 6,
            length=stack.depth,
            unroll=min(stack.unroll, stack.depth),
        )
        return scanned(stack, name="layers")(x, cache, rngs, *shared)

    def _apart(self, x: Array, cache, rngs, *shared) -> tuple[Array, tuple | None]:
        stack = self.stack
        layer = nn.remat(Layer) if stack.remat else Layer
        old, new = cache or (None,) * stack.depth, []
        for index in range(stack.depth):
            rng = None if rngs is None else rngs[index]
            x, one = layer(stack, name=f"layer{index}")(x, old[index], rng, *shared)
            new.append(one)
        return x, None if cache is None else tuple(new)

    def _mask(self, mask: masks.Mask | None) -> masks.Mask | None:
        own = [masks.Causal()] if self.stack.causal else []
        own += [masks.Window(self.stack.window)] if self.stack.window else []
        return masks.every(*own, mask)

    def _bias(self) -> blocked.Bias | None:
        stack = self.stack
        if stack.num_buckets:
            shape = (stack.num_buckets, stack.num_heads)
            table = self.param("buckets", nn.initializers.normal(stack.init_std), shape)
            return places.Buckets(table, bidirectional=not stack.causal)
        if stack.alibi:
            slopes = places.alibi_slopes(stack.num_heads)
            return places.Alibi(jnp.asarray(slopes, jnp.result_type(float)))
        return None


def dropout(rng: Key | None, x: Array, rate: float) -> Array:
    """Zeroes elements at `rate`, scales the rest by 1 / (1 - rate); a key of None does nothing."""
    if rng is None or not rate:
        return x
    keep = jax.random.bernoulli(rng, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


def _attention(stack: Stack, name: str) -> multihead.MultiHead:
    into, out = _inits(stack)
    return multihead.MultiHead(
        stack.num_heads,
        stack.head_dim,
        stack.num_kv_heads,
        stack.use_bias,
        stack.scale,
        stack.rope if name == "attention" else None,
        into,
        out,
        stack.implementation,
        name=name,
    )


def _inits(stack: Stack) -> tuple[Any, Any]:
    """Initialisers of matrices that read from the sum, and of those that write to it."""
    std = stack.init_std
    return nn.initializers.normal(std), nn.initializers.normal(std / (2 * stack.depth) ** 0.5)
