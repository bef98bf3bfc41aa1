"""Tasks on digits with one right answer each: sort, reverse, add; random examples on the device.

A sequence starts with START and ends with END; what follows END is PAD. A source and its answer, of
three digits:

    sort       START 5 0 5 END                    START 0 5 5 END
    reverse    START 5 0 7 END                    START 7 0 5 END
    add        START 5 0 7 PLUS 6 1 9 END         START 1 2 6 1 END      (705 + 916 = 1621)

Numbers are written from the least significant digit on, with leading zeros, as Lee et al. 2023,
arXiv:2307.03381, write the sums.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from library.types import Array, Batch, Key

PAD, START, END, PLUS = 10, 11, 12, 13
VOCAB_SIZE = 14
TASKS = ("sort", "reverse", "add")


def lengths_of(task: str, digits: int) -> tuple[int, int]:
    """Tokens of a source and of a target with up to so many digits (in each number)."""
    return (2 * digits + 3, digits + 3) if task == "add" else (digits + 2, digits + 2)


def examples(task: str, rng: Key, digits: Array, most: int) -> Batch:
    """A batch for `losses.sequence_to_sequence`, all digits uniform.

    Args:
        task: one of `TASKS`.
        rng: key.
        digits: [B] int, how many digits each source has (in each number), 1 to `most`.
        most: N, sets the shapes.
    Returns:
        source [B, S], source_lengths [B], target [B, T + 1], mask [B, T] (all but PAD), see
        `lengths_of` for S and T + 1.
    Raises:
        ValueError: for another task.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r}: expected one of {TASKS}")
    drawn = jax.random.randint(rng, (2, len(digits), most), 0, 10)  # [2, B, N]
    there = jnp.arange(most)[None] < digits[:, None]  # [B, N]
    if task == "add":
        source, answer = _add(jnp.where(there[None], drawn, 0), digits)
        source_digits, answer_digits = 2 * digits + 1, digits + 1
    else:
        source = jnp.where(there, drawn[0], PAD)
        answer = jnp.sort(source, axis=1) if task == "sort" else _reverse(source, digits)
        source_digits = answer_digits = digits
    target = _frame(answer, answer_digits)
    return {
        "source": _frame(source, source_digits),
        "source_lengths": source_digits + 2,
        "target": target,
        "mask": target[:, 1:] != PAD,
    }


def _reverse(source: Array, digits: Array) -> Array:
    places = digits[:, None] - 1 - jnp.arange(source.shape[1])[None]
    turned = jnp.take_along_axis(source, jnp.maximum(places, 0), axis=1)
    return jnp.where(places >= 0, turned, PAD)


def _add(numbers: Array, digits: Array) -> tuple[Array, Array]:
    """[2, B, N], zero beyond their digits -> "a PLUS b" [B, 2 N + 1] and the sum [B, N + 1]."""

    def column(carry: Array, pair: Array) -> tuple[Array, Array]:
        total = pair.sum(0) + carry
        return total // 10, total % 10

    carry, places = jax.lax.scan(column, jnp.zeros_like(digits), jnp.moveaxis(numbers, 2, 0))
    answer = jnp.concatenate([places, carry[None]]).T  # [B, N + 1]
    a, b = numbers
    i, n = jnp.arange(2 * a.shape[1] + 1)[None], digits[:, None]
    # A place of a, of the sign, or of b; what comes after is not looked at.
    from_a = jnp.take_along_axis(a, jnp.minimum(i, n - 1), axis=1)
    from_b = jnp.take_along_axis(b, jnp.clip(i - n - 1, 0, n - 1), axis=1)
    return jnp.where(i < n, from_a, jnp.where(i == n, PLUS, from_b)), answer


def _frame(body: Array, lengths: Array) -> Array:
    """[B, N], the first so many of each row count -> START body END PAD ..., [B, N + 2]."""
    place = jnp.arange(body.shape[1] + 2)[None] - 1
    inside = jnp.take_along_axis(body, jnp.clip(place, 0, body.shape[1] - 1), axis=1)
    after = jnp.where(place == lengths[:, None], END, PAD)
    framed = jnp.where(place < lengths[:, None], inside, after)
    return jnp.where(place < 0, START, framed)
