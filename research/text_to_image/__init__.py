"""Text to image: Stable Diffusion's networks, their files, and text as tokens.

>>> import jax, jax.numpy as jnp
>>> from research import text_to_image
>>> encoder = text_to_image.text_encoder.clip(depth=2, width=8, num_heads=2, vocab_size=20)
>>> tokens = jnp.array([[18, 3, 4, 19]])  # start, two words, end
>>> hidden, pooled = encoder.apply(encoder.init(jax.random.key(0), tokens), tokens)
>>> hidden.shape  # [B, T, D], what an image network attends to
(1, 4, 8)

    text_encoder.py  CLIP's text encoder
    tokens.py        CLIP's tokeniser, from a folder or from OpenAI's file
"""

from research.text_to_image import text_encoder, tokens

PARENTS = ("attention", "transformers", "language_models", "vae", "gan", "diffusion")

__all__ = ["text_encoder", "tokens"]
