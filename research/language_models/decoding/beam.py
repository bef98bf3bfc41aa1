"""Beam search: the most probable continuations that a beam of fixed width can reach."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks as counts
from library.types import Array, Params, PyTree, at_least_float32
from research.language_models.decoding import caches, checks, generation

Reorder = Callable[[PyTree, Array], PyTree]


@flax.struct.dataclass
class Beams:
    """Hypotheses, best first.

    Where fewer than W continuations exist, the last rows have log_probs -inf and no meaning.

    Attributes:
        tokens: [W, N] int32; `stop_token` after the first one.
        lengths: [W] int32, tokens up to and with the stop token.
        log_probs: [W] float, nats, of the whole continuation.
    """

    tokens: Array
    lengths: Array
    log_probs: Array


def take_rows(cache: PyTree, parents: Array) -> PyTree:
    """The rows [W] of a cache whose arrays are [L, B, ...]."""
    return jax.tree.map(lambda leaf: leaf[:, parents], cache)


def beam_search(
    step: generation.Step,
    params: Params,
    cache: PyTree,
    prompt: Array,
    *,
    width: int,
    num_tokens: int,
    stop_token: int | None = None,
    length_penalty: float = 0.0,
    capacity: int | None = None,
    reorder: Reorder = take_rows,
) -> Beams:
    """The W best continuations of one prompt found by keeping W at every step.

    Width 1 is greedy decoding; a width of V^(N-1) or more finds the optimum.

    Args:
        step, params: the decoder, see `generation`.
        cache: an empty cache for W rows.
        prompt: [T] int.
        width: W >= 1.
        num_tokens: N >= 1.
        stop_token: ends a hypothesis, which then keeps its score.
        length_penalty: the final order is by log_prob / length ** length_penalty.
        capacity: positions that a cache of another kind holds; None where it is known or unbounded.
        reorder: (cache, parents [W]) -> the cache whose row w is row parents[w]; the default for
            arrays [L, W, ...] of all layers, others (layers apart, pages) need their own.
    Raises:
        ValueError: for a width or a length that is no positive whole number, a length penalty that
            is not finite, a prompt that is empty or not int, a cache too small, one whose rows
            `take_rows` does not know, or a token outside the vocabulary.
    """
    counts.count("width", width)
    counts.count("num_tokens", num_tokens)
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty={length_penalty}: expected a finite number")
    (prompt,) = checks.arrays(prompt)
    if prompt.ndim != 1 or not prompt.size:
        raise ValueError(f"prompt of shape {prompt.shape}: expected [T] with T >= 1")
    checks.integers("prompt", prompt)
    if reorder is take_rows:
        _check_rows(cache, width)
    needed = np.full(width, len(prompt) + num_tokens - 1)
    checks.room(step, cache, needed, capacity, fed=len(prompt))
    shape = jax.ShapeDtypeStruct((width, len(prompt)), jnp.int32)
    size = checks.vocab_size(step, params, cache, shape)
    checks.vocabulary(size, prompt, name="prompt", stop_token=stop_token)
    return _search(
        step, params, cache, prompt, width, num_tokens, stop_token, length_penalty, reorder
    )


def _check_rows(cache: PyTree, width: int) -> None:
    paged = [leaf for leaf in jax.tree.leaves(cache, is_leaf=_is_paged) if _is_paged(leaf)]
    shapes = {leaf.shape[:2] for leaf in jax.tree.leaves(cache)}
    if paged or any(len(shape) < 2 or shape[1] != width for shape in shapes):
        what = "pages" if paged else f"arrays that begin with {sorted(shapes)}"
        raise ValueError(f"a cache of {what}: expected [L, {width}, ...], or a reorder= of its own")


def _is_paged(leaf: object) -> bool:
    return isinstance(leaf, caches.Paged)


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6, 7, 8))
def _search(
    step: generation.Step,
    params: Params,
    cache: PyTree,
    prompt: Array,
    width: int,
    num_tokens: int,
    stop_token: int | None,
    length_penalty: float,
    reorder: Reorder,
) -> Beams:
    prompts = jnp.broadcast_to(prompt[None], (width, len(prompt)))
    logits, cache = generation.prefill(
        step, params, cache, prompts, jnp.full(width, len(prompt), jnp.int32)
    )
    dtype = at_least_float32(logits.dtype)

    def extend(state: Any, logits: Array) -> Any:
        """The best W of all W V continuations; a finished hypothesis has only one, itself."""
        tokens, lengths, scores, done, index = state
        log_probs = jax.nn.log_softmax(logits.astype(dtype), axis=-1)  # [W, V]
        if stop_token is not None:
            stay = jnp.full(log_probs.shape[1:], -jnp.inf, dtype).at[stop_token].set(0.0)
            log_probs = jnp.where(done[:, None], stay[None], log_probs)
        scores, best = jax.lax.top_k((scores[:, None] + log_probs).ravel(), width)
        parents, token = best // logits.shape[-1], (best % logits.shape[-1]).astype(jnp.int32)
        done = done[parents]
        lengths = lengths[parents] + ~done
        if stop_token is not None:
            done = done | (token == stop_token)
        tokens = tokens[parents].at[:, index].set(token)
        return (tokens, lengths, scores, done, index + 1), parents

    def advance(carry: Any, _: None) -> Any:
        state, cache = carry
        tokens, index = state[0], state[4]
        fed = jax.lax.dynamic_index_in_dim(tokens, index - 1, axis=1)  # [W, 1]
        positions = jnp.broadcast_to(len(prompt) + index - 1, (width, 1))
        logits, cache = step(params, cache, fed, positions)
        state, parents = extend(state, logits[:, 0])
        return (state, reorder(cache, parents)), None

    state = (
        jnp.zeros((width, num_tokens), jnp.int32),
        jnp.zeros(width, jnp.int32),
        # All rows are alike at first: only one of them may be continued.
        jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf).astype(dtype),
        jnp.zeros(width, bool),
        jnp.int32(0),
    )
    state, _ = extend(state, logits)
    ((tokens, lengths, scores, _, _), _), _ = jax.lax.scan(
        advance, (state, cache), length=num_tokens - 1
    )
    order = jnp.argsort(-scores / lengths.astype(dtype) ** length_penalty, stable=True)
    return Beams(tokens[order], lengths[order], scores[order])
