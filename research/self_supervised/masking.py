"""What is hidden from a model that is to predict it: patches of images, spans and words of texts.

hidden = masking.random(jax.random.split(rng, len(images)), num_patches, ratio=0.75)
loss = masking.reconstruction_loss(prediction, patches, hidden.mask)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Key, at_least_float32
from research.transformers import losses


@flax.struct.dataclass
class Masked:
    """Which patches are kept and which hidden.

    Attributes:
        keep: [B, L] int32, numbers of the kept patches, in the order the encoder sees them.
        restore: [B, N] int32, for each patch its place in (kept, then hidden).
        mask: [B, N] float32, 1 where hidden, 0 where kept.
    """

    keep: Array
    restore: Array
    mask: Array


@flax.struct.dataclass
class Spans:
    """A text with spans cut out, and what was cut.

    Attributes:
        inputs: [B, S] int, the text with a sentinel in place of each span.
        targets: [B, T] int, the spans, each after its sentinel.
        mask: [B, L] float32, 1 where the text is hidden.
    """

    inputs: Array
    targets: Array
    mask: Array


def random(rng_or_noise: Array, num_patches: int, ratio: float) -> Masked:
    """Hides a share of the patches, each set of that size equally likely.

    He et al. 2022, arXiv:2111.06377: the patches of least noise are kept, L = round((1 - ratio) N)
    of them; the paper's code rounds down after floating arithmetic and keeps none of 10 at 0.9.

    Args:
        rng_or_noise: keys [B], noise [B, N] float, or one key or noise [N], and then no array of
            the result has B.
        num_patches: N.
        ratio: share that is hidden.
    Raises:
        ValueError: for a ratio that hides or keeps nothing, or noise of another shape.
    """
    checks.count("num_patches", num_patches)
    num_kept = round((1 - checks.share("ratio", ratio)) * num_patches)
    if not 0 < num_kept < num_patches:
        nothing = "keeps" if num_kept == 0 else "hides"
        raise ValueError(f"ratio={ratio} {nothing} nothing of {num_patches} patches")
    noise = rng_or_noise
    if jnp.issubdtype(noise.dtype, jax.dtypes.prng_key):
        draw = lambda rng: jax.random.uniform(rng, (num_patches,), jnp.float32)
        noise = jax.vmap(draw)(noise) if noise.ndim == 1 else draw(noise)
    if noise.ndim not in (1, 2) or noise.shape[-1] != num_patches:
        raise ValueError(
            f"noise of shape {noise.shape}: expected [B, {num_patches}], [{num_patches}] or keys"
        )
    order = jnp.argsort(noise, axis=-1).astype(jnp.int32)  # [B, N]
    restore = jnp.argsort(order, axis=-1).astype(jnp.int32)
    return Masked(order[..., :num_kept], restore, (restore >= num_kept).astype(jnp.float32))


def reconstruction_loss(
    prediction: Array, patches: Array, mask: Array, normalise: bool = True
) -> Array:
    """The mean squared error of hidden patches, He et al. 2022, arXiv:2111.06377.

    Args:
        prediction: [B, N, P] float.
        patches: [B, N, P] float, the pixels of each patch.
        mask: [B, N], 1 where hidden; what is visible has gradient 0.
        normalise: whether the target of a patch is (x - mean) / sqrt(variance + 1e-6), of its own P
            pixels, the variance divided by P - 1. A picture of such a prediction is noise without
            `with_own_scale`.
    Returns:
        [] float32 or wider, over all hidden patches of the batch; 0 if none is.
    Raises:
        ValueError: for shapes that do not belong together, or one pixel to normalise.
    """
    if prediction.shape != patches.shape or prediction.ndim != 3 or mask.shape != patches.shape[:2]:
        raise ValueError(
            f"prediction {prediction.shape}, patches {patches.shape}, mask {mask.shape}: expected "
            "[B, N, P], [B, N, P], [B, N]"
        )
    wide = at_least_float32(prediction, patches)
    prediction, target, mask = (x.astype(wide) for x in (prediction, patches, mask))
    if normalise:
        mean, deviation = _moments(target)
        target = (target - mean) / deviation
    errors = jnp.square(prediction - target).mean(-1)  # [B, N]
    total = mask.sum()
    return jnp.where(mask == 0, 0.0, mask * errors).sum() / jnp.where(total == 0, 1.0, total)


def with_own_scale(prediction: Array, patches: Array) -> Array:
    """A prediction of normalised patches as pixels, by the mean and deviation of the true ones.

    They are the answer's own: a picture made so shows what was predicted within a patch, and gives
    away brightness and contrast of each, hidden ones included.

    Args:
        prediction: [B, N, P] float.
        patches: [B, N, P] float, the true pixels.
    Returns:
        [B, N, P], float32 or wider.
    Raises:
        ValueError: for two shapes, or one pixel.
    """
    if prediction.shape != patches.shape or prediction.ndim != 3:
        raise ValueError(
            f"prediction {prediction.shape}, patches {patches.shape}: expected [B, N, P] of both"
        )
    wide = at_least_float32(prediction, patches)
    mean, deviation = _moments(patches.astype(wide))
    return prediction.astype(wide) * deviation + mean


def spans(
    rng: Key,
    tokens: Array,
    first_sentinel: int,
    density: float = 0.15,
    mean_length: float = 3.0,
    end_token: int | None = None,
) -> Spans:
    """T5's corruption: spans of a text become sentinels, and the target says what stood there.

    Raffel et al. 2020, arXiv:1910.10683, section 3.1.4, as `random_spans_noise_mask` of their code:
    exactly round(density L) tokens are hidden, in round(hidden / mean_length) spans, both at least
    1; the text is cut into as many visible and hidden spans in turn, the first visible, each
    composition into positive lengths equally likely. Span i is sentinel `first_sentinel` - i.

    Args:
        rng: keys [B], or one key for one text, and then no array of the result has B.
        tokens: [B, L] int, or [L].
        first_sentinel: the last of the vocabulary's tokens, in T5.
        density: share of hidden tokens.
        mean_length: of a hidden span, in tokens.
        end_token: appended to inputs and targets, if any.
    Returns:
        Arrays of the lengths of `span_lengths`, and one more with an end token.
    Raises:
        ValueError: for numbers out of range, more spans than visible tokens or sentinels, or keys
            that are not one per text.
    """
    tokens = jnp.asarray(tokens)
    if tokens.ndim not in (1, 2) or rng.shape != tokens.shape[:-1]:
        raise ValueError(f"rng {rng.shape}, tokens {tokens.shape}: expected [B] keys for [B, L]")
    hidden, count = _span_counts(tokens.shape[-1], density, mean_length)
    if count > first_sentinel + 1:
        raise ValueError(f"first_sentinel={first_sentinel}: expected {count} sentinels from 0 on")

    def corrupt(rng: Key, tokens: Array) -> Spans:
        mask = _span_mask(rng, len(tokens), hidden, count)
        inputs = _with_sentinels(tokens, mask, first_sentinel, len(tokens) - hidden + count)
        targets = _with_sentinels(tokens, ~mask, first_sentinel, hidden + count)
        if end_token is not None:
            inputs, targets = (
                jnp.append(x, jnp.asarray(end_token, x.dtype)) for x in (inputs, targets)
            )
        return Spans(inputs, targets, mask.astype(jnp.float32))

    return jax.vmap(corrupt)(rng, tokens) if tokens.ndim == 2 else corrupt(rng, tokens)


def span_lengths(length: int, density: float = 0.15, mean_length: float = 3.0) -> tuple[int, int]:
    """Lengths of inputs and targets that `spans` makes of a text, without an end token.

    Raises:
        ValueError: as there.
    """
    hidden, count = _span_counts(length, density, mean_length)
    return length - hidden + count, hidden + count


@dataclasses.dataclass(frozen=True)
class WholeWords:
    """BERT's masking of whole words, in place of `losses.Masking` in `losses.masked_tokens`.

    Each word is chosen with the rate of `masking`, all its tokens or none; each of those becomes
    [MASK], a random token or stays as there.

    Attributes:
        masking: rate, [MASK] and which tokens may be chosen; those that may not end a word.
        starts: tokens [B, T] int -> bool [B, T], where a word starts, e.g. a table of the
            vocabulary, true but for pieces that continue a word.
    """

    masking: losses.Masking
    starts: Callable[[Array], Array]

    def __call__(self, rng: Key, tokens: Array) -> tuple[Array, Array]:
        """Tokens [B, T] -> what the model reads [B, T], and which are to be predicted, bool."""
        word_rng, kind_rng = jax.random.split(rng)
        special = tokens < self.masking.first_token
        after = jnp.pad(special, ((0, 0), (1, 0)))[:, :-1]
        word = jnp.cumsum(self.starts(tokens) | special | after, axis=1)  # [B, T], 0 to T
        draws = jax.random.uniform(word_rng, (tokens.shape[0], tokens.shape[1] + 1))
        chosen = jnp.take_along_axis(draws, word, axis=1) < self.masking.rate
        chosen = chosen & ~special
        masked, _ = self.masking.replace(rate=1.0)(kind_rng, tokens)
        return jnp.where(chosen, masked, tokens), chosen


def _moments(patches: Array) -> tuple[Array, Array]:
    """Mean and deviation of each patch [..., P], [..., 1] both."""
    if patches.shape[-1] < 2:
        raise ValueError("patches of 1 number have no variance: expected at least 2")
    variance = patches.var(-1, keepdims=True, ddof=1)
    return patches.mean(-1, keepdims=True), jnp.sqrt(variance + 1e-6)


def _span_counts(length: int, density: float, mean_length: float) -> tuple[int, int]:
    """How many tokens are hidden, in how many spans."""
    checks.count("length", length, least=2)
    if not 0 < density < 1:
        raise ValueError(f"density={density}: expected a number between 0 and 1")
    if not mean_length >= 1:
        raise ValueError(f"mean_length={mean_length}: expected at least 1")
    hidden = min(max(round(length * density), 1), length - 1)
    count = max(round(hidden / mean_length), 1)
    if count > length - hidden:
        raise ValueError(
            f"density={density}, mean_length={mean_length}: {count} hidden spans among "
            f"{length - hidden} visible tokens, expected no more spans than those"
        )
    return hidden, count


def _span_mask(rng: Key, length: int, hidden: int, count: int) -> Array:
    """[L] bool, true where hidden."""
    hidden_rng, visible_rng = jax.random.split(rng)
    parts = [
        _composition(visible_rng, length - hidden, count),
        _composition(hidden_rng, hidden, count),
    ]
    ends = jnp.cumsum(jnp.stack(parts, 1).ravel())  # [2 count], visible and hidden in turn
    number = jnp.searchsorted(ends, jnp.arange(length), side="right")
    return number % 2 == 1


def _composition(rng: Key, total: int, parts: int) -> Array:
    """[parts] int >= 1 of this sum, all equally likely."""
    cuts = jax.random.permutation(rng, np.arange(1, total) < parts)  # [total - 1], parts - 1 true
    part = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(cuts)])  # [total]
    return (part[None] == jnp.arange(parts)[:, None]).sum(1)


def _with_sentinels(tokens: Array, cut: Array, first_sentinel: int, size: int) -> Array:
    """[size]: the tokens with each run of `cut` replaced by a sentinel."""
    before = jnp.pad(cut, (1, 0))[:-1]
    start = cut & ~before
    sentinels = first_sentinel + 1 - jnp.cumsum(start)
    written = jnp.where(start, sentinels, tokens).astype(tokens.dtype)
    order = jnp.argsort(cut & before, stable=True)  # those that go away come last
    return written[order[:size]]
