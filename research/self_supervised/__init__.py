"""Self-supervised learning: losses that are right on every device count, and honest probes.

>>> import jax.numpy as jnp
>>> from research import self_supervised
>>> z = jnp.eye(4)  # [B, D], the embeddings of four images, equal in both views
>>> round(float(self_supervised.losses.nt_xent(z, z, temperature=0.5)), 4)
0.5944
>>> simplex = z - 0.25  # the optimum that theory gives
>>> round(float(self_supervised.losses.nt_xent(simplex, simplex, temperature=0.5)), 4)
0.3485

    cached.py     exact gradients of a batch that is encoded in chunks
    checks.py     what the losses check and widen in the same way
    graphs.py     finite augmentation graphs, on which optima are known
    heads.py      projectors, predictors, prototypes
    layout.py     the whole batch, wherever its parts lie
    losses/       contrastive, without negatives, distillation
    methods.py    SimCLR to DINO as frozen values
    networks.py   encoders and heads as parts, pure functions with an explicit state
    queues.py     keys as negatives, first in, first out
    teachers.py   momentum, moving averages, centre, temperature
    training.py   a method and its networks as a loss for the shared training step
"""

from research.self_supervised import (
    cached,
    checks,
    graphs,
    heads,
    layout,
    losses,
    methods,
    networks,
    queues,
    teachers,
    training,
)

PARENTS = ("attention", "transformers", "vision")

__all__ = [
    "cached",
    "checks",
    "graphs",
    "heads",
    "layout",
    "losses",
    "methods",
    "networks",
    "queues",
    "teachers",
    "training",
]
