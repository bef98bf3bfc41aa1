"""Diffusion in the latents of a frozen first stage, with any autoencoder, process and sampler.

Vahdat et al. 2021, arXiv:2106.05931; Rombach et al. 2022, arXiv:2112.10752.

    scaling = latent.measure(encode, batches)
    stage = latent.FirstStage(encode, decode, scaling.scale, scaling.shift)
    loss_fn = latent.on_latents(losses.denoising_score_matching(process, apply), stage)
    z, info = samplers.sample(score, process, rng, shape, solver=solver, grid=grid)
    images = stage.to_image(z)

    first_stages.py  an encoder and a decoder as one value; its scale, measured; losses on latents
    bound.py         the bound on log p(x): likelihood, latent density, entropy
    caches.py        a data set's latents on disk, gone on with after an interrupt
    edits.py         image to image by strength, inpainting
    tiles.py         decoding and encoding in tiles, in constant memory
"""

from research.diffusion.latent.bound import Bound, log_likelihood_bound, log_weights
from research.diffusion.latent.caches import Cached, cached, fingerprint
from research.diffusion.latent.edits import Edit, image_to_image, inpaint, to_latent_mask
from research.diffusion.latent.first_stages import FirstStage, Scaling, measure, on_latents
from research.diffusion.latent.tiles import seam_errors, tiled_decode, tiled_encode

__all__ = [
    "Bound",
    "Cached",
    "Edit",
    "FirstStage",
    "Scaling",
    "cached",
    "fingerprint",
    "image_to_image",
    "inpaint",
    "log_likelihood_bound",
    "log_weights",
    "measure",
    "on_latents",
    "seam_errors",
    "tiled_decode",
    "tiled_encode",
    "to_latent_mask",
]
