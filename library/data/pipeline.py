"""Batches as a pure function of the step: shuffled, repeated, sharded over processes, prefetched.

`batch_at(step)` depends on nothing but its arguments, so a run resumes at any step without iterator
state, and all processes agree on the order without talking. Steps walk through the epochs without
gap: batch t holds the examples t * B ... (t + 1) * B - 1 of the endless sequence of epochs, and
every example occurs once per epoch, also where the batch size does not divide the set.

`batch_at` reads any random-access source through a Grain `MapDataset`; `array_batch_at` is the fast
path for what fits into memory; `stream_batch_at` is for synthetic streams.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from library import checks

Batch = dict[str, np.ndarray]
Example = dict[str, Any]
BatchAt = Callable[[int], Batch]
Arrays = Mapping[str, np.ndarray]
Shard = tuple[int, int]  # (index of this process, number of processes)


class Source(Protocol):
    """Random access to examples, as TFDS and Grain define it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Takeable(Protocol):
    """A source that gathers many examples in one call."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> Batch: ...


class Stream(Protocol):
    """An endless stream whose example i is a pure function of the seed and of i."""

    def examples(self, seed: int, start: int, num: int) -> Batch: ...


def batch_at(
    source: Source,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool = True,
    transform: Callable[[Example], Example] | None = None,
    random_transform: Callable[[Example, np.random.Generator], Example] | None = None,
    shard: Shard = (0, 1),
) -> BatchAt:
    """A pure function step -> batch over a random-access source, built on Grain.

    Args:
        source: `len(source)` examples, each a dict of arrays or numbers.
        batch_size: B, examples in a batch over all processes.
        seed: of the order and of `random_transform`, in [0, 2^32).
        shuffle: a new order every epoch; False keeps the source's order.
        transform: maps one example.
        random_transform: maps one example with a generator of its own, which depends on the seed
            and the example's place in the endless sequence only; it runs before `transform`.
        shard: (index, count): return rows index * B / count ... of the batch only, so that the
            processes' batches, one after the other, make up the whole batch.
    Returns:
        The function; leaves are [B / count, ...].
    Raises:
        ModuleNotFoundError: if Grain is not installed.
        ValueError: for an empty source, a bad batch size, seed or shard.
    """
    index, count = check(len(source), batch_size, shard, seed)
    dataset = _grain().MapDataset.source(source).seed(seed)
    if shuffle:
        dataset = dataset.shuffle()
    dataset = dataset.repeat()
    if random_transform is not None:
        dataset = dataset.random_map(random_transform)
    if transform is not None:
        dataset = dataset.map(transform)
    # Smaller batches of the same sequence: batch t * count + index is this process's part of t.
    dataset = dataset.batch(batch_size // count, batch_fn=stack)

    def at(step: int) -> Batch:
        return dataset[_check_step(step) * count + index]

    return at


def array_batch_at(
    arrays: Arrays | Takeable,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool = True,
    transform: Callable[[Batch], Batch] | None = None,
    shard: Shard = (0, 1),
) -> BatchAt:
    """The same for arrays in memory: one numpy gather per batch, microseconds, no Grain.

    The order is another one than that of `batch_at` with the same seed.

    Args:
        arrays: leaves [N, ...], or a source with `take(indices)` such as `text.Windows`.
        batch_size, seed, shuffle, shard: as in `batch_at`.
        transform: maps a whole batch. What does not depend on chance is cheaper applied once, to
            `arrays` themselves.
    Raises:
        ValueError: for leaves of unequal length, no examples, a bad batch size, seed or shard.
        TypeError: for a bare array, whose own `take` would flatten it: give it a name.
    """
    if hasattr(arrays, "dtype"):
        raise TypeError(f"arrays is {type(arrays).__name__}: expected a dict of arrays by name")
    source = ArraySource(arrays) if isinstance(arrays, Mapping) else arrays
    num_examples = len(source)
    index, count = check(num_examples, batch_size, shard, seed)
    size = batch_size // count

    @functools.lru_cache(maxsize=2)  # a batch may straddle two epochs
    def order(epoch: int) -> np.ndarray:
        if not shuffle:
            return np.arange(num_examples)
        bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
        return np.random.Generator(bits).permutation(num_examples)

    def at(step: int) -> Batch:
        start = _check_step(step) * batch_size + index * size
        parts = []
        for epoch in range(start // num_examples, (start + size - 1) // num_examples + 1):
            first = max(start - epoch * num_examples, 0)
            parts.append(order(epoch)[first : start + size - epoch * num_examples])
        batch = source.take(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return batch if transform is None else transform(batch)

    return at


def stream_batch_at(
    stream: Stream, batch_size: int, *, seed: int, shard: Shard = (0, 1)
) -> BatchAt:
    """The same for an endless stream: batch t holds the examples t * B ... (t + 1) * B - 1.

    Raises:
        ValueError: for a bad batch size, seed or shard.
    """
    index, count = check(1, batch_size, shard, seed)
    size = batch_size // count

    def at(step: int) -> Batch:
        return stream.examples(seed, _check_step(step) * batch_size + index * size, size)

    return at


def prefetch(function: BatchAt, depth: int = 2) -> BatchAt:
    """`function` itself, with the next `depth` steps computed ahead in one background thread.

    It stays a pure function of the step: steps may come in any order, and one that was not
    computed ahead is computed when asked for. An error comes out at the step that it belongs to.

    Raises:
        ValueError: if `depth` is not positive.
    """
    checks.count("depth", depth, of="batches")
    executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    ahead: collections.OrderedDict[int, concurrent.futures.Future] = collections.OrderedDict()
    lock = threading.Lock()

    def at(step: int) -> Batch:
        wanted = range(step, step + depth + 1)
        with lock:
            for stale in [other for other in ahead if other not in wanted]:
                ahead.pop(stale).cancel()
            for future_step in wanted:
                if future_step not in ahead:
                    ahead[future_step] = executor.submit(function, future_step)
            future = ahead.pop(step)
        return future.result()

    return at


def in_memory(source: Source) -> Batch:
    """All examples of a source as arrays [N, ...].

    Raises:
        ValueError: for an empty source.
    """
    if len(source) == 0:
        raise ValueError("the source has no examples")
    return take(source, np.arange(len(source)))


def take(source: Source | Takeable, indices: np.ndarray) -> Batch:
    """The examples at `indices` [B] as one batch, in the fastest way that the source offers."""
    if hasattr(source, "take"):
        return source.take(indices)
    indices = indices.tolist()
    if hasattr(source, "__getitems__"):
        return stack(source.__getitems__(indices))
    return stack([source[index] for index in indices])


class ArraySource:
    """Arrays [N, ...] as a random-access source.

    Raises:
        ValueError: if there are no leaves or their first axes differ.
    """

    def __init__(self, arrays: Arrays):
        sizes = {name: np.shape(leaf)[:1] for name, leaf in arrays.items()}
        if len(set(sizes.values())) != 1 or () in sizes.values():
            shapes = {name: np.shape(leaf) for name, leaf in arrays.items()}
            raise ValueError(f"arrays have the shapes {shapes}: expected one common first axis")
        self.arrays = {
            name: leaf if _is_key(leaf) else np.asarray(leaf) for name, leaf in arrays.items()
        }
        self._num_examples = next(iter(sizes.values()))[0]

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> Example:
        return {name: leaf[index] for name, leaf in self.arrays.items()}

    def take(self, indices: np.ndarray) -> Batch:
        return {
            name: leaf[indices] if _is_key(leaf) else leaf.take(indices, axis=0)
            for name, leaf in self.arrays.items()
        }


def stack(examples: Sequence[Example]) -> Batch:
    """Examples as one batch, each leaf in the dtype that holds all of its values.

    Python integers alone become int32, the dtype that JAX computes in; beside arrays they and
    Python floats take the arrays' dtype, as in JAX. Typed keys become an array of keys.

    Raises:
        ValueError: if there are no examples, their leaves differ in names or shapes, or an integer
            is too large.
    """
    if not examples:
        raise ValueError("examples=[]: expected one or more")
    names = examples[0].keys()
    if odd := next((example for example in examples if example.keys() != names), None):
        raise ValueError(
            f"examples have the leaves {list(names)} and {list(odd)}: expected one set"
        )
    return {name: _stack_leaf(name, [example[name] for example in examples]) for name in names}


def stack_batches(batches: Sequence[Any], axis: int = 0) -> Any:
    """Batches of one structure as one: host leaves with a new axis, typed keys as keys."""
    import jax  # here: sources and transforms need none

    return jax.tree.map(lambda *leaves: _stack(leaves, axis), *batches)


def _stack_leaf(name: str, values: list[Any]) -> Any:
    if _is_key(values[0]):
        return _stack(values)
    # A Python number has no dtype of its own: it takes that of the others.
    plain = {type(value) for value in values} & {int, float}
    dtypes = {np.asarray(value).dtype for value in values if type(value) not in plain}
    if plain == {int} and dtypes <= {np.dtype(bool)}:
        dtype = np.int32
    else:
        dtype = np.result_type(*dtypes, *(kind(0) for kind in plain))
    try:
        return np.stack([np.asarray(value, dtype) for value in values])
    except (ValueError, OverflowError) as error:
        raise ValueError(f"leaf {name!r} of the examples: {error}") from None


def _stack(leaves: Sequence[Any], axis: int = 0) -> Any:
    if not _is_key(leaves[0]):
        return np.stack(leaves, axis)
    import jax

    return jax.numpy.stack(leaves, axis)


def _is_key(leaf: Any) -> bool:
    """Whether a leaf holds typed keys, which NumPy does not know."""
    if (jax := sys.modules.get("jax")) is None:
        return False
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def check(num_examples: int, batch_size: int, shard: Shard, seed: int = 0) -> Shard:
    """`shard`, if it and the sizes make sense; ValueError otherwise."""
    index, count = shard
    checks.count("seed", seed, least=0)
    if num_examples < 1:
        raise ValueError("the source has no examples")
    if count < 1 or not 0 <= index < count:
        raise ValueError(f"shard={shard}: expected (index, count) with 0 <= index < count")
    if checks.count("batch_size", batch_size, of="examples") % count:
        raise ValueError(f"batch size {batch_size} is not a positive multiple of {count} processes")
    return index, count


def _check_step(step: int) -> int:
    return checks.count("step", step, least=0)


def _grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise ModuleNotFoundError(
            f"batch_at needs Grain ({error}): pip install grain, or use array_batch_at"
        ) from error
    return grain
