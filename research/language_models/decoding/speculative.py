"""Speculative decoding: a cheap draft proposes, the target accepts or replaces, its law unchanged.

Leviathan et al. 2023, arXiv:2211.17192, and Chen et al. 2023, arXiv:2302.01318. A drafted token x
is kept with probability min(1, p(x)/q(x)); the first one that is not is replaced by a draw from
max(p - q, 0), normalised; if all are kept the target adds one of its own.
"""

from __future__ import annotations

import functools
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks as counts
from library.types import Array, Key, Params, PyTree, at_least_float32
from research.language_models.decoding import checks, generation, sampling


def acceptance(target_log_probs: Array, draft_log_probs: Array, tokens: Array) -> Array:
    """Probabilities [...] of keeping tokens [...], under laws [..., V]: min(1, p(x)/q(x)).

    Float32 or wider, as is `residual`.
    """
    chex.assert_equal_shape([target_log_probs, draft_log_probs])
    chex.assert_shape(target_log_probs, (*tokens.shape, None))

    def at(log_probs: Array) -> Array:
        chosen = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
        return chosen.astype(at_least_float32(log_probs.dtype))

    return jnp.exp(jnp.minimum(at(target_log_probs) - at(draft_log_probs), 0.0))


def residual(target_log_probs: Array, draft_log_probs: Array) -> Array:
    """The law [..., V] of a replacement, as log-probabilities: max(p - q, 0), normalised.

    Where p equals q nothing is ever replaced, and p is returned.
    """
    chex.assert_equal_shape([target_log_probs, draft_log_probs])
    wide = at_least_float32(target_log_probs.dtype, draft_log_probs.dtype)
    target_log_probs, draft_log_probs = target_log_probs.astype(wide), draft_log_probs.astype(wide)
    excess = jnp.maximum(jnp.exp(target_log_probs) - jnp.exp(draft_log_probs), 0.0)
    total = excess.sum(-1, keepdims=True)
    probs = jnp.where(total > 0, excess / jnp.where(total > 0, total, 1.0), 0.0)
    return jnp.where(total > 0, jnp.log(probs), target_log_probs)


def verify(
    rng: Key, tokens: Array, draft_log_probs: Array, target_log_probs: Array
) -> tuple[Array, Array]:
    """How many drafts are kept, and the tokens that come out.

    Args:
        rng: a key.
        tokens: [G] int, drafted from `draft_log_probs` one after the other.
        draft_log_probs: [G, V], log-laws that the drafts were drawn from.
        target_log_probs: [G + 1, V], log-laws of the target at the same places and one more.
    Returns:
        [] int in 0 ... G; and [G + 1] int: the kept drafts, then one token of the target, then
        tokens without meaning.
    """
    num_drafts = len(tokens)
    chex.assert_shape(draft_log_probs, (num_drafts, None))
    chex.assert_shape(target_log_probs, (num_drafts + 1, draft_log_probs.shape[1]))
    accept_rng, replace_rng = jax.random.split(rng)
    kept = acceptance(target_log_probs[:-1], draft_log_probs, tokens)  # [G]
    uniforms = jax.random.uniform(accept_rng, (num_drafts,), kept.dtype)
    # The number of leading successes: a uniform number in [0, 1) is below 1 for sure.
    count = jnp.cumprod(uniforms < kept).sum().astype(jnp.int32)
    replacements = jnp.concatenate(
        [residual(target_log_probs[:-1], draft_log_probs), target_log_probs[-1:].astype(kept.dtype)]
    )  # [G + 1, V]
    last = jax.random.categorical(replace_rng, replacements[count]).astype(tokens.dtype)
    padded = jnp.concatenate([tokens, jnp.zeros(1, tokens.dtype)])
    return count, jnp.where(jnp.arange(num_drafts + 1) == count, last, padded)


def expected_tokens(acceptance_rate: float, num_drafts: int) -> float:
    """Tokens a round, (1 - a^(g+1)) / (1 - a), if each draft is kept independently with rate a.

    Raises:
        ValueError: for a rate outside [0, 1].
    """
    if not 0 <= acceptance_rate <= 1:
        raise ValueError(f"acceptance_rate={acceptance_rate}: expected 0 to 1")
    return sum(acceptance_rate**k for k in range(num_drafts + 1))


@flax.struct.dataclass
class Speculated:
    """What `generate` returns.

    Attributes:
        tokens: [B, N] int32, the new tokens.
        rounds: [B] int32, calls of the target that each row needed after the prefill.
        kept: [B] int32, drafts that were kept.
    """

    tokens: Array
    rounds: Array
    kept: Array


def generate(
    target: tuple[generation.Step, Params, PyTree],
    draft: tuple[generation.Step, Params, PyTree],
    prompts: Array,
    prompt_lengths: Array,
    rngs: Key,
    *,
    num_tokens: int,
    num_drafts: int = 4,
    sampler: sampling.Sampler = sampling.GREEDY,
    capacity: int | None = None,
) -> Speculated:
    """Continues every prompt by `num_tokens` tokens of the target's law, all in one compiled call.

    Args:
        target, draft: (step, params, empty cache for B rows) each, see `generation`.
        prompts, prompt_lengths, rngs, sampler: as in `generation.generate`.
        num_tokens: N >= 1.
        num_drafts: G >= 1, drafts a round.
        capacity: positions that a cache of another kind holds; None where it is known or unbounded.
    Raises:
        ValueError: for bad shapes, a cache too small, a token outside the vocabulary, or two models
            of different vocabularies.
    """
    counts.count("num_drafts", num_drafts)
    prompts, prompt_lengths = checks.arrays(prompts, prompt_lengths)
    lengths = checks.prompts(prompts, prompt_lengths, num_tokens)
    if rngs.shape != lengths.shape:
        raise ValueError(f"rngs of shape {rngs.shape}: expected one key a row, {lengths.shape}")
    for step, _, cache in (target, draft):
        needed = lengths + num_tokens + num_drafts - 1
        fed = max(int(lengths.max()), num_drafts + 1)
        checks.room(step, cache, needed, capacity, fed, taken_back=num_drafts)
    sizes = [checks.vocab_size(*model, prompts) for model in (target, draft)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"the target has {sizes[0]} tokens and the draft {sizes[1]}")
    checks.vocabulary(sizes[0], prompts, np.arange(prompts.shape[1]) < lengths[:, None])
    return _generate(
        (target[0], draft[0]),
        (target[1:], draft[1:]),
        prompts,
        prompt_lengths,
        rngs,
        num_tokens,
        num_drafts,
        sampler,
    )


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7))
def _generate(
    steps: tuple[generation.Step, generation.Step],
    models: tuple[tuple[Params, PyTree], tuple[Params, PyTree]],
    prompts: Array,
    prompt_lengths: Array,
    rngs: Key,
    num_tokens: int,
    num_drafts: int,
    sampler: sampling.Sampler,
) -> Speculated:
    batch, length = prompts.shape
    prompt_lengths = prompt_lengths.astype(jnp.int32)
    (target_params, target_cache), (draft_params, draft_cache) = models
    _, target_cache = generation.prefill(
        steps[0], target_params, target_cache, prompts, prompt_lengths
    )
    _, draft_cache = generation.prefill(
        steps[1], draft_params, draft_cache, prompts, prompt_lengths
    )
    goal = prompt_lengths + num_tokens
    # Room for the drafts that overshoot the goal; they are cut off in the end.
    buffer = jnp.zeros((batch, length + num_tokens + num_drafts - 1), jnp.int32)
    buffer = buffer.at[:, :length].set(prompts.astype(jnp.int32))
    ahead = jnp.arange(num_drafts + 1)[None, :]

    def advance(state: Any) -> Any:
        buffer, size, target_cache, draft_cache, rounds, kept, index = state
        live = size < goal
        # One more token than drafts is fed, so that the draft's cache is whole if all are kept.
        positions = jnp.where(live[:, None], size[:, None] - 1 + ahead, -1)  # [B, G + 1]
        last = jnp.take_along_axis(buffer, size[:, None] - 1, axis=1)  # [B, 1]
        keys = generation.row_keys(rngs, index)
        drafts, laws, draft_cache = _propose(
            steps[1], draft_params, draft_cache, last[:, 0], positions, keys, sampler
        )
        fed = jnp.concatenate([last, drafts], axis=1)  # [B, G + 1]
        logits, target_cache = steps[0](target_params, target_cache, fed, positions)
        check = generation.row_keys(keys, jnp.int32(num_drafts + 1))
        count, new = jax.vmap(verify)(check, drafts, laws, sampler.log_probs(logits))
        places = jnp.where(live[:, None] & (ahead <= count[:, None]), size[:, None] + ahead, -1)
        places = jnp.where(places < 0, buffer.shape[1], places)
        buffer = buffer.at[jnp.arange(batch)[:, None], places].set(new, mode="drop")
        size, rounds, kept = size + live * (count + 1), rounds + live, kept + live * count
        return buffer, size, target_cache, draft_cache, rounds, kept, index + 1

    zeros = jnp.zeros(batch, jnp.int32)
    state = (buffer, prompt_lengths, target_cache, draft_cache, zeros, zeros, jnp.int32(0))
    buffer, _, _, _, rounds, kept, _ = jax.lax.while_loop(
        lambda state: (state[1] < goal).any(), advance, state
    )
    new = jnp.take_along_axis(
        buffer, prompt_lengths[:, None] + jnp.arange(num_tokens)[None, :], axis=1
    )
    return Speculated(new, rounds, kept)


def _propose(
    step: generation.Step,
    params: Params,
    cache: PyTree,
    last: Array,
    positions: Array,
    keys: Key,
    sampler: sampling.Sampler,
) -> tuple[Array, Array, PyTree]:
    """Drafts [B, G] after tokens `last` [B], fed at positions [B, G + 1]; their laws; the cache.

    Laws are [B, G, V], log-probabilities.
    """

    def propose(carry: Any, place: Array) -> Any:
        cache, token, number = carry
        logits, cache = step(params, cache, token[:, None], place[:, None])
        new = jax.vmap(sampler)(generation.row_keys(keys, number), logits[:, 0])
        return (cache, new, number + 1), (new, sampler.log_probs(logits[:, 0]))

    (cache, _, _), (drafts, laws) = jax.lax.scan(propose, (cache, last, jnp.int32(0)), positions.T)
    return drafts[:-1].T, jnp.swapaxes(laws[:-1], 0, 1), cache
