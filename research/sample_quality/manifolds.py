"""Do samples lie where the data lies, cover it, or copy it: estimates by nearest neighbours.

The manifold of a sample is the union of balls around its points, each out to the k-th nearest of
the others. All work through the pairs in blocks, in float32 or wider, on points or on features.
"""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array
from research.sample_quality import pairs


@flax.struct.dataclass
class PrecisionRecall:
    """Shares of points that lie in the manifold of the other sample.

    Attributes:
        precision: [] of the fake points in that of the real ones.
        recall: [] of the real points in that of the fake ones.
    """

    precision: Array
    recall: Array


@flax.struct.dataclass
class DensityCoverage:
    """How many balls of real points hold fake ones, Naeem et al. 2020, arXiv:2002.09797.

    Attributes:
        density: [] >= 0, balls that a fake point lies in, over k; mean 1 for equal laws.
        coverage: [] in [0, 1], share of the balls that hold a fake point; see `coverage_of_equals`.
    """

    density: Array
    coverage: Array


@functools.partial(jax.jit, static_argnames=("k", "block"))
def precision_recall(real: Array, fake: Array, k: int = 3, *, block: int = 512) -> PrecisionRecall:
    """Improved precision and recall, Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. (2) and (3).

    An outlier has a large ball, so both are too high where there are outliers; `density_coverage`
    is not.

    Args:
        real, fake: [N, ...] and [M, ...] float, the two samples.
        k: the neighbour that a ball reaches.
        block: rows of the distance matrix held at a time.
    Raises:
        ValueError: if the points differ in shape, or a sample has no more than k of them.
    """
    real, fake = _checked(real, fake, k, block)
    within = lambda points, centres: _in_any(points, centres, _radii(centres, k, block), block)
    return PrecisionRecall(within(fake, real).mean(), within(real, fake).mean())


@functools.partial(jax.jit, static_argnames=("k", "block"))
def density_coverage(real: Array, fake: Array, k: int = 5, *, block: int = 512) -> DensityCoverage:
    """Density and coverage, Naeem et al. 2020, arXiv:2002.09797, eq. (4) and (5).

    Args:
        real, fake: [N, ...] and [M, ...] float, the two samples.
        k: the neighbour that a ball reaches; 5 as in the paper.
        block: rows of the distance matrix held at a time.
    Raises:
        ValueError: if the points differ in shape, or the real ones are no more than k.
    """
    real, fake = _checked(real, fake, k, block, both=False)
    radii = _radii(real, k, block)

    def count(rows: Array, index: Array) -> Array:  # fake points in the ball of each real one
        inside = pairs.squared(rows, fake) <= radii[jnp.minimum(index, len(real) - 1)][:, None]
        return inside.sum(1)

    counts = pairs.map_rows(count, real, block)
    density = counts.astype(radii.dtype).sum() / (k * fake.shape[0])
    finite = jnp.isfinite(real).all() & jnp.isfinite(fake).all()
    answer = DensityCoverage(density, (counts > 0).astype(radii.dtype).mean())
    return jax.tree.map(lambda value: jnp.where(finite, value, jnp.nan), answer)


def coverage_of_equals(num_real: int, num_fake: int, k: int = 5) -> float:
    """The mean coverage of two samples of one law without atoms, in any dimension.

    1 - prod_{i<k} (N - 1 - i) / (N + M - 1 - i): of the other N - 1 real and M fake points, the
    first k neighbours of a real point are all real. The form for N = M is in section 3.3 of Naeem
    et al. 2020.

    Raises:
        ValueError: if the real points are no more than k, or a count is below 1.
    """
    _check_sizes(num_real, num_fake, k)
    missed = 1.0
    for i in range(k):
        missed *= (num_real - 1 - i) / (num_real + num_fake - 1 - i)
    return 1.0 - missed


@functools.partial(jax.jit, static_argnames=("block",))
def copying(train: Array, held_out: Array, fake: Array, *, block: int = 512) -> Array:
    """The probability that a sample is nearer to the training set than a held-out point is.

    The Mann-Whitney statistic of Meehan et al. 2020, arXiv:2004.05675, section 3, over the whole
    space: 1/2 where samples and held-out points have one law, 1 where samples copy the training
    set, below 1/2 where they lie apart from it. Its standard error under equal laws is about
    sqrt((N + M + 1) / (12 N M)) for N held-out points and M samples.

    Args:
        train, held_out, fake: [., ...] float, points of one shape; the held-out ones were not seen
            by whatever made the samples.
        block: rows of the distance matrix held at a time.
    Returns:
        [] float in [0, 1]; equal distances count as half.
    Raises:
        ValueError: if the points differ in shape, or block < 1.
    """
    checks.count("block", block)
    nearest = []
    for points in (held_out, fake):
        centred, reference = pairs.samples(points, train, least=1)
        smallest = lambda rows, _, to=reference: pairs.squared(rows, to).min(1)
        nearest.append(pairs.map_rows(smallest, centred, block))
    unseen, made = nearest
    nearer = jnp.searchsorted(jnp.sort(made), unseen, side="left")
    ties = jnp.searchsorted(jnp.sort(made), unseen, side="right") - nearer
    share = (nearer + 0.5 * ties).astype(unseen.dtype).mean() / made.shape[0]
    known = jnp.isfinite(unseen).all() & jnp.isfinite(made).all()
    return jnp.where(known, share, jnp.nan)


def _radii(x: Array, k: int, block: int) -> Array:
    """Squared distance of each point to the k-th nearest of the others, [N]."""

    def kth(rows: Array, index: Array) -> Array:
        itself = index[:, None] == jnp.arange(x.shape[0])[None]
        apart = jnp.where(itself, jnp.inf, pairs.squared(rows, x, known=itself))
        return -jax.lax.top_k(-apart, k)[0][:, -1]

    return pairs.map_rows(kth, x, block)


def _in_any(x: Array, centres: Array, radii: Array, block: int) -> Array:
    """Whether each point of x lies in a ball, [N] of 0 or 1, nan where anything is not finite."""
    inside = lambda rows, _: (pairs.squared(rows, centres) <= radii[None]).any(1)
    found = pairs.map_rows(inside, x, block).astype(x.dtype)
    return jnp.where(jnp.isfinite(x).all() & jnp.isfinite(centres).all(), found, jnp.nan)


def _checked(
    real: Array, fake: Array, k: int, block: int, both: bool = True
) -> tuple[Array, Array]:
    checks.count("block", block)
    real, fake = pairs.samples(real, fake, least=1)
    _check_sizes(real.shape[0], fake.shape[0], k)
    if both:
        _check_sizes(fake.shape[0], real.shape[0], k)
    return real, fake


def _check_sizes(num: int, num_others: int, k: int) -> None:
    for name, value in (("points", num), ("points", num_others), ("k", k)):
        checks.count(name, value)
    if num <= k:
        raise ValueError(f"k={k}: expected fewer neighbours than the {num} points of a sample")
