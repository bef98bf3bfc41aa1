"""Text to image by diffusion in a learned latent space: Stable Diffusion 1, 2 and XL.

>>> import jax, jax.numpy as jnp
>>> from research import text_to_image
>>> encoder = text_to_image.text_encoder.clip(depth=2, width=8, num_heads=2, vocab_size=20)
>>> tokens = jnp.array([[18, 3, 4, 19]])  # start, two words, end
>>> hidden, pooled = encoder.apply(encoder.init(jax.random.key(0), tokens), tokens)
>>> hidden.shape  # [B, T, D], what an image network attends to
(1, 4, 8)

With a folder of files (`model_index.json`, `unet/`, ...):

    model, params = text_to_image.weights.load("folder")
    images, info = text_to_image.pipeline.generate(model, params, ["a red circle"], rng)

    model.py             the model as one value: its networks, tokeniser, schedule
    weights.py           diffusers folders in and out
    pipeline.py          generate, image to image, inpaint; denoising.py, checks.py: its parts
    schedules.py         scheduler files as values; scheduler_fields.py: their fields
    configs.py           the published networks' sizes
    unet.py              the cross-attention U-Net; blocks.py: its parts
    dit.py               a smaller transformer that attends to text, for own trainings
    text_encoder.py      CLIP's text encoder
    tokens.py            CLIP's tokeniser
    names.py             which tensor of a file is which parameter
    network_fields.py    a config.json as a network, and back
    first_stage.py       training the image autoencoder; first_stage_game.py: beside its critic
    training.py          the loss of a latent model, prompts left out; vocabularies.py: of own texts
    inversion.py         textual inversion: one new word's row
    autoregressive.py    DALL-E's route: codes of an image after the tokens of its text
    scorer.py            a small CLIP, to rank samples
"""

from research.text_to_image import (
    autoregressive,
    blocks,
    configs,
    dit,
    first_stage,
    first_stage_game,
    inversion,
    model,
    names,
    network_fields,
    pipeline,
    schedules,
    scorer,
    text_encoder,
    tokens,
    training,
    unet,
    vocabularies,
    weights,
)
from research.text_to_image.model import Model

PARENTS = ("attention", "transformers", "language_models", "vae", "gan", "diffusion", "vision")

__all__ = [
    "Model",
    "autoregressive",
    "blocks",
    "configs",
    "dit",
    "first_stage",
    "first_stage_game",
    "inversion",
    "model",
    "names",
    "network_fields",
    "pipeline",
    "schedules",
    "scorer",
    "text_encoder",
    "tokens",
    "training",
    "unet",
    "vocabularies",
    "weights",
]
