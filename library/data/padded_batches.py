"""A finite evaluation stream whose batches all have one shape: the last is padded, with a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from library.data import pipeline


class FiniteBatches(Sequence):
    """The examples of a source once, in order, as batches [B, ...] with a leaf "mask" [B] float32.

    The mask is 1 for examples and 0 for padding, which repeats the last example (so that padding
    cannot bring a nan into a masked mean). One shape means one compilation.

    Args:
        source: arrays [N, ...] or a random-access source.
        batch_size: B, over all processes.
        transform: maps a batch before the mask is added.
        shard: (index, count): only rows index * B / count ... of every batch. All processes see
            the same number of batches, some of which may be padding only.
    Raises:
        ValueError: for an empty source, a bad batch size or shard; when read, if the source has a
            leaf "mask" of its own.
    """

    def __init__(
        self,
        source: pipeline.Arrays | pipeline.Source,
        batch_size: int,
        *,
        transform: Callable[[pipeline.Batch], pipeline.Batch] | None = None,
        shard: pipeline.Shard = (0, 1),
    ):
        self._source = pipeline.ArraySource(source) if isinstance(source, Mapping) else source
        self._index, self._count = pipeline.check(len(self._source), batch_size, shard)
        self._batch_size = batch_size
        self._transform = transform

    def __len__(self) -> int:
        return -(-len(self._source) // self._batch_size)

    def __getitem__(self, index: int) -> pipeline.Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        size = self._batch_size // self._count
        rows = index * self._batch_size + self._index * size + np.arange(size)  # [B]
        num_examples = len(self._source)
        batch = pipeline.take(self._source, np.minimum(rows, num_examples - 1))
        if "mask" in batch:
            raise ValueError("the source has a leaf 'mask' of its own: rename it")
        if self._transform is not None:
            batch = self._transform(batch)
        return {**batch, "mask": (rows < num_examples).astype(np.float32)}
