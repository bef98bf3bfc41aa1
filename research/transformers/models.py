"""Whole models around a stack of layers: a decoder, an encoder, and both together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Key, Params
from research.attention import cache as caches
from research.attention import masks, multihead
from research.attention import positions as places
from research.transformers import checks, layers


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A language model over one causal stack.

    Attributes:
        vocab_size: V.
        stack: its layers.
        max_length: rows of a learned table of positions; None has no table.
        tied: the output matrix is the embedding, transposed.
        embed_scale: factor on the embedding (Gemma: sqrt(D)).
        logit_scale: factor on what the output matrix reads (muP: base width / width).
    """

    vocab_size: int
    stack: layers.Stack
    max_length: int | None = None
    tied: bool = True
    embed_scale: float = 1.0
    logit_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """BERT and its relatives: a stack that sees both ways, with learned positions and segments.

    Attributes:
        vocab_size, max_length, num_segments: rows of the three tables whose sum is normalised.
        stack: its layers; `causal` must be False.
        first_position: row of the first token's position (RoBERTa: 2).
        pooler: a tanh layer over the first token.
        masked_lm: a head over all tokens, its output matrix tied to the embedding.
        next_sentence: two logits over the pooled token; needs the pooler.
    """

    vocab_size: int
    stack: layers.Stack
    max_length: int = 512
    num_segments: int = 2
    first_position: int = 0
    pooler: bool = False
    masked_lm: bool = False
    next_sentence: bool = False

    def __post_init__(self) -> None:
        if self.stack.causal:
            raise ValueError("an encoder's stack has causal=False")
        if self.next_sentence and not self.pooler:
            raise ValueError("next_sentence needs the pooler")


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
    """A sequence-to-sequence model; source and target share one vocabulary and embedding.

    Attributes:
        vocab_size: V.
        encoder: a stack with causal=False.
        decoder: a causal stack with cross=True.
        sinusoidal: add the sines of 2017 to the embeddings.
        max_length: rows of two learned tables of positions, of source and target; None has none.
        embed_scale: factor on the embedding.
        tied: the output matrix is the embedding, transposed.
        logit_scale: factor on what the output matrix reads (T5: D^-1/2).
    """

    vocab_size: int
    encoder: layers.Stack
    decoder: layers.Stack
    sinusoidal: bool = False
    max_length: int | None = None
    embed_scale: float = 1.0
    tied: bool = True
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.sinusoidal and self.max_length is not None:
            raise ValueError("sinusoidal and max_length are both given: expected one of them")
        ours = (self.encoder.causal, self.encoder.cross, self.decoder.causal, self.decoder.cross)
        if ours != (False, False, True, True):
            raise ValueError(
                f"causal and cross of encoder and decoder are {ours}: expected "
                "encoder.causal=False, encoder.cross=False, decoder.causal=True, decoder.cross=True"
            )
        if self.encoder.width != self.decoder.width:
            raise ValueError(f"widths {self.encoder.width} and {self.decoder.width} differ")


class Decoder(nn.Module):
    """`apply(params, tokens)` -> logits; with a cache, logits and cache."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        positions: Array | None = None,
        mask: masks.Mask | None = None,
        cache: caches.Cache | None = None,
        rng: Key | None = None,
        slots: Array | None = None,
    ) -> Any:
        """Logits of the next token after each.

        A row of packed documents is right for every kind of position with
        `mask=masks.Documents(ids)` and `positions=positions.in_documents(ids)`.

        Args:
            tokens: [B, T] int in [0, V); under jit one outside is read as the nearest inside.
            positions: [B or 1, T] int, for tables, rotation and bias; 0, 1, ... when None.
                Negative: padding.
            mask: beside the causal one, e.g. `masks.Documents`.
            cache: from `empty_cache`; then only new tokens are given, with their positions.
            rng: dropout's key; None drops nothing.
            slots: [B or 1, T] int, where the tokens lie in their row, for mask and cache; None is
                the positions with a cache, else 0, 1, ... Under jit a token beyond the cache's last
                slot is dropped.
        Returns:
            [B, T, V] float; with a cache the pair (logits, cache).
        Raises:
            ValueError: for more tokens than the table has positions, a cache without positions, or
                concrete tokens, positions or slots beyond vocabulary, table or cache.
        """
        config = self.config
        checks.tokens("tokens", tokens, config.vocab_size, config.max_length, positions)
        checks.cache_slots(cache, positions if slots is None else slots)
        embed = _embedding(self, "embedding", config.vocab_size, config.stack)
        x = _rows(embed, tokens) * config.embed_scale  # [B, T, D]
        if config.max_length is not None:
            table = _embedding(self, "positions", config.max_length, config.stack)
            x = x + _rows(table, _numbered(positions, tokens))
        input_rng, layers_rng = _two(rng)
        x = layers.dropout(input_rng, x, config.stack.dropout)
        x, cache_out = layers.Layers(config.stack, name="stack")(
            x, positions=positions, slots=slots, mask=mask, cache=cache, rng=layers_rng
        )
        logits = _logits(self, x * config.logit_scale, embed, config)
        return logits if cache is None else (logits, cache_out)


class Encoder(nn.Module):
    """`apply(params, tokens)` -> {"hidden", and "pooled", "logits", "next_sentence" by config}."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segments: Array | None = None,
        mask: masks.Mask | None = None,
        rng: Key | None = None,
        positions: Array | None = None,
    ) -> dict[str, Array]:
        """Features of every token, and the heads' outputs.

        Args:
            tokens: [B, T] int.
            segments: [B, T] int; 0 when None.
            mask: e.g. `masks.Padding`, or `masks.Documents(ids)` for packed documents, which want
                `positions=positions.in_documents(ids)`; `pooled` is of the row's first token.
            rng: dropout's key; None drops nothing.
            positions: [B or 1, T] int, 0, 1, ... when None. Negative: padding.
        Returns:
            hidden [B, T, D]; pooled [B, D]; logits [B, T, V]; next_sentence [B, 2].
        Raises:
            ValueError: for more tokens than the table has positions.
        """
        config, stack = self.config, self.config.stack
        length = config.max_length - config.first_position
        checks.tokens("tokens", tokens, config.vocab_size, length, positions)
        if segments is not None:
            checks.tokens("segments", segments, config.num_segments)
        embed = _embedding(self, "embedding", config.vocab_size, stack)
        places_ = _embedding(self, "positions", config.max_length, stack)
        kinds = _embedding(self, "segments", config.num_segments, stack)
        i = _numbered(positions, tokens) + config.first_position
        x = _rows(embed, tokens) + _rows(places_, i)
        x = x + _rows(kinds, jnp.zeros_like(tokens) if segments is None else segments)
        input_rng, layers_rng = _two(rng)
        x = layers.dropout(input_rng, stack.norm("embedding_norm")(x), stack.dropout)
        x, _ = layers.Layers(stack, name="stack")(x, positions=positions, mask=mask, rng=layers_rng)
        out = {"hidden": x}
        init = nn.initializers.normal(stack.init_std)
        if config.pooler:
            pooled = nn.Dense(stack.width, kernel_init=init, name="pooler")(x[:, 0])
            out["pooled"] = jnp.tanh(pooled)
        if config.masked_lm:
            h = stack.activation(nn.Dense(stack.width, kernel_init=init, name="head")(x))
            h = stack.norm("head_norm")(h)
            bias = self.param("head_bias", nn.initializers.zeros, (config.vocab_size,))
            out["logits"] = jnp.einsum("btd,vd->btv", h, embed.astype(h.dtype)) + bias[None, None]
        if config.next_sentence:
            judge = nn.Dense(2, kernel_init=init, name="next_sentence")
            out["next_sentence"] = judge(out["pooled"])
        return out


class EncoderDecoder(nn.Module):
    """`apply(params, source, target)` -> logits; `method="encode"`, `"decode"` for the halves."""

    config: EncoderDecoderConfig

    def setup(self) -> None:
        config = self.config
        self.embedding = _embedding(self, "embedding", config.vocab_size, config.encoder)
        if config.max_length is not None:
            self.source_positions, self.target_positions = (
                _embedding(self, name, config.max_length, config.encoder)
                for name in ("source_positions", "target_positions")
            )
        self.encoder = layers.Layers(config.encoder)
        self.decoder = layers.Layers(config.decoder)
        if not config.tied:
            init = nn.initializers.normal(config.decoder.init_std)
            self.output = nn.Dense(config.vocab_size, use_bias=False, kernel_init=init)

    def __call__(
        self,
        source: Array,
        target: Array,
        source_mask: masks.Mask | None = None,
        rng: Key | None = None,
    ) -> Array:
        """Logits of the next target token after each.

        Rows of packed pairs go through the halves: `encode` with `masks.Documents(source_ids)`,
        `decode` with `mask=masks.Documents(target_ids)` and
        `memory_mask=masks.Documents(target_ids, source_ids)`, both with `positions.in_documents`.

        Args:
            source, target: [B, S], [B, T] int in [0, V); the target shifted right by the caller.
            source_mask: e.g. `masks.Padding`, for the encoder and the attention to it.
            rng: dropout's key; None drops nothing.
        Returns:
            [B, T, V] float.
        Raises:
            ValueError: for more tokens than the tables have positions, concrete ones beyond the
                vocabulary, or a source mask of documents, which says nothing of the target's.
        """
        if masks.holds(source_mask, masks.Documents):
            raise ValueError("source_mask of Documents: packed pairs go through encode and decode")
        encoder_rng, decoder_rng = _two(rng)
        memory = self.encode(source, source_mask, encoder_rng)
        return self.decode(target, memory, source_mask, rng=decoder_rng)

    def encode(
        self,
        source: Array,
        source_mask: masks.Mask | None = None,
        rng: Key | None = None,
        positions: Array | None = None,
    ) -> Array:
        """[B, S] -> [B, S, D], the memory; positions [B or 1, S] are 0, 1, ... when None."""
        self._check("source", source, positions)
        x = self._embed(source, positions, "source_positions")
        first, rng = _two(rng)
        x = layers.dropout(first, x, self.config.encoder.dropout)
        return self.encoder(x, positions=positions, mask=source_mask, rng=rng)[0]

    def decode(
        self,
        target: Array,
        memory: Array,
        memory_mask: masks.Mask | None = None,
        positions: Array | None = None,
        cache: caches.Cache | None = None,
        rng: Key | None = None,
        mask: masks.Mask | None = None,
        slots: Array | None = None,
    ) -> Any:
        """[B, T] and a memory -> [B, T, V]; with a cache (and positions) logits and cache.

        `mask` is for the target itself, `memory_mask` for the memory; the rest as in `Decoder`.
        """
        self._check("target", target, positions)
        checks.cache_slots(cache, positions if slots is None else slots)
        x = self._embed(target, positions, "target_positions")
        first, rng = _two(rng)
        x = layers.dropout(first, x, self.config.decoder.dropout)
        options = {"memory": memory, "memory_mask": memory_mask, "cache": cache, "rng": rng}
        x, cache_out = self.decoder(x, positions=positions, slots=slots, mask=mask, **options)
        x = x * self.config.logit_scale
        if self.config.tied:
            logits = jnp.einsum("btd,vd->btv", x, self.embedding.astype(x.dtype))
        else:
            logits = self.output(x)
        return logits if cache is None else (logits, cache_out)

    def _check(self, name: str, tokens: Array, positions: Array | None) -> None:
        checks.tokens(name, tokens, self.config.vocab_size, self.config.max_length, positions)

    def _embed(self, tokens: Array, positions: Array | None, table: str) -> Array:
        x = _rows(self.embedding, tokens) * self.config.embed_scale
        i = _numbered(positions, tokens)
        if self.config.sinusoidal:
            x = x + places.sinusoidal(i, x.shape[-1]).astype(x.dtype)
        if self.config.max_length is not None:
            x = x + _rows(getattr(self, table), i)
        return x


def empty_cache(
    config: DecoderConfig,
    batch: int,
    length: int,
    dtype: Any = jnp.float32,
    make: Callable[..., caches.Cache] = caches.contiguous,
) -> caches.Cache:
    """A cache of `length` tokens for all layers of a decoder.

    Raises:
        ValueError: if it is longer than the table of positions.
    """
    if config.max_length is not None and length > config.max_length:
        raise ValueError(f"a cache of {length} tokens: the model has {config.max_length} positions")
    return make(config.stack.depth, batch, length, *config.stack.kv_shape, dtype)


def unstack(
    config: DecoderConfig, params: Params, cache: caches.Cache | None = None
) -> tuple[DecoderConfig, Params, Any]:
    """The same decoder with a tree per layer, for decoding one token at a time.

    A scan over stacked layers copies each layer's weights out of the stack, at every call; where a
    call reads them for a single token, that triples what goes through memory on a CPU.

    Args:
        config, params, cache: of a decoder whose layers are scanned.
    Returns:
        The same three for `scanned=False`; the cache is a tuple, one a layer.
    Raises:
        ValueError: if the layers are not scanned.
    """
    if not config.stack.scanned:
        raise ValueError("the layers of this decoder are apart already (scanned=False)")

    def pick(tree: Any, index: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[index], tree)

    depth = config.stack.depth
    stack = dict(params["params"]["stack"])
    stacked = stack.pop("layers")
    stack |= {f"layer{index}": pick(stacked, index) for index in range(depth)}
    apart = dataclasses.replace(config, stack=dataclasses.replace(config.stack, scanned=False))
    caches_ = None if cache is None else tuple(pick(cache, index) for index in range(depth))
    return apart, {**params, "params": {**params["params"], "stack": stack}}, caches_


def matrices(params: Params) -> Params:
    """True for matrices and tables, False for vectors: where weight decay belongs, as in GPT-3."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: path[-1].key not in ("bias", "scale", "head_bias"), params
    )


def _embedding(module: nn.Module, name: str, rows: int, stack: layers.Stack) -> Array:
    return module.param(name, nn.initializers.normal(stack.init_std), (rows, stack.width))


def _rows(table: Array, index: Array) -> Array:
    return jnp.take(table, index, axis=0, mode="clip")


def _numbered(positions: Array | None, tokens: Array) -> Array:
    return jnp.arange(tokens.shape[1])[None] if positions is None else positions


def _logits(module: nn.Module, x: Array, embed: Array, config: DecoderConfig) -> Array:
    if config.tied:
        table = embed.astype(x.dtype)
        return multihead.on_rows(lambda rows: jnp.einsum("...d,vd->...v", rows, table), x)
    init = nn.initializers.normal(config.stack.init_std)
    return nn.Dense(config.vocab_size, use_bias=False, kernel_init=init, name="output")(x)


def _two(rng: Key | None) -> tuple[Key | None, Key | None]:
    return (None, None) if rng is None else tuple(jax.random.split(rng))
