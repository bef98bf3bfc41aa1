"""Synthetic runs of known laws, and a fit to some of them."""

import functools

import numpy as np

from research.scaling_laws import fitting, laws, runs

EQ_10 = {"E": 1.69337368, "A": 406.401018, "B": 410.722827, "alpha": 0.33917084, "beta": 0.2849083}
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


@functools.cache
def noisy_fit():
    """Chinchilla's law fitted to its runs with noise of 1 %."""
    return fitting.fit(laws.chinchilla, chinchilla(noise=0.01))


def closed_form(p, compute):
    """Optimal parameters and tokens of Chinchilla's law, Hoffmann et al. 2022, eq. (4)."""
    total = p["alpha"] + p["beta"]
    g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / total)
    return g * (compute / 6) ** (p["beta"] / total), (compute / 6) ** (p["alpha"] / total) / g
