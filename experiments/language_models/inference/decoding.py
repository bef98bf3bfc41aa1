"""Ways to decode from the same two models, run side by side and timed in turn."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import training
from library.data import pipeline, text
from library.types import Array, PyTree
from research.attention import cache as attention_cache
from research.attention import positions
from research.language_models import caches, generation, speculative
from research.transformers import layers, losses, models

PAGE = 16  # tokens of a page
BLOCK = 64  # tokens after which decoding reads more of a cache
FURTHER_CACHES = ("paged cache", "int8 cache")


def model(vocab_size: int, depth: int, width: int) -> models.Decoder:
    """A GPT with rotary positions, so that it has no longest sequence."""
    heads = max(width // 32, 1)
    stack = layers.Stack(depth, width, heads, 4 * width, use_bias=False, rope=positions.Rope())
    return models.Decoder(models.DecoderConfig(vocab_size, stack))


def quick_fit(
    draft: models.Decoder, tokens: np.ndarray, num_steps: int, batch: int, window: int, seed: int
) -> PyTree:
    """Parameters of a small model after `num_steps` updates, without a record of its own."""
    start = jax.jit(draft.init)(jax.random.key(seed), np.zeros((1, window), np.int32))
    return training.quick(
        losses.next_token(draft.apply),
        optax.adamw(optax.cosine_decay_schedule(3e-3, max(num_steps, 1)), b2=0.99),
        lambda _: start,
        pipeline.array_batch_at(text.Windows(tokens, window), batch, seed=seed),
        num_steps=num_steps,
        rng=jax.random.key(seed),
    )


def apply_through_cache(decoder: models.Decoder, length: int, make: Callable) -> Callable:
    """(params, tokens [B, T]) -> logits, every token fed alone through a cache of that kind."""
    step = generation.DecoderStep(decoder)

    def apply(params: PyTree, tokens: Array) -> Array:
        cache = models.empty_cache(decoder.config, len(tokens), length, make=make)

        def advance(cache: PyTree, place: Array) -> tuple[PyTree, Array]:
            token = jax.lax.dynamic_index_in_dim(tokens, place, axis=1)
            where = jnp.full((len(tokens), 1), place)
            logits, cache = step(params, cache, token, where)
            return cache, logits[:, 0]

        _, logits = jax.lax.scan(advance, cache, jnp.arange(tokens.shape[1]))
        return jnp.swapaxes(logits, 0, 1)

    return apply


def prompts(tokens: np.ndarray, batch: int, length: int) -> Array:
    """[B, T]: row b is the same for every batch."""
    return jnp.stack([jnp.asarray(tokens[7 * row : 7 * row + length]) for row in range(batch)])


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """The two models and how much they write.

    Attributes:
        target, draft: (decoder, parameters).
        num_tokens: new tokens of a row.
        num_drafts: tokens drafted in a round of speculation.
        caches: which of FURTHER_CACHES to decode with.
    """

    target: tuple[models.Decoder, PyTree]
    draft: tuple[models.Decoder, PyTree]
    num_tokens: int
    num_drafts: int
    caches: tuple[str, ...] = ()

    def methods(self, prompt: Array, full: bool) -> dict[str, Callable[[], Any]]:
        """Functions that write greedily after the prompts [B, T]; results have `tokens` [B, N]."""
        batch, length = prompt.shape
        capacity = PAGE * -(-(length + self.num_tokens + self.num_drafts) // PAGE)
        lengths = jnp.full(batch, length, jnp.int32)
        rngs = jax.random.split(jax.random.key(0), batch)
        options = {"num_tokens": self.num_tokens, "capacity": capacity}

        def cached(make: Callable) -> Callable[[], Any]:
            step, params, cache = self._model(self.target, batch, capacity, make)
            return lambda: generation.generate(
                step, params, cache, prompt, lengths, rngs, block=BLOCK, **options
            )

        pair = [self._model(which, batch, capacity) for which in (self.target, self.draft)]

        def speculate() -> Any:
            return speculative.generate(
                *pair,
                prompt,
                lengths,
                rngs,
                num_drafts=self.num_drafts,
                **options,
            )

        further = {"paged cache": _paged(batch, capacity), "int8 cache": caches.int8}
        methods = {"cache": cached(attention_cache.contiguous), "speculation": speculate}
        methods |= {name: cached(further[name]) for name in self.caches}
        if full:
            step, params, _ = self._model(self.target, batch, capacity)
            methods["full pass"] = lambda: _full_pass(step.model, params, prompt, self.num_tokens)
        return methods

    def measure(
        self, methods: dict[str, Callable[[], Any]], rounds: int
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, float]]:
        """Tokens [B, N], tokens/s, and the drafts kept a round where there are some, by method."""
        results = {name: jax.block_until_ready(method()) for name, method in methods.items()}
        tokens = {name: np.asarray(result.tokens) for name, result in results.items()}
        seconds = {name: [] for name in methods}
        for _ in range(rounds):
            for name, method in methods.items():
                start = time.perf_counter()
                jax.block_until_ready(method())
                seconds[name].append(time.perf_counter() - start)
        rates = {name: tokens[name].size / float(np.median(seconds[name])) for name in methods}
        result = results["speculation"]
        kept = float(result.kept.sum() / (self.num_drafts * result.rounds.sum()))
        per_round = float(result.tokens.size / result.rounds.sum())
        return tokens, rates, {"drafts kept, share": kept, "tokens a round": per_round}

    def _model(
        self,
        which: tuple[models.Decoder, PyTree],
        batch: int,
        capacity: int,
        make: Callable = attention_cache.contiguous,
    ) -> tuple[generation.DecoderStep, PyTree, PyTree]:
        decoder, params = which
        cache = models.empty_cache(decoder.config, batch, capacity, make=make)
        config, params, cache = models.unstack(decoder.config, params, cache)
        return generation.DecoderStep(models.Decoder(config)), params, cache


def _paged(batch: int, capacity: int) -> Callable:
    """Makes a paged cache whose rows hold all their pages, scattered over the pool."""
    per_row = capacity // PAGE
    order = np.random.default_rng(0).permutation(batch * per_row).reshape(batch, per_row)

    def make(num_layers: int, batch: int, length: int, *sizes: Any) -> caches.Paged:
        cache = caches.paged(
            num_layers, batch, per_row, *sizes, num_pages=batch * per_row, page_size=PAGE
        )
        for row in range(batch):
            cache = cache.assign(row, jnp.asarray(order[row]))
        return cache

    return make


class _Written(NamedTuple):
    """A pytree, so that whoever times it can wait for it."""

    tokens: Array


def _full_pass(decoder: models.Decoder, params: PyTree, prompt: Array, num_tokens: int) -> _Written:
    return _Written(_rewrite(decoder, params, prompt, num_tokens))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _rewrite(decoder: models.Decoder, params: PyTree, prompt: Array, num_tokens: int) -> Array:
    """Greedy decoding that reads everything anew for each token, [B, N]."""
    length = prompt.shape[1]
    buffer = jnp.pad(prompt, ((0, 0), (0, num_tokens)))

    def advance(buffer: Array, index: Array) -> tuple[Array, None]:
        logits = decoder.apply(params, buffer)
        here = jax.lax.dynamic_index_in_dim(logits, length + index - 1, axis=1, keepdims=False)
        token = jnp.argmax(here, axis=-1).astype(buffer.dtype)
        return buffer.at[:, length + index].set(token), None

    buffer, _ = jax.lax.scan(advance, buffer, jnp.arange(num_tokens))
    return buffer[:, length:]
