"""Encoders and decoders as Flax modules, whose `apply` the bounds and the training step take.

heads.py          what a decoder ends in: numbers of a pixel made into a likelihood
single.py         terms of the bound, of any encoder and decoder with one stochastic layer
perceptrons.py    the networks of the IWAE paper: one or more stochastic layers of vectors
convolutional.py  one stochastic layer of vectors between convolutions
ladder.py         the very deep VAE: stochastic layers from the coarsest size to the finest
autoencoder.py    images to smaller images of latents and back, in the shape of Stable Diffusion
"""

from research.vae.networks import (
    autoencoder,
    convolutional,
    heads,
    ladder,
    perceptrons,
    single,
)
from research.vae.networks.autoencoder import Autoencoder
from research.vae.networks.convolutional import Convolutional
from research.vae.networks.ladder import Ladder
from research.vae.networks.perceptrons import Perceptron

__all__ = [
    "Autoencoder",
    "Convolutional",
    "Ladder",
    "Perceptron",
    "autoencoder",
    "convolutional",
    "heads",
    "ladder",
    "perceptrons",
    "single",
]
