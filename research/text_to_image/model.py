"""A latent diffusion model of text as one frozen value: its networks, tokens and schedule.

It holds no parameters: these are `{"text_encoder", "unet", "vae"}` (and "text_encoder_2"), each
`{"params": ...}`, and go through every call, so that the value can be a static argument of a
compiled program.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Params
from research.text_to_image import schedules, text_encoder, tokens
from research.vae.networks import autoencoder

_SLACK = 1e-4  # by which a resized image may leave [-1, 1]


@dataclasses.dataclass(frozen=True)
class Model:
    """Text, latents and images, one to the other.

    Attributes:
        unet: `apply(params, latents, t, context, pooled, sizes)`, e.g. `unet.UNet` or `dit.DiT`.
        vae: the first stage.
        text_encoder, tokenizer: of the text.
        schedule: the table of noise and what the network predicts.
        scale, shift: the network's latents are scale (z - shift) of the first stage's z.
        text_encoder_2, tokenizer_2: of version XL.
        sample_size: height and width of the latents it was trained on.
        zero_negative: whether an absent negative prompt is a context of zeros (XL's files say so
            by `force_zeros_for_empty_prompt`), not the text "".
    Raises:
        ValueError: for a first stage of another latent width, texts of another width, a second
            encoder without its tokeniser or projection, more tokens than a text encoder has rows
            or places for, or a scale, shift or size that is no such number.
    """

    unet: nn.Module
    vae: autoencoder.Autoencoder
    text_encoder: text_encoder.TextEncoder
    tokenizer: tokens.Tokenizer
    schedule: schedules.Schedule
    scale: float = 0.18215
    shift: float = 0.0
    text_encoder_2: text_encoder.TextEncoder | None = None
    tokenizer_2: tokens.Tokenizer | None = None
    sample_size: tuple[int, int] = (64, 64)
    zero_negative: bool = False

    def __post_init__(self) -> None:
        if self.vae.latent_dim != self.unet.out_channels:
            raise ValueError(
                f"a first stage of {self.vae.latent_dim} latent channels: the network makes "
                f"{self.unet.out_channels}"
            )
        if self.unet.in_channels not in (self.vae.latent_dim, 2 * self.vae.latent_dim + 1):
            raise ValueError(
                f"a network that reads {self.unet.in_channels} channels: expected "
                f"{self.vae.latent_dim}, or {2 * self.vae.latent_dim + 1} to inpaint"
            )
        if (self.text_encoder_2 is None) != (self.tokenizer_2 is None):
            raise ValueError("text_encoder_2 and tokenizer_2: expected both or none")
        encoders = [e for e in (self.text_encoder, self.text_encoder_2) if e is not None]
        width = sum(encoder.stack.width for encoder in encoders)
        if width != self.unet.context_dim:
            raise ValueError(
                f"texts of width {width}: the network attends to {self.unet.context_dim}"
            )
        pooled = encoders[1].projection_dim if encoders[1:] else None
        if pooled != self.unet.pooled_dim:
            raise ValueError(
                f"pooled texts of width {pooled}: the network expects {self.unet.pooled_dim}"
            )
        if not isinstance(self.scale, numbers.Real) or not 0 < self.scale < math.inf:
            raise ValueError(f"scale={self.scale}: expected a positive number")
        if not isinstance(self.shift, numbers.Real) or not math.isfinite(self.shift):
            raise ValueError(f"shift={self.shift}: expected a finite number")
        if len(self.sample_size) != 2:
            raise ValueError(f"sample_size={self.sample_size}: expected (height, width)")
        for side in self.sample_size:
            checks.count("sample_size", side)
        tokenizers = (self.tokenizer, self.tokenizer_2)
        for encoder, tokenizer in zip(encoders, tokenizers):
            num, length = len(tokenizer), tokenizer.max_length
            if encoder.vocab_size < num or encoder.max_length < length:
                raise ValueError(
                    f"a tokeniser of {num} tokens, {length} in a row: the text encoder has "
                    f"{encoder.vocab_size} and {encoder.max_length}"
                )

    @property
    def inpaints(self) -> bool:
        """Whether the network reads a mask and masked latents beside the noisy ones."""
        return self.unet.in_channels != self.vae.latent_dim

    @property
    def factor(self) -> int:
        """Pixels of a side of the image for one of the latents."""
        return 2 ** (len(self.vae.channels) - 1)

    def tokens(self, texts: Sequence[str]) -> Any:
        """[B, max_length] int32 of B texts; for two encoders a pair of them."""
        first = self.tokenizer.encode(texts)
        return first if self.tokenizer_2 is None else (first, self.tokenizer_2.encode(texts))

    def encode_text(self, params: Params, tokens: Any) -> Array:
        """What the network attends to.

        Args:
            params: of all networks.
            tokens: [B, T] int; for two encoders a pair, or one array for both.
        Returns:
            [B, T, D]; for two encoders their hidden states side by side.
        Raises:
            ValueError: for a pair where there is one encoder; as `TextEncoder`.
        """
        first, second = self._pair(tokens)
        hidden = self.text_encoder.apply(params["text_encoder"], first)[0]
        if self.text_encoder_2 is None:
            return hidden
        other = self.text_encoder_2.apply(params["text_encoder_2"], second)[0]
        return jnp.concatenate([hidden, other], axis=-1)

    def pooled_text(self, params: Params, tokens: Any) -> Array:
        """[B, P], the second encoder's projection of the end token; arguments as `encode_text`.

        Raises:
            ValueError: for a model without a second encoder.
        """
        if self.text_encoder_2 is None:
            raise ValueError("pooled_text of a model with one text encoder: expected two, as in XL")
        return self.text_encoder_2.apply(params["text_encoder_2"], self._pair(tokens)[1])[1]

    def predict(
        self,
        params: Params,
        latents: Array,
        t: Array,
        context: Array,
        pooled: Array | None = None,
        sizes: Array | None = None,
    ) -> Array:
        """The network's prediction: noise, v or data, as `schedule.kind` says.

        Args:
            params: of all networks.
            latents: [B, h, w, C], noisy, in the network's space.
            t: [B] int, steps of the schedule's table.
            context: [B, T, D].
            pooled, sizes: [B, P], [B, 6], of version XL.
        Returns:
            [B, h, w, C].
        """
        return self.unet.apply(params["unet"], latents, t, context, pooled, sizes)

    def encode(self, params: Params, images: Array) -> tuple[Array, Array]:
        """Mean and log variance [B, h, w, C] of the first stage's latents, not scaled.

        Args:
            params: of all networks.
            images: [B, H, W, 3] float in [-1, 1].
        Raises:
            ValueError: for concrete images outside [-1, 1]; as `Autoencoder.encode`.
        """
        if not isinstance(images, jax.core.Tracer) and np.size(images):
            largest = float(abs(images).max())
            if not largest <= 1 + _SLACK:
                raise ValueError(f"images hold {largest:.4g} in size: expected floats in [-1, 1]")
        return self.vae.apply(params["vae"], images, method="encode")

    def decode(self, params: Params, latents: Array) -> Array:
        """Images [B, H, W, 3], about in [-1, 1], of latents [B, h, w, C] as `encode` gives them."""
        return self.vae.apply(params["vae"], latents, method="decode")

    def _pair(self, tokens: Any) -> tuple[Array, Array]:
        pair = tokens if isinstance(tokens, (tuple, list)) else (tokens, tokens)
        if len(pair) != 2 or (pair is tokens and self.text_encoder_2 is None):
            raise ValueError(f"{len(pair)} arrays of tokens: expected [B, T] for each text encoder")
        return pair[0], pair[1]
