"""Text from any decoder with a cache: prefill and the whole decoding loop in one compiled call.

A decoder is a pure function

    step(params, cache, tokens [B, T] int, positions [B, T] int) -> (logits [B, T, V], cache)

where a token at a negative position is padding; `DecoderStep` makes one of a decoder of
`research.transformers`. Rows never see each other, and each has its own key, so neither the company
nor the order of a batch changes what a row says.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key, Params, PyTree
from research.attention import cache as caches
from research.language_models.decoding import checks, sampling

Step = Callable[[Params, PyTree, Array, Array], tuple[Array, PyTree]]


@dataclasses.dataclass(frozen=True)
class DecoderStep:
    """The step of a Flax decoder; steps of equal models share their compiled code.

    Attributes:
        model: `model.apply(params, tokens, positions=, cache=)` -> (logits, cache). Of a decoder of
            `research.transformers` the vocabulary, the table of positions and the window are known,
            so that prompts and caches are checked against them.
    """

    model: Any

    @property
    def vocab_size(self) -> int | None:
        """V; None if it is not known."""
        return getattr(getattr(self.model, "config", None), "vocab_size", None)

    @property
    def max_length(self) -> int | None:
        """Positions in a learned table; None without one."""
        return getattr(getattr(self.model, "config", None), "max_length", None)

    @property
    def window(self) -> int | None:
        """Keys that a query sees at most; None for all."""
        return getattr(getattr(getattr(self.model, "config", None), "stack", None), "window", None)

    def __call__(
        self, params: Params, cache: PyTree, tokens: Array, positions: Array
    ) -> tuple[Array, PyTree]:
        """Logits [B, T, V] and the cache with the new tokens."""
        return self.model.apply(params, tokens, positions=positions, cache=cache)


@flax.struct.dataclass
class Generated:
    """What `generate` returns.

    Attributes:
        tokens: [B, N] int32, the new tokens; `pad` after a stop token.
        lengths: [B] int32, how many of them count, the stop token included.
        log_probs: [B, N] float, of the tokens under the sampler's law, nats; 0 for padding.
        cache: holds the prompt and all new tokens but the last.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    cache: PyTree


def generate(
    step: Step,
    params: Params,
    cache: PyTree,
    prompts: Array,
    prompt_lengths: Array,
    rngs: Key,
    *,
    num_tokens: int,
    sampler: sampling.Sampler = sampling.GREEDY,
    capacity: int | None = None,
    stop_token: int | None = None,
    pad: int = 0,
    block: int | None = None,
) -> Generated:
    """Continues every prompt by up to `num_tokens` tokens.

    The loop ends early when all rows have stopped.

    Args:
        step: the decoder; the same function object shares its compiled code.
        params: of the decoder.
        cache: an empty cache for B rows, with room for each prompt and all new tokens but the last;
            a ring of fewer slots (`caches.Ring`) serves a window.
        prompts: [B, T] int, each from the left, anything behind its end.
        prompt_lengths: [B] int, in 1 ... T.
        rngs: [B] keys, one a row.
        num_tokens: N >= 1.
        sampler: the law of a token given its logits.
        capacity: positions that a cache of another kind holds; None where it is known or unbounded.
        stop_token: ends a row; None for none.
        pad: fills a row behind its end.
        block: tokens after which more of the cache is read; None reads all of it, also what is yet
            empty. Each block compiles a loop of its own.
    Raises:
        ValueError: for shapes that do not fit, a cache or a table that is too small, or a token
            outside the vocabulary.
    """
    prompts, prompt_lengths = checks.arrays(prompts, prompt_lengths)
    lengths = checks.prompts(prompts, prompt_lengths, num_tokens)
    if rngs.shape != lengths.shape:
        raise ValueError(f"rngs of shape {rngs.shape}: expected one key a row, {lengths.shape}")
    # The last token is returned but never fed.
    checks.room(step, cache, lengths + num_tokens - 1, capacity, fed=int(lengths.max()))
    size = checks.vocab_size(step, params, cache, prompts)
    there = np.arange(prompts.shape[1]) < lengths[:, None]
    checks.vocabulary(size, prompts, there, stop_token=stop_token)
    if block is not None and block < 1:
        raise ValueError(f"block={block}: expected at least 1 token, or None")
    options = (num_tokens, sampler, stop_token, pad, block)
    return _generate(step, params, cache, prompts, prompt_lengths, rngs, *options)


def prefill(
    step: Step, params: Params, cache: PyTree, prompts: Array, prompt_lengths: Array
) -> tuple[Array, PyTree]:
    """Logits [B, V] after each prompt, and the cache that holds the prompts.

    A row of length 0 is left alone, and its logits mean nothing.
    """
    places = jnp.arange(prompts.shape[1])[None, :]
    positions = jnp.where(places < prompt_lengths[:, None], places, -1)  # [B, T]
    logits, cache = step(params, cache, prompts, positions)
    last = jnp.maximum(prompt_lengths - 1, 0)[:, None, None]
    return jnp.take_along_axis(logits, last, axis=1)[:, 0], cache


def row_keys(rngs: Key, index: Array) -> Key:
    """The keys of token `index` [] or [B] of each row, [B]."""
    return jax.vmap(jax.random.fold_in)(rngs, jnp.broadcast_to(index, rngs.shape))


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8, 9, 10))
def _generate(
    step: Step,
    params: Params,
    cache: PyTree,
    prompts: Array,
    prompt_lengths: Array,
    rngs: Key,
    num_tokens: int,
    sampler: sampling.Sampler,
    stop_token: int | None,
    pad: int,
    block: int | None,
) -> Generated:
    prompt_lengths = prompt_lengths.astype(jnp.int32)
    logits, cache = prefill(step, params, cache, prompts, prompt_lengths)
    batch, length = prompts.shape
    tokens = jnp.full((batch, num_tokens), pad, jnp.int32)
    log_probs = jnp.zeros((batch, num_tokens), sampler.log_probs(logits).dtype)

    def choose(carry: Any, index: Array, logits: Array) -> Any:
        tokens, log_probs, lengths, done = carry
        token = jax.vmap(sampler)(row_keys(rngs, index), logits)  # [B]
        value = jnp.take_along_axis(sampler.log_probs(logits), token[:, None], axis=1)[:, 0]
        tokens = tokens.at[:, index].set(jnp.where(done, pad, token))
        log_probs = log_probs.at[:, index].set(jnp.where(done, 0.0, value))
        lengths = lengths + ~done
        if stop_token is not None:
            done = done | (token == stop_token)
        return tokens, log_probs, lengths, done

    def more(end: int, state: Any) -> Array:
        (_, _, _, done), _, index = state
        return (index < end) & ~done.all()

    def advance(state: Any) -> Any:
        carry, cache, index = state
        fed = jax.lax.dynamic_index_in_dim(carry[0], index - 1, axis=1)  # [B, 1]
        position = jnp.where(carry[3], -1, prompt_lengths + index - 1)[:, None]
        logits, cache = step(params, cache, fed, position)
        return choose(carry, index, logits[:, 0]), cache, index + 1

    carry = (tokens, log_probs, jnp.zeros(batch, jnp.int32), jnp.zeros(batch, bool))
    carry = choose(carry, jnp.int32(0), logits)
    index = jnp.int32(1)
    for end in range(block, num_tokens, block) if block else ():
        part = caches.first(cache, length + end - 1)
        state = (carry, part, index)
        carry, part, index = jax.lax.while_loop(functools.partial(more, end), advance, state)
        cache = caches.with_first(cache, part)
    (tokens, log_probs, lengths, _), cache, _ = jax.lax.while_loop(
        functools.partial(more, num_tokens), advance, (carry, cache, index)
    )
    return Generated(tokens, lengths, log_probs, cache)
