"""Weights in 8 or 4 bits: symmetric rounding with one scale a channel or a group of inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, PyTree, at_least_float32

LARGEST = {8: 127, 4: 7}  # codes run from -LARGEST to LARGEST


@flax.struct.dataclass
class Quantized:
    """A matrix [..., I, O] as integer codes times scales; I is summed over in a product.

    Attributes:
        codes: int8 [..., I, O]; with 4 bits uint8 [..., I/2, O], the even row in the low half.
        scales: float32 [..., I/group, O].
        bits: 8 or 4.
        leaf_shape: of the array that the matrix was cut from, None for the matrix itself.
    """

    codes: Array
    scales: Array
    bits: int = flax.struct.field(pytree_node=False)
    leaf_shape: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        *batch, rows, columns = self.codes.shape
        return (*batch, rows * (8 // self.bits), columns)

    @property
    def bits_per_weight(self) -> float:
        """Memory of codes and scales over the number of weights."""
        return 8 * (self.codes.nbytes + self.scales.nbytes) * (self.bits / 8) / self.codes.size


def quantize(weights: Array, bits: int = 8, group: int | None = None) -> Quantized:
    """Rounds to the nearest code; an entry errs by at most half its scale.

    The scale is the largest magnitude of its group over 127 (8 bits) or 7 (4 bits), so the error
    is at most 1/254 or 1/14 of that magnitude.

    Args:
        weights: [..., I, O] float.
        bits: 8 or 4.
        group: inputs that share a scale, a divisor of I; None for all of them (one scale a
            channel).
    Raises:
        ValueError: for other bits, a group that does not divide I, an odd I with 4 bits, or weights
            that are complex or, where they are known, not finite.
    """
    if checks.count("bits", bits) not in LARGEST:
        raise ValueError(f"bits={bits}: expected 8 or 4")
    if jnp.issubdtype(weights.dtype, jnp.complexfloating):
        raise ValueError(f"weights of type {weights.dtype}: expected real numbers")
    if weights.ndim < 2 or not weights.size:
        raise ValueError(f"weights of shape {weights.shape}: expected [..., I, O]")
    *batch, rows, columns = weights.shape
    group = rows if group is None else checks.count("group", group)
    if rows % group or rows % (8 // bits):
        raise ValueError(f"{rows} inputs in {bits} bits cannot be cut into groups of {group}")
    if not isinstance(weights, jax.core.Tracer) and not np.isfinite(np.asarray(weights)).all():
        raise ValueError("weights are not finite: one nan or infinity would take its whole group")
    grouped = weights.astype(jnp.float32).reshape(*batch, rows // group, group, columns)
    scales = jnp.max(jnp.abs(grouped), axis=-2) / LARGEST[bits]  # [..., I/group, O]
    codes = jnp.round(grouped / jnp.where(scales > 0, scales, 1.0)[..., None, :])
    codes = codes.reshape(weights.shape).astype(jnp.int8)
    return Quantized(codes if bits == 8 else _pack(codes), scales, bits)


def dequantize(quantized: Quantized, dtype: Any = jnp.float32) -> Array:
    """The matrix [..., I, O] that the codes stand for."""
    grouped = _grouped(quantized).astype(jnp.float32) * quantized.scales[..., None, :]
    return grouped.reshape(quantized.shape).astype(dtype)


def dot(x: Array, quantized: Quantized) -> Array:
    """x [..., I] times a quantised matrix [I, O], without making the matrix: [..., O].

    Sums within groups are of codes; the scales come after. Both in float32 or wider; the result has
    the dtype of x, float32 if that is an integer.

    Raises:
        ValueError: for shapes that do not fit, or an x that is neither real nor integer.
    """
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise ValueError(f"x of type {x.dtype}: expected floats or integers")
    if quantized.codes.ndim != 2 or x.shape[-1] != quantized.shape[0]:
        raise ValueError(f"x of shape {x.shape} times a matrix of shape {quantized.shape}")
    codes = _grouped(quantized)  # [N, group, O]
    grouped = x.reshape(*x.shape[:-1], *codes.shape[:2])
    wide = at_least_float32(x.dtype)
    sums = jnp.einsum("...ng,ngo->...no", grouped.astype(wide), codes.astype(wide))
    out = jnp.einsum("...no,no->...o", sums, quantized.scales.astype(wide))
    return out.astype(x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else wide)


def dense_kernels(path: str, leaf: Array) -> tuple[int, int] | None:
    """The kernels [..., I, O] of `nn.Dense`, for `quantize_tree`."""
    return (leaf.ndim - 2, 1) if path.endswith("kernel") and leaf.ndim >= 2 else None


def decoder_kernels(path: str, leaf: Array) -> tuple[int, int] | None:
    """The kernels of a scanned decoder of `research.transformers`, layers in front.

    Heads count as outputs of query, key and value, and as inputs of what mixes them.
    """
    if not path.endswith("kernel"):
        return None
    layers = int("layers" in path.split("/"))
    return layers, leaf.ndim - layers - 1 if path.endswith("out/kernel") else 1


def quantize_tree(
    params: PyTree,
    bits: int = 8,
    group: int | None = None,
    matrices: Callable[[str, Array], tuple[int, int] | None] = dense_kernels,
) -> PyTree:
    """The parameters with the chosen arrays quantised as matrices, the rest as it was.

    Args:
        params: tree of arrays.
        bits, group: as in `quantize`.
        matrices: (path such as "params/mlp/kernel", leaf) -> how many axes in front are a batch of
            matrices and how many after them are inputs; None leaves the array alone.
    Raises:
        ValueError: naming the leaf, for one that `quantize` refuses.
    """

    def convert(path: Any, leaf: Array) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = matrices(name, leaf)
        if axes is None:
            return leaf
        front, end = axes[0], sum(axes)
        rows = math.prod(leaf.shape[front:end])
        try:
            matrix = leaf.reshape(*leaf.shape[:front], rows, -1)
            return quantize(matrix, bits, group).replace(leaf_shape=leaf.shape)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    return jax.tree_util.tree_map_with_path(convert, params)


def dequantize_tree(params: PyTree, dtype: Any = jnp.float32) -> PyTree:
    """The tree of plain arrays; inside jit the codes are what memory holds."""

    def restore(leaf: Any) -> Array:
        if not isinstance(leaf, Quantized):
            return leaf
        return dequantize(leaf, dtype).reshape(leaf.leaf_shape or leaf.shape)

    return jax.tree.map(restore, params, is_leaf=lambda leaf: isinstance(leaf, Quantized))


def tree_bits(params: PyTree) -> float:
    """Memory of the quantised matrices in a tree, scales included, over their number of weights."""
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, Quantized))
    chosen = [leaf for leaf in leaves if isinstance(leaf, Quantized)]
    return sum(leaf.bits_per_weight * math.prod(leaf.shape) for leaf in chosen) / max(
        sum(math.prod(leaf.shape) for leaf in chosen), 1
    )


def _grouped(quantized: Quantized) -> Array:
    """Codes [..., N, group, O] int8."""
    codes = quantized.codes if quantized.bits == 8 else _unpack(quantized.codes)
    *batch, rows, columns = codes.shape
    groups = quantized.scales.shape[-2]
    return codes.reshape(*batch, groups, rows // groups, columns)


def _pack(codes: Array) -> Array:
    """int8 in -7 ... 7, [..., I, O] -> uint8 [..., I/2, O]."""
    low, high = (codes[..., start::2, :] & 0xF for start in (0, 1))
    return (low | high << 4).astype(jnp.uint8)


def _unpack(packed: Array) -> Array:
    """The inverse of `_pack`; shifting left, then right, restores the sign."""
    signed = jax.lax.bitcast_convert_type(packed, jnp.int8)
    low, high = signed << 4 >> 4, signed >> 4
    *batch, rows, columns = packed.shape
    return jnp.stack([low, high], axis=-2).reshape(*batch, 2 * rows, columns)
