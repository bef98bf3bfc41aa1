"""Tiny models of each kind of folder, and parameters that any other library can make too."""

import functools

import numpy as np

from research.text_to_image import model, schedules, text_encoder, tokens, unet, weights
from research.transformers import layers
from research.vae.networks import autoencoder

LETTERS = "!abcdefgilnoqrstu"
MERGES = (("r", "e"), ("re", "d</w>"), ("s", "q"), ("l", "e</w>"))


def tokenizer(pad=tokens.END, max_length=9):
    """Letters, four merges and the special words."""
    merged = ["".join(pair) for pair in MERGES]
    names = [*LETTERS, *(letter + "</w>" for letter in LETTERS), *merged, tokens.START, tokens.END]
    return tokens.Tokenizer(tuple(names), MERGES, pad=pad, max_length=max_length)


VOCAB_SIZE = len(tokenizer())


def encoder(**options):
    sizes = {"hidden_dim": 12, "vocab_size": VOCAB_SIZE, "max_length": 9}
    return text_encoder.clip(2, 8, 2, **{**sizes, **options})


UNET = unet.UNet(
    channels=(4, 8), num_blocks=1, depths=(1, 0), num_heads=2, context_dim=8, num_groups=2
)
VAE = autoencoder.Autoencoder(channels=(4, 8), num_blocks=1, num_groups=2)
SD1 = model.Model(UNET, VAE, encoder(), tokenizer(), schedules.Schedule(), sample_size=(4, 8))
SD2 = model.Model(
    unet=UNET.clone(num_heads=(1, 4), linear=True),
    vae=VAE,
    text_encoder=encoder(activation=layers.gelu_exact),
    tokenizer=tokenizer("!"),
    schedule=schedules.Schedule(kind="v", zero_terminal_snr=True, spacing="trailing"),
    sample_size=(8, 8),
)
XL = model.Model(
    unet=UNET.clone(
        depths=(0, 2), middle_depth=2, num_heads=(1, 2), context_dim=16, pooled_dim=6, size_dim=4,
        linear=True,
    ),
    vae=VAE.clone(point_maps=False),
    text_encoder=encoder(skip_last=True),
    text_encoder_2=encoder(
        skip_last=True, projection_dim=6, activation=layers.gelu_exact, epsilon=1e-4
    ),
    tokenizer=tokenizer(),
    tokenizer_2=tokenizer("!"),
    schedule=schedules.Schedule(),
    scale=0.13025,
    shift=0.5,
    sample_size=(8, 8),
    zero_negative=True,
)  # fmt: skip
INPAINTING = model.Model(
    UNET.clone(in_channels=9), VAE, encoder(end_token=3), tokenizer(), schedules.Schedule()
)
MODELS = {"sd1": SD1, "sd2": SD2, "xl": XL, "inpainting": INPAINTING}


def filled_tensors(net):
    """Tensors by name: tensor k in alphabetical order holds sin(0.7 i + k) / 5, norms one more."""
    filled = {}
    for k, (name, shape) in enumerate(sorted(weights.tensor_shapes(net).items())):
        wave = 0.2 * np.sin(0.7 * np.arange(np.prod(shape)) + k).reshape(shape)
        filled[name] = wave + ("norm" in name and name.endswith("weight"))
    return filled


@functools.cache
def filled(name):
    """Parameters of `MODELS[name]`, float64."""
    networks = {part: getattr(MODELS[name], part) for part in weights.NETWORKS}
    return {
        part: weights.from_tensors(net, filled_tensors(net))
        for part, net in networks.items()
        if net is not None
    }


def wave(*shape, rate=0.3):
    """sin(rate (i + 1)), as an array."""
    return np.sin(rate * (np.arange(np.prod(shape)) + 1)).reshape(shape)
