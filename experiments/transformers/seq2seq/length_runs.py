"""One encoder-decoder, trained on short sequences of a task and judged at every length up to twice
as many digits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.transformers import _options
from experiments.transformers.seq2seq import sequences
from library import report, training
from library.types import Array, Batch, Key, Params
from research.attention import masks, positions
from research.transformers import layers, losses, models

ENCODINGS = ("none", "sinusoidal", "learned", "rotary", "alibi", "t5")
RELATIVE = {  # fields of a stack
    "rotary": {"rope": positions.Rope()},
    "alibi": {"alibi": True},
    "t5": {"num_buckets": 32},
}


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned, and for how long.

    Attributes:
        name: one of `sequences.TASKS`.
        digits: N, most digits in training (of each number).
        num_steps: updates.
    """

    name: str
    digits: int
    num_steps: int


def architecture(
    encoding: str, size: _options.Size, max_length: int
) -> models.EncoderDecoderConfig:
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


def accuracies(
    task: Task,
    encoding: str,
    size: _options.Size,
    out: report.RunDir,
    *,
    batch_size: int,
    learning_rate: float,
    num_test: int,
    run: training.RunOptions,
) -> np.ndarray:
    """Trains on 1 ... N digits in a folder; exact match at 1 ... 2 N, [2 N] shares.

    Args:
        task, encoding, size: what is trained.
        out: the training's folder, which it resumes from.
        batch_size: sequences per update.
        learning_rate: after the warm-up; zero at the end.
        num_test: fresh examples per length.
        run: the shared options, with the seed of this training.
    """
    most = 2 * task.digits
    max_length = max(sequences.lengths_of(task.name, most))
    model = models.EncoderDecoder(architecture(encoding, size, max_length))
    token = jnp.zeros((1, 1), jnp.int32)
    state = training.train(
        losses.sequence_to_sequence(model.apply),
        training.warmup_cosine(
            learning_rate,
            task.num_steps,
            max(1, task.num_steps // 20),
            clip=1.0,
            optimizer=lambda schedule: optax.adam(schedule, 0.9, 0.98),
        ),
        lambda rng: model.init(rng, token, token),
        batches(task, batch_size, run.seed),
        num_steps=task.num_steps,
        run=run,
        out=out,
    )

    @jax.jit
    def share(params: Params, rng: Key, digits: Array) -> Array:
        batch = sequences.examples(task.name, rng, jnp.full(num_test, digits), most)
        return exact_match(model.apply, params, batch).mean()

    test_rng = jax.random.key(1_000_000 + run.seed)
    lengths = range(1, most + 1)
    return np.array(
        [float(share(state.params, jax.random.fold_in(test_rng, n), n)) for n in lengths]
    )


def batches(task: Task, batch_size: int, seed: int) -> Callable[[int], Batch]:
    """Fresh examples of 1 to N digits at every step; of several processes, this one's rows."""
    _, rng = jax.random.split(jax.random.key(seed))  # the key of the updates, as in training.train
    index, count = jax.process_index(), jax.process_count()

    @jax.jit
    def draw(step: Array) -> Batch:
        length_rng, data_rng = jax.random.split(jax.random.fold_in(rng, step))
        digits = jax.random.randint(length_rng, (batch_size,), 1, task.digits + 1)
        return sequences.examples(task.name, data_rng, digits, task.digits)

    rows = slice(index * batch_size // count, (index + 1) * batch_size // count)
    return lambda step: jax.tree.map(lambda leaf: np.asarray(leaf)[rows], draw(step))
