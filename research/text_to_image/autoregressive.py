"""DALL-E's route: the tokens of an image after those of its text, one after the other.

Ramesh et al. 2021, arXiv:2102.12092. A discrete autoencoder makes an image a grid of codes, and one
decoder of `research.transformers` models a row of text tokens, then codes. The vocabulary is joint,
codes behind the text's; at a place of one kind only tokens of that kind are possible, in the loss
as in sampling, so that the law that is trained is the law that is drawn from.

    model = Model(config, tokenizer, Vectors(vae), num_codes=128, grid=(8, 8))
    images, info = generate(model, params, ["a red circle"], jax.random.key(0), guidance=3.0)

Example i draws all its codes from fold_in(rng, first_index + i), so it can be made again alone. The
parameters are {"decoder": ..., "first_stage": ...}.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from library import checks as library_checks
from library.types import Array, Aux, Batch, Key, LossFn, ModelState, Params, at_least_float32
from research.diffusion import draws
from research.diffusion.sampling import samplers
from research.language_models.decoding import generation, sampling
from research.text_to_image import checks, tokens
from research.transformers import losses, models
from research.vae import quantize
from research.vae.networks import autoencoder

PLAIN = sampling.Sampler()  # temperature 1, no token left out


class Codes(Protocol):
    """Images as grids of whole numbers."""

    def encode(self, params: Params, images: Array) -> Array:
        """Images [B, H, W, C] in [-1, 1] -> [B, h, w] int32."""

    def decode(self, params: Params, codes: Array) -> Array:
        """[B, h, w] int -> images [B, H, W, C]."""


@dataclasses.dataclass(frozen=True)
class Vectors:
    """The nearest codes of an autoencoder's vectors, {"autoencoder", "codebook" [K, L]}.

    Attributes:
        vae: trained as `first_stage.Objective` says, with `gaussian=False`.
    """

    vae: autoencoder.Autoencoder

    def encode(self, params: Params, images: Array) -> Array:
        """See `Codes`."""
        own = {"params": params["autoencoder"]}
        return quantize.nearest(params["codebook"], self.vae.apply(own, images, method="encode"))

    def decode(self, params: Params, codes: Array) -> Array:
        """See `Codes`."""
        own = {"params": params["autoencoder"]}
        return self.vae.apply(own, jnp.asarray(params["codebook"])[codes], method="decode")


@dataclasses.dataclass(frozen=True)
class Categories:
    """The likeliest categories of a dVAE, {"encoder", "decoder", "codebook" [K, L]}; sec. 2.1.

    Attributes:
        encoder: images -> logits [B, h, w, K], trained through `quantize.gumbel`.
        decoder: vectors [B, h, w, L] -> images.
    """

    encoder: nn.Module
    decoder: nn.Module

    def encode(self, params: Params, images: Array) -> Array:
        """See `Codes`."""
        logits = self.encoder.apply({"params": params["encoder"]}, images)
        return jnp.argmax(logits, -1).astype(jnp.int32)

    def decode(self, params: Params, codes: Array) -> Array:
        """See `Codes`."""
        vectors = jnp.asarray(params["codebook"])[codes]
        return self.decoder.apply({"params": params["decoder"]}, vectors)


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder of text, then image; as a value, without parameters.

    Attributes:
        config: of the decoder: one vocabulary for both, positions for all tokens but the last.
        tokenizer: of the text, T = `max_length` tokens a row.
        codes: the discrete autoencoder.
        num_codes: K.
        grid: h, w of an image's codes.
    Raises:
        ValueError: for a decoder of another vocabulary, or one that has too few positions.
    """

    config: models.DecoderConfig
    tokenizer: tokens.Tokenizer
    codes: Codes
    num_codes: int
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        library_checks.count("num_codes", self.num_codes)
        joint = len(self.tokenizer) + self.num_codes
        if self.config.vocab_size != joint:
            raise ValueError(
                f"a decoder of {self.config.vocab_size} tokens: expected {joint}, "
                f"{len(self.tokenizer)} of the text and {self.num_codes} of images"
            )
        length = self.tokenizer.max_length + math.prod(self.grid) - 1
        if self.config.max_length is not None and self.config.max_length < length:
            raise ValueError(
                f"a decoder of {self.config.max_length} positions: expected at least {length}, for "
                f"{self.tokenizer.max_length} tokens and a grid of {self.grid[0]} x {self.grid[1]}"
            )

    def logits(self, params: Params, text: Array, codes: Array) -> tuple[Array, Array]:
        """Logits of every token given those before it.

        Args:
            params: of the decoder.
            text: [B, T] int.
            codes: [B, N] int in [0, K), rows of the grid one after the other.
        Returns:
            [B, T - 1, V] of text[:, 1:], and [B, N, K] of the codes.
        """
        size, length = len(self.tokenizer), text.shape[1]
        row = jnp.concatenate([text, codes + size], 1)[:, :-1]
        logits = models.Decoder(self.config).apply(params, row)  # [B, T + N - 1, V + K]
        return logits[:, : length - 1, :size], logits[:, length - 1 :, size:]


def init(model: Model, rng: Key) -> Params:
    """Fresh parameters of the decoder."""
    row = jnp.zeros((1, model.tokenizer.max_length), jnp.int32)
    return models.Decoder(model.config).init(rng, row)


def loss(
    model: Model,
    text_weight: float = 1 / 8,
    image_weight: float = 7 / 8,
    drop_rate: float = 0.1,
) -> LossFn:
    """Weighted mean cross-entropy of an example's text tokens and of its codes, Ramesh, sec. 2.2.

    A text's tokens are those up to its end token: what pads it is read, but not predicted. Prompts
    are replaced by the empty one at a rate, for guidance.

    A batch is {"label": [B, T] int, "codes": [B, h, w] or [B, N] int}, and if wanted "mask" [B];
    the parameters are {"decoder": ...}. Metrics are both means, in nats a token.

    Args:
        model: the decoder and its vocabularies.
        text_weight, image_weight: of the two means; theirs are the defaults.
        drop_rate: share of prompts that are replaced, in [0, 1].
    Raises:
        ValueError: for a weight that is negative or not finite, or a rate outside [0, 1].
    """
    for name, weight in (("text_weight", text_weight), ("image_weight", image_weight)):
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{name}={weight}: expected a finite number >= 0")
    library_checks.share("drop_rate", drop_rate)
    null = jnp.asarray(model.tokenizer.encode([""]), jnp.int32)  # [1, T]
    end = model.tokenizer.ids[model.tokenizer.end]

    def loss_fn(
        params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        text, codes = batch["label"], batch["codes"].reshape(len(batch["codes"]), -1)
        (keys,) = draws.example_keys(rng, len(text), 1)
        dropped = jax.vmap(jax.random.uniform)(keys) < drop_rate
        text = jnp.where(dropped[:, None], null, text)
        text_logits, image_logits = model.logits(params["decoder"], text, codes)
        of_text = losses.cross_entropy(text_logits, text[:, 1:])  # [B, T - 1]
        there = jnp.cumsum(text[:, :-1] == end, axis=1) == 0
        of_text = jnp.where(there, of_text, 0).sum(1) / there.sum(1)
        of_image = losses.cross_entropy(image_logits, codes).mean(1)
        mean = lambda each: draws.masked_mean(each, batch.get("mask"))
        value, aux = mean(text_weight * of_text + image_weight * of_image)
        return value, aux.replace(metrics={"text": mean(of_text)[0], "image": mean(of_image)[0]})

    return loss_fn


@flax.struct.dataclass
class Info:
    """What a generation reports beside its images.

    Attributes:
        codes: [B, h, w] int32.
        log_probs: [B, h, w] nats, of each code under the law that it was drawn from.
    """

    codes: Array
    log_probs: Array


def generate(
    model: Model,
    params: Params,
    prompts: str | Sequence[str],
    rng: Key,
    *,
    guidance: float = 1.0,
    sampler: sampling.Sampler = PLAIN,
    first_index: int = 0,
) -> tuple[Array, Info]:
    """Images of prompts; another prompt, weight, seed or `first_index` compiles nothing.

    Args:
        model, params: trained.
        prompts: B texts, or one.
        rng: [] key.
        guidance: weight w of the guided logits u + w (c - u), with those of the empty prompt u,
            Gafni et al. 2022, arXiv:2203.13131; both are one batch of 2 B rows. At 1 the empty
            prompt is not asked, which is a program of its own.
        sampler: temperature, top-k and so on, of the guided logits.
        first_index: of the first image among all of `rng`.
    Returns:
        [B, H, W, C] in [-1, 1], and `Info`.
    Raises:
        ValueError: for no prompt, or a weight that is not finite.
    """
    texts = checks.prompts(prompts)
    checks.weights(guidance, 0.0)
    text = model.tokenizer.encode([*texts, *([""] * len(texts) if guidance != 1 else [])])
    rngs = samplers.sample_rngs(rng, len(texts), jnp.asarray(first_index, jnp.int32))
    weight = jnp.asarray(guidance, float)
    return _program(model, sampler, params, jnp.asarray(text), rngs, weight)


def guided(logits: Array, guidance: Array | float, num: int) -> Array:
    """u + w (c - u) of logits [2 num, K], first c, then u; those given where they are [num, K].

    Float32 or wider.
    """
    logits = logits.astype(at_least_float32(logits.dtype))
    if len(logits) == num:
        return logits
    given, empty = logits[:num], logits[num:]
    return empty + jnp.asarray(guidance, logits.dtype) * (given - empty)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _program(
    model: Model, sampler: sampling.Sampler, params: Params, text: Array, rngs: Key, guidance: Array
) -> tuple[Array, Info]:
    rows, length = text.shape
    num, size, dtype = len(rngs), len(model.tokenizer), _dtype(params["decoder"])
    room = length + math.prod(model.grid) - 1  # the last code is returned but never fed
    cache = models.empty_cache(model.config, rows, room, dtype)
    config, decoder, cache = models.unstack(model.config, params["decoder"], cache)
    step = generation.DecoderStep(models.Decoder(config))
    logits, cache = generation.prefill(step, decoder, cache, text, jnp.full(rows, length))

    def choose(logits: Array, index: Array) -> tuple[Array, Array]:
        of_codes = guided(logits[:, size:], guidance, num)  # [B, K]
        code = jax.vmap(sampler)(generation.row_keys(rngs, index), of_codes)
        log_probs = jnp.take_along_axis(sampler.log_probs(of_codes), code[:, None], 1)
        return code, log_probs[:, 0]

    def advance(carry: Any, index: Array) -> tuple[Any, Any]:
        code, cache = carry
        fed = jnp.tile(code, rows // num)[:, None] + size  # [R, 1]
        position = jnp.full((rows, 1), length + index - 1)
        logits, cache = step(decoder, cache, fed, position)
        code, log_prob = choose(logits[:, 0], index)
        return (code, cache), (code, log_prob)

    first = choose(logits, jnp.int32(0))
    steps = jnp.arange(1, math.prod(model.grid))
    _, others = jax.lax.scan(advance, (first[0], cache), steps)
    grid = lambda one, rest: jnp.concatenate([one[None], rest]).T.reshape(num, *model.grid)
    codes, log_probs = map(grid, first, others)
    images = model.codes.decode(params["first_stage"], codes)
    return jnp.clip(images, -1, 1), Info(codes, log_probs)


def _dtype(params: Params) -> Any:
    return jax.tree.leaves(params)[0].dtype
