"""One encoder-decoder, trained on short sequences of a task and judged at every length up to twice
as many digits: a job of the queue of `seq2seq`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.transformers.seq2seq import sequences as sequences
from library.train_step import init_state, make_train_step
from library.types import Array, Batch, Key, Params, TrainState
from research.attention import masks, positions
from research.transformers import layers, losses, models

CALL = 100  # updates in one compiled call
ENCODINGS = ("none", "sinusoidal", "learned", "rotary", "alibi", "t5")
RELATIVE = {  # fields of a stack
    "rotary": {"rope": positions.Rope()},
    "alibi": {"alibi": True},
    "t5": {"num_buckets": 32},
}


@dataclasses.dataclass(frozen=True)
class Size:
    """The model and its training, without task, encoding and seed."""

    train_digits: int
    num_steps: int
    batch_size: int
    learning_rate: float
    depth: int
    width: int
    num_heads: int
    num_test: int


def architecture(encoding: str, size: Size, max_length: int) -> models.EncoderDecoderConfig:
    """A pre-norm encoder-decoder whose tokens know their places in one way only.

    Rotations and biases act in self-attention, as in T5: the attention to the memory has none.
    """
    absolute = {"sinusoidal": {"sinusoidal": True}, "learned": {"max_length": max_length}}
    encoder = layers.Stack(
        size.depth,
        size.width,
        size.num_heads,
        4 * size.width,
        init_std=size.width**-0.5,
        causal=False,
        unroll=size.depth,
        **RELATIVE.get(encoding, {}),
    )
    decoder = dataclasses.replace(encoder, causal=True, cross=True)
    return models.EncoderDecoderConfig(
        sequences.VOCAB_SIZE,
        encoder,
        decoder,
        embed_scale=size.width**0.5,
        **absolute.get(encoding, {}),
    )


def exact_match(apply: Callable[..., Array], params: Params, batch: Batch) -> Array:
    """Which answers greedy decoding gets right to the last token, [B] bool.

    Greedy decoding is right if and only if every argmax after a right prefix is: one pass over the
    true answer decides it.
    """
    mask = masks.Padding(batch["source_lengths"])
    logits = apply(params, batch["source"], batch["target"][:, :-1], mask)
    right = logits.argmax(-1) == batch["target"][:, 1:]
    return (right | ~batch["mask"]).all(-1)


def run(task: str, encoding: str, seed: int, **size: float) -> dict[str, list[float]]:
    """Trains on 1 ... N digits; exact match at 1 ... 2 N.

    Returns:
        {"accuracy": [2 N] shares of right answers, "loss": the last updates' mean loss, nats}.
    """
    size = Size(**size)
    most = 2 * size.train_digits
    max_length = max(sequences.lengths_of(task, most))
    model = models.EncoderDecoder(architecture(encoding, size, max_length))
    state, loss = _train(task, model, size, seed)

    @jax.jit
    def share(params: Params, rng: Key, digits: Array) -> Array:
        many = jnp.full(size.num_test, digits)
        batch = sequences.examples(task, rng, many, most)
        return exact_match(model.apply, params, batch).mean()

    test_rng = jax.random.key(1_000_000 + seed)
    accuracy = [
        float(share(state.params, jax.random.fold_in(test_rng, digits), digits))
        for digits in range(1, most + 1)
    ]
    return {"accuracy": accuracy, "loss": loss}


def _train(
    task: str, model: models.EncoderDecoder, size: Size, seed: int
) -> tuple[TrainState, float]:
    most = size.train_digits
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, size.learning_rate, max(1, size.num_steps // 20), size.num_steps
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, 0.9, 0.98))
    step = make_train_step(losses.sequence_to_sequence(model.apply), optimizer)
    token = jnp.zeros((1, 1), jnp.int32)

    @jax.jit
    def start(rng: Key) -> TrainState:
        init_rng, train_rng = jax.random.split(rng)
        return init_state(model.init(init_rng, token, token), optimizer, train_rng)

    @functools.partial(jax.jit, donate_argnums=0, static_argnums=1)
    def advance(state: TrainState, length: int) -> tuple[TrainState, Array]:
        def body(state: TrainState, _: None) -> tuple[TrainState, Array]:
            length_rng, data_rng = jax.random.split(jax.random.fold_in(state.rng, state.step))
            digits = jax.random.randint(length_rng, (size.batch_size,), 1, most + 1)
            state, metrics = step(state, sequences.examples(task, data_rng, digits, most))
            return state, metrics["loss"]

        return jax.lax.scan(body, state, length=length)

    state = start(jax.random.key(seed))
    for first in range(0, size.num_steps, CALL):
        state, values = advance(state, min(CALL, size.num_steps - first))
        jax.block_until_ready(values)  # so that Ctrl-C comes through between calls
    return state, float(np.asarray(values)[-10:].mean())
