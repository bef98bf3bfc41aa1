"""Exact gradients of losses over a batch that is too large to be encoded at once.

Gao et al. 2021, arXiv:2101.06983: encode all in chunks and keep the representations only, take the
loss of them all, then encode each chunk again, with the gradient of its representations. Peak
memory is that of one chunk; the price is a second encoding. It is exact wherever an example's
representation depends on that example alone: not with batch norm, whose statistics would be those
of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from library import checks, loops
from library.types import Batch, Key, Params, PyTree, at_least_float32

Encode = Callable[..., PyTree]  # (params, batch[, rngs]) -> representations, leaves [B, ...]


def value_and_grad(
    encode: Encode,
    loss: Callable[[PyTree], Any],
    params: Params,
    batch: Batch,
    num_chunks: int,
    *,
    rng: Key | None = None,
    has_aux: bool = False,
) -> tuple[Any, Params]:
    """Value and gradient of loss(encode(params, batch)) by the parameters, exact.

    Args:
        encode: (params, batch) -> representations, any pytree of leaves [B, ...] such as two
            views; with `rng`, (params, batch, rngs [B]).
        loss: representations -> [] float; with `has_aux`, -> ([] float, anything).
        params: pytree of float arrays.
        batch: pytree of leaves [B, ...].
        num_chunks: in which the batch is encoded; divides B.
        rng: for an encoder that draws: example i gets fold_in(rng, i), both times.
        has_aux: whether the loss returns something beside its value.
    Returns:
        The value (with `has_aux` the pair), and the gradient.
    Raises:
        ValueError: for chunks that don't divide the batch.
    """

    def whole(params: Params) -> Any:
        return loss(representations(encode, params, batch, num_chunks, rng=rng))

    return jax.value_and_grad(whole, has_aux=has_aux)(params)


def representations(
    encode: Encode, params: Params, batch: Batch, num_chunks: int, *, rng: Key | None = None
) -> PyTree:
    """encode(params, batch) in chunks, of which the gradient keeps the inputs alone.

    What a loss of the shared training step calls in place of `encode`: differentiating through it
    encodes each chunk again and sums its gradients in float32 at least.

    Args:
        encode, params, batch, num_chunks, rng: see `value_and_grad`.
    Returns:
        Leaves [B, ...], in the order of the batch.
    Raises:
        ValueError: for chunks that don't divide the batch, or leaves of several sizes.
    """
    checks.count("num_chunks", num_chunks)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or () in sizes:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
        raise ValueError(f"batch leaves have shapes {shapes}: expected one common first axis")
    ((size,),) = sizes
    if size % num_chunks:
        raise ValueError(f"batch size {size} is not a multiple of num_chunks={num_chunks}")
    extra = () if rng is None else (jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(size)),)
    inputs = (batch, *extra)
    if num_chunks == 1:
        return encode(params, *inputs)
    sums, narrow = _widened(params)

    @jax.checkpoint
    def of_chunk(sums: Params, chunk: PyTree) -> PyTree:
        return encode(narrow(sums), *chunk)

    # Chunk j has the examples j, j + A, j + 2A, ..: each is spread evenly over a batch axis that is
    # sharded in blocks.
    cut = lambda x: jnp.swapaxes(x.reshape(-1, num_chunks, *x.shape[1:]), 0, 1)  # noqa: E731
    join = lambda x: jnp.swapaxes(x, 0, 1).reshape(size, *x.shape[2:])  # noqa: E731
    chunks = jax.tree.map(cut, inputs)
    first = jax.tree.map(lambda leaf: leaf[0], chunks)
    slow = loops.slowed(jax.make_jaxpr(of_chunk)(sums, first))
    _, found = jax.lax.scan(
        lambda _, chunk: (None, of_chunk(sums, chunk)),
        None,
        chunks,
        unroll=num_chunks if slow else 1,
    )
    return jax.tree.map(join, found)


def _widened(params: Params) -> tuple[Params, Callable[[Params], Params]]:
    """Float leaves in float32 at least, so that gradients add up there, and the way back."""
    dtypes = jax.tree.map(jnp.result_type, params)
    floating = lambda dtype: jnp.issubdtype(dtype, jnp.floating)  # noqa: E731
    wide = jax.tree.map(
        lambda x: jnp.asarray(x, at_least_float32(x)) if floating(jnp.result_type(x)) else x, params
    )
    back = lambda sums: jax.tree.map(lambda x, dtype: jnp.asarray(x, dtype), sums, dtypes)  # noqa: E731
    return wide, back
