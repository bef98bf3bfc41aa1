"""The gradient noise scale: the batch size at which noise and signal of a gradient are equal.

McCandlish et al. 2018, arXiv:1812.06162. With the gradient G of the true loss and the covariance
Sigma of one example's gradient, the simple noise scale is B = tr(Sigma) / |G|^2 counted in
examples. Batches well below it average noise for nearly the full worth of their examples;
batches well above it hardly gain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.linalg import trees
from library.types import Array, Batch, PyTree


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """Estimates; numerator and denominator are unbiased, their ratio is not.

    Attributes:
        noise: tr(Sigma), the summed variance of one example's gradient.
        signal: |G|^2; may come out negative where noise drowns it.
        standard_error: of the ratio, by the delta method; nan where one draw tells nothing of it.
    """

    noise: float
    signal: float
    standard_error: float = float("nan")

    @property
    def examples(self) -> float:
        """B = tr(Sigma) / |G|^2 in examples; inf where the signal is not positive."""
        return self.noise / self.signal if self.signal > 0 else float("inf")


def from_two_batches(
    small_norms: Array, large_norms: Array, small_batch: int, large_batch: int
) -> NoiseScale:
    """From squared norms of gradients over batches of two sizes, appendix A.1.

    E|G_B|^2 = |G|^2 + tr(Sigma) / B, so two sizes determine both. Norms of several draws are
    averaged before the ratio, which is biased; the draws must be independent of each other, but the
    large batch may contain the small ones.

    Args:
        small_norms, large_norms: [K] squared norms of the two gradients in each of K draws.
        small_batch, large_batch: examples in each.
    Returns:
        `NoiseScale`, with a standard error where K > 1.
    Raises:
        ValueError: unless the sizes are whole numbers in the right order and the norms [K] numbers
            >= 0.
    """
    small, large = (np.asarray(norms, np.float64) for norms in (small_norms, large_norms))
    if small.ndim != 1 or small.shape != large.shape or not len(small):
        raise ValueError(f"norms {small.shape} and {large.shape}: expected two of one [K]")
    if not (np.isfinite(small).all() and np.isfinite(large).all() and min(*small, *large) >= 0):
        raise ValueError("norms are squares: expected finite numbers >= 0")
    for name, count in (("small_batch", small_batch), ("large_batch", large_batch)):
        checks.count(name, count)
    if not small_batch < large_batch:
        raise ValueError(f"batches {small_batch} and {large_batch}: expected 1 <= small < large")
    signal = (large_batch * large - small_batch * small) / (large_batch - small_batch)
    noise = (small - large) / (1 / small_batch - 1 / large_batch)
    return _ratio(noise, signal)


def from_examples(norms: Array, mean_norms: Array, batch: int) -> NoiseScale:
    """From the gradients of single examples: the sample variance, unbiased, from one batch alone.

    With g the mean of the B gradients g_i, tr(Sigma) = B / (B - 1) (mean_i |g_i|^2 - |g|^2) and
    |G|^2 = |g|^2 - tr(Sigma) / B: `from_two_batches` with small batches of one example.

    Args:
        norms: [K] the mean over a batch of |g_i|^2, in each of K independent batches.
        mean_norms: [K] |mean_i g_i|^2 of the same batches.
        batch: B >= 2, examples in each.
    Returns:
        `NoiseScale`, with a standard error where K > 1.
    Raises:
        ValueError: as `from_two_batches`.
    """
    return from_two_batches(norms, mean_norms, 1, batch)


def squared_norms(
    loss: Callable[[PyTree, Batch], Array], params: PyTree, batch: Batch, small_batch: int
) -> tuple[Array, Array]:
    """Mean squared gradient norm over a batch's pieces, and that of the whole batch's gradient.

    Gradients are summed and squared in float32 at least, whatever the parameters' dtype.

    Args:
        loss: (params, batch) -> mean loss over its examples, equally weighted.
        params: where.
        batch: leaves [B, ...].
        small_batch: examples of a piece; divides B. 1 gives single examples.
    Returns:
        [], []: small, for `from_two_batches` with (small_batch, B), and large.
    Raises:
        ValueError: if the pieces do not fill the batch.
    """
    size = len(jax.tree.leaves(batch)[0])
    if small_batch < 1 or size % small_batch or small_batch == size:
        raise ValueError(
            f"small_batch={small_batch}: expected a proper divisor of the {size} examples"
        )
    pieces = jax.tree.map(lambda x: x.reshape(-1, small_batch, *x.shape[1:]), batch)
    zero = jax.tree.map(jnp.zeros_like, trees.widened(params))

    def add(carry, piece):
        total, norms = carry
        grads = trees.widened(jax.grad(loss)(params, piece))
        return (jax.tree.map(jnp.add, total, grads), norms + _square(grads)), None

    (total, norms), _ = jax.lax.scan(add, (zero, jnp.zeros(())), pieces)
    count = size // small_batch
    return norms / count, _square(total) / count**2


def _square(tree: PyTree) -> Array:
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))


def _ratio(noise: np.ndarray, signal: np.ndarray) -> NoiseScale:
    """Means over draws, and the delta method's error of their ratio."""
    count, mean_noise, mean_signal = len(noise), float(noise.mean()), float(signal.mean())
    error = float("nan")
    if count > 1 and mean_signal > 0:
        rest = noise / mean_signal - mean_noise * signal / mean_signal**2
        error = float(rest.std(ddof=1) / count**0.5)
    return NoiseScale(mean_noise, mean_signal, error)
