"""Synthetic runs of known laws."""

import numpy as np

from research.scaling_laws import laws, runs

TRUE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def grid(num_sizes=6, num_ratios=5):
    """Parameters and tokens of a full grid, [N]."""
    size = np.repeat(np.geomspace(1e7, 1e10, num_sizes), num_ratios)
    return size, size * np.tile(np.geomspace(2, 500, num_ratios), num_sizes)


def chinchilla(noise=0.0, seed=0, **kwargs):
    """Runs of Chinchilla's law with noise in log loss."""
    size, tokens = grid(**kwargs)
    loss = laws.chinchilla.predict(TRUE, parameters=size, tokens=tokens)
    loss = loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(size)))
    return runs.Runs(parameters=size, tokens=tokens, loss=loss)
