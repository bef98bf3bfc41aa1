"""Self-supervised learning: losses that are right on every device count, and honest probes.

>>> import jax.numpy as jnp
>>> from research import self_supervised
>>> z = jnp.eye(4)  # [B, D], the embeddings of four images, equal in both views
>>> round(float(self_supervised.losses.nt_xent(z, z, temperature=0.5)), 4)
0.5944
>>> simplex = z - 0.25  # the optimum that theory gives
>>> round(float(self_supervised.losses.nt_xent(simplex, simplex, temperature=0.5)), 4)
0.3485

    cached.py       exact gradients of a batch that is encoded in chunks
    checks.py       what the losses check and widen in the same way
    diagnostics.py  what alignment, spread and rank say, and the verdict: what collapsed
    dinov2.py       DINOv2's vision transformers, with layer scale
    finetune.py     one path from an encoder to labels: frozen, head first, by layers
    graphs.py       finite augmentation graphs, on which optima are known
    heads.py        projectors, predictors, prototypes
    layout.py       the whole batch, wherever its parts lie
    linear_byol.py  linear BYOL's differential equation
    losses/         contrastive, without negatives, distillation
    mae.py          masked autoencoders and their loss for the shared step
    masking.py      hidden patches, T5's spans, whole words; the loss of hidden patches
    methods.py      SimCLR to DINO as frozen values
    names.py        which tensor of a checkpoint is which variable
    networks.py     encoders and heads as parts, pure functions with an explicit state
    positions.py    fixed sines, and tables interpolated for another grid
    probes.py       linear probes at their optimum, neighbours, fingerprints
    queues.py       keys as negatives, first in, first out
    teachers.py     momentum, moving averages, centre, temperature
    training.py     a method and its networks as a loss for the shared training step
    views.py        random views of images by the papers' recipes, one key per image
    weights.py      DINOv2, ViT-MAE and residual networks from Hugging Face's folders, both ways

`weights` needs the package safetensors where a file is read or written.
"""

from research.self_supervised import (
    cached,
    checks,
    diagnostics,
    dinov2,
    finetune,
    graphs,
    heads,
    layout,
    linear_byol,
    losses,
    mae,
    masking,
    methods,
    names,
    networks,
    positions,
    probes,
    queues,
    teachers,
    training,
    views,
    weights,
)

PARENTS = ("attention", "transformers", "vision")

__all__ = [
    "cached",
    "checks",
    "diagnostics",
    "dinov2",
    "finetune",
    "graphs",
    "heads",
    "layout",
    "linear_byol",
    "losses",
    "mae",
    "masking",
    "methods",
    "names",
    "networks",
    "positions",
    "probes",
    "queues",
    "teachers",
    "training",
    "views",
    "weights",
]
