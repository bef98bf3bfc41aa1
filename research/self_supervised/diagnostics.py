"""How an embedding is doing while it trains: whether views agree, how they spread, what collapsed.

A loss cannot tell: DINO's stays at ln K when all outputs are uniform and falls to 0 when one
prototype takes all, BYOL's falls to 0 when every embedding is the same.
"""

from __future__ import annotations

import dataclasses
import math

import flax.struct
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, at_least_float32
from research.self_supervised import checks as topic_checks

_SAME = 1e-2  # of the reference: the spread of embeddings that are one point


@dataclasses.dataclass(frozen=True)
class Report:
    """What `report` found.

    Attributes:
        alignment: mean squared distance of two views, of length 1; 0 at best, 2 by chance.
        uniformity: log of the mean of exp(-2 |x - y|^2) over pairs of embeddings of length 1.
        effective_rank: of the embeddings of both views, by `effective_rank`.
        spectrum: [min(2 B, D)] singular values of the centred embeddings, falling, summing to 1.
        spread: [D] standard deviations of the embeddings.
        collapsed: "complete": all embeddings are one point; "dimensional": they fill few of their
            directions; "none".
    """

    alignment: float
    uniformity: float
    effective_rank: float
    spectrum: np.ndarray
    spread: np.ndarray
    collapsed: str


@flax.struct.dataclass
class Teacher:
    """What the outputs of a teacher look like.

    Attributes:
        entropy: [] nats, mean over rows; ln K for uniform outputs.
        concentration: [] nats, the divergence of the mean output from the uniform one; ln K where
            one prototype takes all.
    """

    entropy: Array
    concentration: Array


def report(
    z1: Array, z2: Array, *, reference: float | None = None, least_rank: float = 0.1
) -> Report:
    """Alignment, uniformity, rank, spread, and a verdict, of the embeddings of two views.

    Args:
        z1, z2: [B, D] embeddings of two views of B examples, not normalised, B at least 2.
        reference: what the root of the total variance was when all was well, e.g. at the start;
            None takes the root mean square length of the embeddings, so that vectors that shrink
            together are no collapse.
        least_rank: share of the directions that may be filled, below which few are: of the smaller
            of D and 2 B - 1, and never below 1.5 of them.
    Returns:
        The report, on the host. "complete" is a total deviation of less than 1 % of `reference`;
        "dimensional" an effective rank of the centred embeddings below `least_rank`.
    Raises:
        ValueError: for embeddings of other shapes, of one example, or that are not finite; for a
            `reference` that is not positive.
    """
    z1, z2 = (np.asarray(z, np.float64) for z in (z1, z2))
    if z1.ndim != 2 or z1.shape != z2.shape or len(z1) < 2 or not z1.size:
        raise ValueError(
            f"z1 {list(z1.shape)}, z2 {list(z2.shape)}: expected two of [B, D], B at least 2"
        )
    checks.share("least_rank", least_rank)
    if reference is not None:
        topic_checks.positive("reference", reference)
    both = np.concatenate([z1, z2])  # [2 B, D]
    if not np.isfinite(both).all():
        raise ValueError("z1, z2 hold values that are not finite")
    centred = both - both.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    length = math.sqrt(np.mean(np.sum(both**2, axis=1)))
    deviation = math.sqrt(np.mean(np.sum(centred**2, axis=1)))
    usual = length if reference is None else reference
    filled = min(both.shape[1], len(both) - 1)
    few = max(1.5, least_rank * filled)
    if deviation <= _SAME * usual:
        collapsed = "complete"
    elif filled > 1 and _exp_entropy(singular) < few:
        collapsed = "dimensional"
    else:
        collapsed = "none"
    return Report(
        float(alignment(z1, z2)), float(uniformity(both)),
        _exp_entropy(np.linalg.svd(both, compute_uv=False)), singular / max(singular.sum(), 1e-300),
        both.std(0), collapsed,
    )  # fmt: skip


def alignment(z1: Array, z2: Array) -> Array:
    """Mean squared distance of two views, Wang and Isola 2020, arXiv:2005.10242, eq. (4).

    Args:
        z1, z2: [B, D]; divided by their lengths.
    Returns:
        [].
    Raises:
        ValueError: for two shapes.
    """
    topic_checks.pair("z1", z1, "z2", z2)
    lib = _library(z1)
    return lib.mean(lib.sum((_unit(z1) - _unit(z2)) ** 2, axis=-1))


def uniformity(z: Array, t: float = 2.0) -> Array:
    """log E exp(-t |x - y|^2) over pairs of two examples, Wang and Isola 2020, eq. (5).

    The pairs of an example with itself are left out. On the uniform law of many points in d
    dimensions it is -2 t + ln 0F1(d/2; t^2).

    Args:
        z: [N, D]; divided by their lengths; N at least 2.
        t: positive.
    Returns:
        [] at most 0.
    Raises:
        ValueError: for one example.
    """
    if len(z) < 2:
        raise ValueError(f"z {list(np.shape(z))}: expected at least two examples")
    lib, z = _library(z), _unit(z)
    squared = lib.maximum(2 - 2 * z @ z.T, 0)
    off = 1 - lib.eye(len(z))
    return lib.log(lib.sum(lib.exp(-t * squared) * off) / (len(z) * (len(z) - 1)))


def effective_rank(z: Array) -> float:
    """exp of the entropy of the singular values of [N, D], RankMe, Garrido et al. 2023,
    arXiv:2210.02885, eq. (1), without its 1e-7; on the host, in float64."""
    return _exp_entropy(np.linalg.svd(np.asarray(z, np.float64), compute_uv=False))


def teacher(probabilities: Array) -> Teacher:
    """Entropy of a teacher's outputs and how much a few prototypes take.

    Args:
        probabilities: [B, K], rows summing to 1.
    """
    p = jnp.asarray(probabilities, at_least_float32(jnp.asarray(probabilities).dtype))
    mean = p.mean(0)
    return Teacher(-_plogp(p).sum(-1).mean(), _plogp(mean).sum() + math.log(p.shape[-1]))


def cka(x: Array, y: Array) -> Array:
    """Linear centred kernel alignment, Kornblith et al. 2019, arXiv:1905.00414, eq. (3).

    Args:
        x, y: [N, D], [N, E], features of the same examples.
    Returns:
        [] in [0, 1]; 1 for features that are equal but for a rotation and a scale; 0 where those
        of one side are all the same.
    Raises:
        ValueError: for features of other examples.
    """
    if np.ndim(x) != 2 or np.ndim(y) != 2 or len(x) != len(y):
        raise ValueError(f"x {list(np.shape(x))}, y {list(np.shape(y))}: expected [N, D], [N, E]")
    x, y = (_wide(z) - _wide(z).mean(0, keepdims=True) for z in (x, y))
    lib = _library(x)
    norm = lambda a: lib.sqrt(lib.sum(a**2))
    scale = norm(x.T @ x) * norm(y.T @ y)
    return norm(x.T @ y) ** 2 / lib.where(scale > 0, scale, 1)


def _exp_entropy(singular: np.ndarray) -> float:
    """1 where all of them are 0: a point has one direction at most."""
    total = singular.sum()
    if not total > 0:
        return 1.0
    p = singular[singular > 0] / total
    return float(np.exp(-np.sum(p * np.log(p))))


def _plogp(p: Array) -> Array:
    return jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0)


def _library(z):
    """NumPy for arrays of the host, which keep float64 there."""
    return np if isinstance(z, np.ndarray) else jnp


def _wide(z):
    if isinstance(z, np.ndarray):
        return z.astype(np.promote_types(z.dtype, np.float32))
    return jnp.asarray(z, at_least_float32(z))


def _unit(z):
    """Directions however short or long; 0 of 0."""
    z = _wide(z)
    lib = _library(z)
    largest = lib.max(lib.abs(z), axis=-1, keepdims=True)
    z = z / lib.where(largest > 0, largest, 1)
    squares = lib.sum(z**2, axis=-1, keepdims=True)
    return z / lib.sqrt(lib.where(squares > 0, squares, 1))
