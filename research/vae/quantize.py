"""Latents from a finite set: vector quantisation, residual and scalar codes, relaxed categories.

`nearest` finds codes, `codebook[indices]` are their vectors, `straight_through` or `rotate` carries
the gradient across, and `ema_update` or the loss `commitment` moves the codebook. Its state belongs
in a train state's `model_state`. Distances, counts and averages are float32 or wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Key
from research.vae import gradients
from research.vae.checks import positive, whole_levels, wide


def nearest(codebook: Array, x: Array) -> Array:
    """The index of the code nearest to each vector; the first of equally near ones.

    Args:
        codebook: [K, D] float.
        x: [..., D] float.
    Returns:
        [...] int32.
    Raises:
        ValueError: if the widths differ.
    """
    _check_width(codebook, x)
    codebook, x = wide(codebook, x)
    centre = codebook.mean(0)  # about it, little cancels: |c|^2 - 2 x.c is all that tells codes
    codes = codebook - centre[None]
    x = x - jnp.broadcast_to(centre, x.shape)
    product = jnp.einsum("...d,kd->...k", x, codes, precision="highest")
    norms = jnp.broadcast_to(jnp.square(codes).sum(1), product.shape)
    return jnp.argmin(norms - 2 * product, -1).astype(jnp.int32)


def straight_through(x: Array, q: Array) -> Array:
    """`q`, with the gradient of `x`: van den Oord et al. 2017, arXiv:1711.00937, sec. 3.2.

    ValueError if the shapes differ.
    """
    _check_same(x, q)
    return jax.lax.stop_gradient(q) + (x - jax.lax.stop_gradient(x))


def rotate(x: Array, q: Array) -> Array:
    """`q`, with the gradient of the rotation and scaling of `x` that leads there.

    The rotation trick, Fifty et al. 2024, arXiv:2410.06424: q = (|q| / |x|) R x with R = I - 2 r r'
    + 2 q^ x^' and r = (x^ + q^) / |x^ + q^|, both factors held constant; hats have length 1. The
    gradient keeps its angle to the code. Where x or q is 0 it is that of `straight_through`.

    Args:
        x, q: [..., D] float, vectors and their codes.
    Returns:
        [..., D] float.
    Raises:
        ValueError: if the shapes differ.
    """
    _check_same(x, q)
    dtype = x.dtype
    path, fixed, q_wide = *wide(x, x), wide(q)[0]
    fixed, q_wide = jax.lax.stop_gradient((fixed, q_wide))
    (fixed, length_x), (code, length_q) = _unit(fixed), _unit(q_wide)
    middle, _ = _unit(fixed + code)
    dot = lambda a, b: (a * b).sum(-1, keepdims=True)
    turned = path - 2 * middle * dot(middle, path) + 2 * code * dot(fixed, path)
    scale = length_q / _nonzero(length_x)
    turned = jnp.where((length_x > 0) & (length_q > 0), scale * turned, path)
    return jax.lax.stop_gradient(q) + (turned - jax.lax.stop_gradient(turned)).astype(dtype)


def commitment(x: Array, q: Array) -> Array:
    """|x - q|^2 summed over D, with no gradient to q; `commitment(q, x)` is the codebook's loss.

    The third and second term of van den Oord et al. 2017, eq. (3); the third weighs 0.25 there.

    Args:
        x, q: [..., D] float.
    Returns:
        [...] float32 or wider.
    Raises:
        ValueError: if the shapes differ.
    """
    _check_same(x, q)
    x, q = wide(x, q)
    return jnp.square(x - jax.lax.stop_gradient(q)).sum(-1)


@flax.struct.dataclass
class Codebook:
    """A codebook and the moving averages that it is the ratio of.

    Attributes:
        codebook: [K, D] float32 or wider.
        counts: [K], average number of vectors of a code in a batch, times `weight`.
        sums: [K, D], average sum of those vectors, times `weight`.
        weight: [] in [0, 1], of the averages: they start at 0, and this is how far they have come.
    """

    codebook: Array
    counts: Array
    sums: Array
    weight: Array


def init(rng: Key, num_codes: int, dim: int) -> Codebook:
    """Codes from N(0, I), and averages of nothing; `restart` with a batch starts from data.

    Raises:
        ValueError: if a count is not positive.
    """
    shape = checks.count("num_codes", num_codes), checks.count("dim", dim)
    codebook = jax.random.normal(rng, shape)
    return Codebook(codebook, 0 * codebook[:, 0], 0 * codebook, jnp.zeros((), codebook.dtype))


def ema_update(state: Codebook, x: Array, indices: Array, decay: Array | float) -> Codebook:
    """Moves each code towards the mean of its vectors: averages of counts and sums, then the ratio.

    Van den Oord et al. 2017, app. A.1. A step of decay 0 is one of Lloyd's, and on one set of
    vectors its fixed points are those of k-means for every decay. A code without vectors stays.

    Args:
        state: as from `init`.
        x: [..., D] float, the vectors.
        indices: [...] int, their codes.
        decay: in [0, 1), of the averages.
    Raises:
        ValueError: if the shapes differ, the indices are no codes, or the decay is out of range.
    """
    _check_width(state.codebook, x)
    if not isinstance(decay, jax.core.Tracer) and not 0 <= float(decay) < 1:
        raise ValueError(f"decay={decay}: expected a number in [0, 1)")
    if indices.shape != x.shape[:-1]:
        raise ValueError(f"indices have shape {indices.shape}: expected {x.shape[:-1]}, as x")
    num_codes, dim = state.codebook.shape
    indices = whole_levels("indices", indices, num_codes).ravel()
    x = jax.lax.stop_gradient(x).reshape(-1, dim).astype(state.sums.dtype)
    decay = jnp.asarray(decay, x.dtype)
    mix = lambda old, values: (
        decay * old + (1 - decay) * jax.ops.segment_sum(values, indices, num_codes)
    )
    counts, sums = mix(state.counts, jnp.ones(len(x), x.dtype)), mix(state.sums, x)
    # Averages of a code without vectors fade together; their ratio stays until it is 0 / 0.
    alive = counts > 1e-20
    means = sums / jnp.where(alive, counts, 1)[:, None]
    return Codebook(
        codebook=jnp.where(alive[:, None], means, state.codebook),
        counts=counts,
        sums=sums,
        weight=decay * state.weight + (1 - decay),
    )


def restart(rng: Key, state: Codebook, x: Array, min_count: float = 1.0) -> Codebook:
    """Codes of too few vectors are moved to vectors of the batch, each to another one.

    The random restarts of Dhariwal et al. 2020, arXiv:2005.00341, sec. 3.1. After `init` all move.

    Args:
        rng: key of the choice.
        state: the codebook.
        x: [..., D] float, at least as many vectors as codes.
        min_count: vectors a batch below which, on average, a code is dead; those moved start there.
    Raises:
        ValueError: if the widths differ, there are fewer vectors than codes, or `min_count` is not
            positive.
    """
    _check_width(state.codebook, x)
    positive("min_count", min_count)
    num_codes, dim = state.codebook.shape
    x = jax.lax.stop_gradient(x).reshape(-1, dim).astype(state.codebook.dtype)
    if len(x) < num_codes:
        raise ValueError(f"x has {len(x)} vectors: a restart takes as many as codes, {num_codes}")
    chosen = jax.random.choice(rng, x, (num_codes,), replace=False)
    least = min_count * state.weight
    dead = (state.counts < least) | (state.weight == 0)
    return Codebook(
        codebook=jnp.where(dead[:, None], chosen, state.codebook),
        counts=jnp.where(dead, least, state.counts),
        sums=jnp.where(dead[:, None], least * chosen, state.sums),
        weight=state.weight,
    )


def residual(codebooks: Array, x: Array) -> tuple[Array, Array]:
    """Codes of what the codes before have left over: Zeghidour et al. 2021, arXiv:2107.03312.

    Args:
        codebooks: [Q, K, D] float, one for each round.
        x: [..., D] float.
    Returns:
        Sums of the codes [..., D], float32 or wider, and indices [Q, ...] int32. Take the gradient
        across by `straight_through(x, sums)`.
    Raises:
        ValueError: if the widths differ or there is no axis of rounds.
    """
    if codebooks.ndim != 3 or x.shape[-1:] != codebooks.shape[-1:]:
        raise ValueError(
            f"codebooks, x have shapes {codebooks.shape}, {x.shape}: expected [Q, K, D], [..., D]"
        )
    codebooks, x = wide(codebooks, x)

    def round_(rest: Array, codebook: Array) -> tuple[Array, Array]:
        indices = nearest(codebook, rest)
        return rest - codebook[indices], indices

    rest, indices = jax.lax.scan(round_, x, codebooks)
    return x - rest, indices


def finite_scalar(x: Array, levels: Sequence[int]) -> Array:
    """Each channel rounded to one of its levels, evenly spaced on [-1, 1]; straight through.

    Finite scalar quantisation, Mentzer et al. 2023, arXiv:2309.15505: tanh(x) times (l - 1) / 2 is
    rounded to the l points from -(l - 1) / 2 to (l - 1) / 2 and divided by (l - 1) / 2. For even l
    the paper shifts the points by 1/2 so that 0 is one of them; here they stay symmetric, and l = 2
    is the sign.

    Args:
        x: [..., D] float.
        levels: D whole numbers >= 2; their product is the number of codes.
    Returns:
        [..., D] float in [-1, 1], with the gradient of tanh(x).
    Raises:
        ValueError: if there is not one number a channel, or one is below 2.
    """
    levels = _levels(levels, x)
    (wide_x,) = wide(x)
    bounded = jnp.tanh(wide_x)
    half = jnp.broadcast_to(jnp.asarray((levels - 1) / 2, bounded.dtype), bounded.shape)
    index = jnp.clip(jnp.round(bounded * half + half), 0, 2 * half)
    return straight_through(bounded, (index - half) / half).astype(x.dtype)


def finite_scalar_indices(q: Array, levels: Sequence[int]) -> Array:
    """The number of each code, [..., D] as `finite_scalar` gives -> [...] int32; first is lowest.

    ValueError as `finite_scalar`, and for more codes than int32 counts.
    """
    levels = _levels(levels, q)
    if math.prod(levels.tolist()) >= 2**31:
        raise ValueError(f"levels={tuple(levels.tolist())}: more codes than int32 counts")
    (q,) = wide(q)
    half = jnp.broadcast_to(jnp.asarray((levels - 1) / 2, q.dtype), q.shape)
    digits = jnp.round(q * half + half).astype(jnp.int32)
    places = jnp.asarray(np.cumprod([1, *levels[:-1]]), jnp.int32)
    return jnp.einsum("...d,d->...", digits, places)


def gumbel(
    rng: Key, logits: Array, codebook: Array, temperature: Array | float = 1.0, hard: bool = False
) -> Array:
    """Codes mixed by relaxed draws of their categories: the dVAE of Ramesh et al. 2021.

    arXiv:2102.12092, sec. 2.1. The divergence from the uniform prior is `kl_to_uniform(logits)`.

    Args:
        rng, temperature, hard: as in `gradients.gumbel_softmax`.
        logits: [..., K] float.
        codebook: [K, D] float, which takes gradients too.
    Returns:
        [..., D] float32 or wider.
    Raises:
        ValueError: if the numbers of codes differ, or the temperature is not positive.
    """
    if codebook.ndim != 2 or logits.shape[-1:] != codebook.shape[:1]:
        shapes = f"{logits.shape}, {codebook.shape}"
        raise ValueError(f"logits, codebook have shapes {shapes}: expected [..., K], [K, D]")
    logits, codebook = wide(logits, codebook)
    draws = gradients.gumbel_softmax(rng, logits, temperature, hard)
    return jnp.einsum("...k,kd->...d", draws, codebook, precision="highest")


def kl_to_uniform(logits: Array) -> Array:
    """KL from the categories of logits [..., K] to equal shares, [...] nats in [0, log K]."""
    log_probs = jax.nn.log_softmax(*wide(logits))
    shares = jnp.exp(log_probs)
    terms = jnp.where(shares > 0, shares * jnp.where(shares > 0, log_probs, 0), 0)
    return terms.sum(-1) + math.log(logits.shape[-1])


def perplexity(i: Array, num_codes: int) -> Array:
    """exp of the entropy of the codes' shares, [] in [1, num_codes]: how many are used evenly.

    It cannot exceed the number of vectors, so count over the whole set, not over a batch.

    Args:
        i: [...] int, codes.
        num_codes: K.
    Raises:
        ValueError: if there is no code, or one is not in 0 .. K - 1, as far as known.
    """
    shares = _shares(i, num_codes)
    log_shares = jnp.log(jnp.where(shares > 0, shares, 1))
    return jnp.exp(-(shares * log_shares).sum())


def usage(i: Array, num_codes: int) -> Array:
    """The share of the codes that occur at all, [] in [0, 1]; arguments as `perplexity`."""
    shares = _shares(i, num_codes)
    return (shares > 0).mean(dtype=shares.dtype)


def _shares(i: Array, num_codes: int) -> Array:
    checks.count("num_codes", num_codes)
    i = whole_levels("i", i, num_codes)
    if not i.size:
        raise ValueError(f"i has shape {i.shape}: expected one code or more")
    counts = jnp.zeros(num_codes, int).at[i.ravel()].add(1)
    return counts / i.size


def _levels(levels: Sequence[int], x: Array) -> np.ndarray:
    counts = [checks.count("levels", level, least=2) for level in levels]
    if x.shape[-1:] != (len(counts),):
        raise ValueError(f"levels={tuple(counts)}: expected one a channel of x, shape {x.shape}")
    return np.array(counts)


def _unit(x: Array) -> tuple[Array, Array]:
    """x over its length, [..., D], and the length [..., 1]; 0 stays 0."""
    # Scaled by the largest entry first: squares of small or large ones leave float32.
    largest = jnp.abs(x).max(-1, keepdims=True)
    scaled = x / _nonzero(largest)
    length = jnp.sqrt(jnp.square(scaled).sum(-1, keepdims=True))
    return scaled / _nonzero(length), largest * length


def _nonzero(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)


def _check_width(codebook: Array, x: Array) -> None:
    if codebook.ndim != 2 or x.shape[-1:] != codebook.shape[1:]:
        raise ValueError(
            f"codebook, x have shapes {codebook.shape}, {x.shape}: expected [K, D], [..., D]"
        )


def _check_same(x: Array, q: Array) -> None:
    if x.shape != q.shape:
        raise ValueError(f"x, q have shapes {x.shape}, {q.shape}: expected one shape")
