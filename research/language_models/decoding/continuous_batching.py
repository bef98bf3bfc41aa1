"""Continuous batching: a request takes a free row as soon as there is one, pages as they are freed.

Yu et al. 2022 (Orca), with the paged cache of Kwon et al. 2023, arXiv:2309.06180. The device runs
two compiled functions: prefill of the rows that were just filled, and a chunk of decoding for all.
Between them the host does what needs no arithmetic: who gets which row and which pages.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library import checks as counts
from library.types import Array, Key, Params, PyTree
from research.language_models.decoding import caches, checks, generation, sampling


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A prompt [T] int to be continued by up to `num_tokens` tokens, with a key of its own."""

    prompt: np.ndarray
    num_tokens: int
    rng: Key


def serve(
    step: generation.Step,
    params: Params,
    cache: PyTree,
    requests: Sequence[Request],
    *,
    max_prompt: int,
    chunk: int = 8,
    sampler: sampling.Sampler = sampling.GREEDY,
    stop_token: int | None = None,
) -> list[np.ndarray]:
    """The continuation of each request, [N_i] int32 with the stop token, in the order given.

    Each is what `generation.generate` gives for that request alone. Requests start in order; one
    waits until a row is free and as many pages as it may need.

    Args:
        step, params: the decoder, see `generation`.
        cache: an empty `caches.Paged`, or a tree of such of one geometry (`caches.Int8` of pages).
        requests: any number, also none.
        max_prompt: tokens that prompts are padded to, so that prefill compiles once.
        chunk: decoding steps between two visits of the host, >= 1.
        sampler: the law of a token given its logits.
        stop_token: ends a request; None for none.
    Raises:
        ValueError: for a request that no row, pool or table of positions can ever hold, a token
            outside the vocabulary, or bad sizes.
    """
    paged = _first(cache)
    batch, per_row = paged.table.shape[-2:]
    num_pages, size = paged.positions.shape[-2:]
    counts.count("chunk", chunk)
    counts.count("max_prompt", max_prompt)
    needs = [
        _pages_needed(index, request, max_prompt, size, min(per_row, num_pages))
        for index, request in enumerate(requests)
    ]
    _check_tokens(step, params, cache, requests, max_prompt, stop_token)
    plan = _Plan(requests, needs, stop_token, batch, num_pages)
    while plan.waiting or any(plan.rows):
        if filled := plan.admit():
            for row in filled:
                pages = plan.rows[row].pages
                cache = _assign(cache, row, np.array(pages + [-1] * (per_row - len(pages))))
            prompts, lengths = plan.prompts(filled, max_prompt)
            first, cache = _start(step, params, cache, prompts, lengths, plan.keys(), sampler)
            for row in filled:
                plan.take(row, [int(first[row])])
        # Every request fits into an idle pool, so that one which waits beside idle rows has a leak.
        assert filled or any(plan.rows), f"{len(plan.free)} of {num_pages} pages are free"
        if any(plan.rows):
            last, count, length = plan.progress()
            keys = plan.keys()
            tokens, cache = _decode(step, params, cache, last, count, length, keys, chunk, sampler)
            for row in np.flatnonzero(count):
                plan.take(row, np.asarray(tokens)[row].tolist())
    return plan.out


@dataclasses.dataclass
class _Row:
    """What a row of the batch is busy with."""

    request: int
    pages: list[int]
    tokens: list[int]


class _Plan:
    """The host's books: who waits, who has which row and which pages, what has been written."""

    def __init__(
        self,
        requests: Sequence[Request],
        needs: list[int],
        stop_token: int | None,
        batch: int,
        num_pages: int,
    ):
        self.requests, self.needs, self.stop_token = requests, needs, stop_token
        self.waiting = deque(range(len(requests)))
        self.free = list(range(num_pages))[::-1]
        self.rows: list[_Row | None] = [None] * batch
        self.out: list[np.ndarray] = [np.zeros(0, np.int32)] * len(requests)

    def admit(self) -> list[int]:
        """Gives free rows to those who wait, in order, while there are pages; the rows given."""
        filled = []
        for row, busy in enumerate(self.rows):
            if busy is None and self.waiting and self.needs[self.waiting[0]] <= len(self.free):
                index = self.waiting.popleft()
                pages = [self.free.pop() for _ in range(self.needs[index])]
                self.rows[row] = _Row(index, pages, [])
                filled.append(row)
        return filled

    def take(self, row: int, tokens: list[int]) -> None:
        """Adds new tokens to a row, and frees it if its request is finished."""
        busy = self.rows[row]
        busy.tokens += tokens
        limit = self.requests[busy.request].num_tokens
        stops = [i for i, token in enumerate(busy.tokens) if token == self.stop_token]
        end = min([limit, *(i + 1 for i in stops)])
        if len(busy.tokens) >= end:
            self.out[busy.request] = np.array(busy.tokens[:end], np.int32)
            self.free.extend(busy.pages)
            self.rows[row] = None

    def prompts(self, filled: list[int], max_prompt: int) -> tuple[np.ndarray, np.ndarray]:
        """Prompts [B, max_prompt] and lengths [B] of the rows just filled, 0 elsewhere."""
        prompts = np.zeros((len(self.rows), max_prompt), np.int32)
        lengths = np.zeros(len(self.rows), np.int32)
        for row in filled:
            prompt = self.requests[self.rows[row].request].prompt
            prompts[row, : len(prompt)], lengths[row] = prompt, len(prompt)
        return prompts, lengths

    def keys(self) -> Key:
        """[B] keys, any key for an idle row."""
        idle = self.requests[0].rng
        return jnp.stack([self.requests[row.request].rng if row else idle for row in self.rows])

    def progress(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Last token, number of new tokens (0 for idle rows), prompt length of each row, [B]."""
        last, count, length = (np.zeros(len(self.rows), np.int32) for _ in range(3))
        for index, row in enumerate(self.rows):
            if row is not None:
                last[index], count[index] = row.tokens[-1], len(row.tokens)
                length[index] = len(self.requests[row.request].prompt)
        return last, count, length


@functools.partial(jax.jit, static_argnums=(0, 6))
def _start(
    step: generation.Step,
    params: Params,
    cache: PyTree,
    prompts: Array,
    lengths: Array,
    rngs: Key,
    sampler: sampling.Sampler,
) -> tuple[Array, PyTree]:
    """First tokens [B] of the rows of length > 0; the others stay as they are."""
    logits, cache = generation.prefill(step, params, cache, prompts, lengths)
    return jax.vmap(sampler)(generation.row_keys(rngs, jnp.int32(0)), logits), cache


@functools.partial(jax.jit, static_argnums=(0, 7, 8))
def _decode(
    step: generation.Step,
    params: Params,
    cache: PyTree,
    last: Array,
    count: Array,
    length: Array,
    rngs: Key,
    chunk: int,
    sampler: sampling.Sampler,
) -> tuple[Array, PyTree]:
    """Up to `chunk` more tokens, [B, chunk], for rows that have `count` > 0 new ones already."""

    def advance(carry: Any, _: None) -> Any:
        cache, token, count = carry
        position = jnp.where(count > 0, length + count - 1, -1)[:, None]
        logits, cache = step(params, cache, token[:, None], position)
        token = jax.vmap(sampler)(generation.row_keys(rngs, count), logits[:, 0])
        return (cache, token, jnp.where(count > 0, count + 1, 0)), token

    (cache, _, _), tokens = jax.lax.scan(advance, (cache, last, count), length=chunk)
    return tokens.T, cache


@jax.jit
def _assign(cache: PyTree, row: int, pages: Array) -> PyTree:
    """Gives a row its pages in every `Paged` of the tree."""
    return jax.tree.map(
        lambda paged: paged.assign(row, pages),
        cache,
        is_leaf=lambda leaf: isinstance(leaf, caches.Paged),
    )


def _first(cache: PyTree) -> caches.Paged:
    leaves = jax.tree.leaves(cache, is_leaf=lambda leaf: isinstance(leaf, caches.Paged))
    if not leaves or not all(isinstance(leaf, caches.Paged) for leaf in leaves):
        raise ValueError("cache: expected a tree of caches.Paged")
    return leaves[0]


def _check_tokens(step, params, cache, requests, max_prompt, stop_token) -> None:
    if not requests:
        return
    shape = jax.ShapeDtypeStruct((_first(cache).table.shape[-2], max_prompt), jnp.int32)
    size = checks.vocab_size(step, params, cache, shape)
    places = getattr(step, "max_length", None)
    for index, request in enumerate(requests):
        name = f"request {index}"
        checks.vocabulary(size, request.prompt, name=name, stop_token=stop_token)
        needed = len(request.prompt) + request.num_tokens - 1
        if places is not None and needed > places:
            raise ValueError(f"{name} needs {needed} positions: the model has {places}")


def _pages_needed(index: int, request: Request, max_prompt: int, size: int, most: int) -> int:
    """Pages for the prompt and all new tokens but the last, which is never fed."""
    (prompt,) = checks.arrays(request.prompt)
    length = len(request.prompt)
    if prompt.ndim != 1 or not 1 <= length <= max_prompt:
        raise ValueError(
            f"request {index}: a prompt of shape {prompt.shape}: expected [T] with T from 1 to "
            f"max_prompt={max_prompt}"
        )
    checks.integers(f"request {index}: a prompt", prompt)
    counts.count(f"request {index}: num_tokens", request.num_tokens)
    needed = -(-(length + request.num_tokens - 1) // size)
    if needed > most:
        raise ValueError(f"request {index} needs {needed} pages of {size}: a row can have {most}")
    return needed
