"""Adversarial networks: games whose convergence is computed before it is trained.

>>> import jax.numpy as jnp
>>> from research import gan
>>> real, fake = jnp.array([2.0, -1.0]), jnp.array([0.5, -3.0])  # logits of the critic
>>> round(float(gan.losses.hinge.discriminator(real, fake)), 3)  # mean of (0, 2) and of (1.5, 0)
1.75
>>> round(float(gan.losses.hinge.generator(real, fake)), 3)
1.25

    dirac.py        the one-parameter game: fields, eigenvalues, steps, what converges
    losses.py       what critic and generator minimise: minimax to relativistic pairing
    mixing.py       which operation of a function mixes the examples of a batch, by tracing
    penalties.py    slopes: R1, R2, gradient penalty, path length; orthogonal filters
    spectral.py     weights divided by their largest singular value, by carried power iteration
"""

from research.gan import dirac, losses, mixing, penalties, spectral

PARENTS = ("vision", "attention")

__all__ = ["dirac", "losses", "mixing", "penalties", "spectral"]
