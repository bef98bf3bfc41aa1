"""Exact scores, densities and maps under any process: what samplers and losses are held against.

gaussians.py  Gaussians and Gaussian mixtures
fields.py     Gaussian random fields of image size, and a data set as its own mixture
flows.py      the exact probability flow of a mixture on the line
"""

from research.diffusion.oracles import fields, flows, gaussians
from research.diffusion.oracles.fields import Empirical, RandomField, empirical, random_field
from research.diffusion.oracles.flows import mixture_flow
from research.diffusion.oracles.gaussians import Gaussian, Mixture, gaussian, mixture

__all__ = [
    "Empirical",
    "Gaussian",
    "Mixture",
    "RandomField",
    "empirical",
    "fields",
    "flows",
    "gaussian",
    "gaussians",
    "mixture",
    "mixture_flow",
    "random_field",
]
