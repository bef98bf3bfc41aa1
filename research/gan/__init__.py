"""Adversarial networks: games whose convergence is computed before it is trained.

>>> import jax.numpy as jnp
>>> from research import gan
>>> real, fake = jnp.array([2.0, -1.0]), jnp.array([0.5, -3.0])  # logits of the critic
>>> round(float(gan.losses.hinge.discriminator(real, fake)), 3)  # mean of (0, 2) and of (1.5, 0)
1.75
>>> round(float(gan.losses.hinge.generator(real, fake)), 3)
1.25
>>> field = gan.dirac.field(gan.losses.hinge, r1=1.0)  # the smallest game, with R1 of gamma 1
>>> round(float(gan.dirac.radius(gan.dirac.alternating(field, 0.1))), 3)  # below 1: it converges
0.949

    augment.py      DiffAugment; adaptive augmentation and its controller
    biggan.py       BigGAN: shared embedding, conditional batch norm, attention, projection
    dcgan.py        DCGAN, the plain pair of networks
    dirac.py        the one-parameter game: fields, eigenvalues, steps, what converges
    games.py        what is played: two functions, a loss, penalties
    losses.py       what critic and generator minimise: minimax to relativistic pairing
    mixing.py       which operation of a function mixes the examples of a batch, by tracing
    patches.py      a critic of patches, and losses over all of them
    penalties.py    slopes: R1, R2, gradient penalty, path length; orthogonal filters
    r3gan.py        R3GAN: residual networks without normalisation
    spectral.py     weights divided by their largest singular value, by carried power iteration
    stylegan2/      StyleGAN2: mapping, modulated synthesis, residual discriminator
    training.py     a round of the game as one training step
"""

from research.gan import (
    augment,
    biggan,
    dcgan,
    dirac,
    games,
    losses,
    mixing,
    patches,
    penalties,
    r3gan,
    spectral,
    stylegan2,
    training,
)

PARENTS = ("vision", "attention")

__all__ = [
    "augment",
    "biggan",
    "dcgan",
    "dirac",
    "games",
    "losses",
    "mixing",
    "patches",
    "penalties",
    "r3gan",
    "spectral",
    "stylegan2",
    "training",
]
