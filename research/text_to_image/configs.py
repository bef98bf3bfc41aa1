"""Stable Diffusion's networks as frozen values: shapes alone, without weights.

>>> import jax, jax.numpy as jnp
>>> from research.text_to_image import configs
>>> shapes = jax.eval_shape(
...     configs.STABLE_DIFFUSION_1_5.unet.init, jax.random.key(0), jnp.zeros((1, 64, 64, 4)),
...     jnp.zeros(1, int), jnp.zeros((1, 77, 768)))
>>> sum(leaf.size for leaf in jax.tree.leaves(shapes))
859520964
"""

from __future__ import annotations

import dataclasses

from research.text_to_image import text_encoder, unet
from research.transformers import layers
from research.vae.networks import autoencoder


@dataclasses.dataclass(frozen=True)
class Networks:
    """The modules of a version.

    Attributes:
        unet: `init(rng, latents, t, context)`.
        vae: `init(rng, images)`.
        text_encoder, text_encoder_2: `init(rng, tokens)`; the second is XL's.
        scale: what the VAE's latents are multiplied by for the U-Net.
        sample_size: height and width of the latents that it was trained on.
    """

    unet: unet.UNet
    vae: autoencoder.Autoencoder
    text_encoder: text_encoder.TextEncoder
    text_encoder_2: text_encoder.TextEncoder | None = None
    scale: float = 0.18215
    sample_size: int = 64


_OPENCLIP = dict(activation=layers.gelu_exact)

STABLE_DIFFUSION_1_5 = Networks(
    unet=unet.UNet(),
    vae=autoencoder.PUBLISHED["sd1"].shape,
    text_encoder=text_encoder.clip(12, 768, 12),
)
STABLE_DIFFUSION_1_5_INPAINTING = dataclasses.replace(
    STABLE_DIFFUSION_1_5, unet=unet.UNet(in_channels=9)
)
STABLE_DIFFUSION_2_1 = Networks(
    unet=unet.UNet(num_heads=(5, 10, 20, 20), context_dim=1024, linear=True),
    vae=autoencoder.PUBLISHED["sd1"].shape,
    # OpenCLIP-H without the last of its 24 layers.
    text_encoder=text_encoder.clip(23, 1024, 16, **_OPENCLIP),
    sample_size=96,
)
STABLE_DIFFUSION_XL = Networks(
    unet=unet.UNet(
        channels=(320, 640, 1280),
        depths=(0, 2, 10),
        middle_depth=10,
        num_heads=(5, 10, 20),
        context_dim=2048,
        pooled_dim=1280,
        linear=True,
    ),
    vae=autoencoder.PUBLISHED["sdxl"].shape,
    text_encoder=text_encoder.clip(12, 768, 12, skip_last=True),
    text_encoder_2=text_encoder.clip(
        32, 1280, 20, skip_last=True, projection_dim=1280, **_OPENCLIP
    ),
    scale=autoencoder.PUBLISHED["sdxl"].scale,
    sample_size=128,
)
