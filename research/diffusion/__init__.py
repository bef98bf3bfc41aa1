"""Score-based generative modelling through SDEs: processes, scores, samplers, likelihoods.

>>> import jax
>>> from research import diffusion
>>> vp = diffusion.processes.vp()
>>> score = diffusion.oracles.mixture(vp, [0.5, 0.5], [[-3.0], [3.0]], 0.1)
>>> solver, grid = diffusion.samplers.heun(), diffusion.samplers.log_snr_grid(20)
>>> rng = jax.random.key(0)
>>> x, info = diffusion.sample(score, vp, rng, (64, 1), solver=solver, grid=grid)
>>> x.shape, info.nfe, bool((abs(abs(x) - 3) < 1).all())
((64, 1), 40, True)

The currency between the rooms is the score function `score(x, t)`: [B, ...], [B] -> [B, ...].
`diffusion.predictions.to_score(process, network, kind="noise")` makes one of a network.

    processes.py         noising processes as frozen values (vp, ve, edm, cosine, flow, your own)
    curves.py            the scalar curves that they are made of
    predictions.py       data, noise, score, v, velocity: one as another; EDM's preconditioning
    losses.py            denoising, flow matching, implicit and sliced score matching
    variational.py       bounds on the likelihood as losses
    weightings.py draws.py   which times a loss sees; what it draws for a batch
    guidance.py          guided scores and the law that they sample
    inverse_problems.py  samples given a linear measurement
    latent/              diffusion in the latents of a frozen autoencoder
    discrete.py          DDPM's table of betas as a process and back
    sampling/            samplers (the one to import), solvers, solver_tables, exponential,
                         pseudo_linear, stochastic, adaptive, grids, moments
    densities/           likelihood, divergence, bits, fokker_planck
    networks/            unet, dit, mlp, embeddings, layers
    oracles/             exact scores: Gaussians, mixtures, random fields, data sets
"""

from library import power_ema
from research.diffusion import (
    curves,
    discrete,
    draws,
    guidance,
    inverse_problems,
    latent,
    losses,
    oracles,
    predictions,
    processes,
    variational,
    weightings,
)
from research.diffusion.densities import bits, divergence, fokker_planck, likelihood
from research.diffusion.networks import dit, embeddings, layers, mlp, unet
from research.diffusion.sampling import (
    adaptive,
    exponential,
    grids,
    moments,
    pseudo_linear,
    samplers,
    solver_tables,
    solvers,
    stochastic,
)
from research.diffusion.sampling.samplers import sample

PARENTS = ("attention", "vision", "vae")

__all__ = [
    "adaptive",
    "bits",
    "curves",
    "discrete",
    "dit",
    "divergence",
    "draws",
    "embeddings",
    "exponential",
    "fokker_planck",
    "grids",
    "guidance",
    "inverse_problems",
    "latent",
    "layers",
    "likelihood",
    "losses",
    "mlp",
    "moments",
    "oracles",
    "power_ema",
    "predictions",
    "processes",
    "pseudo_linear",
    "sample",
    "samplers",
    "solver_tables",
    "solvers",
    "stochastic",
    "unet",
    "variational",
    "weightings",
]
