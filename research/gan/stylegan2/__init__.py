"""StyleGAN2: a generator of styles and a residual discriminator, Karras et al., arXiv:1912.04958.

layers.py         modulated convolution, equalised maps, resampling convolutions, deviation
generator.py      mapping, synthesis, truncation, mixing
discriminator.py  residual blocks, deviation of the batch, projection of labels
"""

from research.gan.stylegan2 import discriminator, generator, layers
from research.gan.stylegan2.discriminator import Discriminator
from research.gan.stylegan2.generator import Generator, Mapping, mix, truncate
from research.gan.stylegan2.layers import minibatch_deviation, modulated_conv

__all__ = [
    "Discriminator",
    "Generator",
    "Mapping",
    "discriminator",
    "generator",
    "layers",
    "minibatch_deviation",
    "mix",
    "modulated_conv",
    "truncate",
]
