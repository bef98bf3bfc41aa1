"""Variational autoencoders: exact bounds, and likelihoods that are summed over pixels.

>>> import jax.numpy as jnp
>>> from research import vae
>>> decoded = vae.likelihoods.Bernoulli(logits=jnp.zeros((2, 28, 28)))
>>> log_likelihood = vae.likelihoods.sum_pixels(decoded.log_prob(jnp.ones((2, 28, 28))))
>>> kl = vae.gaussians.kl(mean=jnp.zeros((2, 50)), log_var=jnp.zeros((2, 50))).sum(1)
>>> [round(float(bound), 2) for bound in log_likelihood - kl]  # -784 log 2
[-543.43, -543.43]

    annealing.py    the evidence between two stochastic bounds, by annealed importance sampling
    bounds.py       ELBO, IWAE, beta and free bits, log-likelihood by many draws, their diagnosis
    gaussians.py    diagonal Gaussians: KL, chi^2, density, reparameterised draws
    diagnostics.py  active units, I_q(x; z), the parts of an average bound, traversals
    gradients.py    estimators as surrogates: pathwise, score function, Gumbel softmax, DReG
    linear.py       the linear-Gaussian model: evidence, posterior, bound, fit, rate-distortion
    likelihoods.py  what a decoder ends in: Bernoulli, Gaussian, bytes, discretised logistics
    networks/       encoders and decoders: perceptrons, convolutions, ladder, image autoencoder
    quantize.py     codes: vector, residual and scalar quantisation, their codebooks and usage
"""

from research.vae import (
    annealing,
    bounds,
    diagnostics,
    gaussians,
    gradients,
    likelihoods,
    linear,
    networks,
    quantize,
)

PARENTS = ("attention", "vision")

__all__ = [
    "annealing",
    "bounds",
    "diagnostics",
    "gaussians",
    "gradients",
    "likelihoods",
    "linear",
    "networks",
    "quantize",
]
